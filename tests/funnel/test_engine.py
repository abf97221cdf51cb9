"""The whole funnel over an index in memory: queries, options, threads, faults, close."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from funnel import Funnel, FunnelSettings
from funnel.cache.base import CacheRequest, Compute, QueryCache, Served
from funnel.cache.null import NullCache
from funnel.errors import Closed, ConfigError, InputError, StageError
from funnel.types import Candidate
from tests.fakes import FakeEncoder, FloatArray

CORPUS = [
    {
        "id": "reset",
        "title": "Reset a password",
        "text": "Press forgot password, open the mail.",
    },
    {"id": "change", "title": "Change a password", "text": "Settings, security, new password."},
    {"id": "refund", "title": "Refunds", "text": "Money goes back to the card.", "lang": "en"},
    {"id": "erstattung", "title": "Erstattung", "text": "Geld zurück auf die Karte.", "lang": "de"},
    {"id": "ship", "title": "Shipping", "text": "A parcel takes three days.", "lang": "en"},
]


class FakeModels:
    """A pool that holds one encoder."""

    def __init__(self, encoder: FakeEncoder) -> None:
        self._encoder = encoder

    def encoder(self, name: str) -> FakeEncoder:
        return self._encoder


def longest_first(query: str, candidates: Sequence[Candidate]) -> list[float]:
    return [float(len(candidate.document.text)) for candidate in candidates]


def settings(**changes: Any) -> FunnelSettings:
    data: dict[str, Any] = {
        "stages": [
            {"kind": "hybrid", "k": 4},
            {"kind": "callable", "name": "length", "function": "length", "k": 3},
        ],
        "qdrant": ":memory:",
    }
    return FunnelSettings.from_mapping({**data, **changes})


def make(
    encoder: FakeEncoder | None = None,
    function: Any = longest_first,
    cache: QueryCache | None = None,
    **changes: Any,
) -> Funnel:
    return Funnel(
        settings(**changes),
        functions={"length": function},
        cache=cache or NullCache(),
        models=FakeModels(encoder or FakeEncoder()),  # type: ignore[arg-type]
    )


@pytest.fixture
def funnel() -> Iterator[Funnel]:
    with make() as made:
        made.index(CORPUS)
        yield made


def test_a_query_goes_through_all_stages(funnel: Funnel) -> None:
    """Retrieved by words and vectors, reordered by the function, cut to its k."""
    result = funnel.run("reset my password")
    assert [stage.name for stage in result.trace] == ["hybrid", "length"]
    assert len(result.hits) == 3
    assert [hit.rank for hit in result.hits] == [1, 2, 3]
    assert [hit.score for hit in result.hits] == sorted(
        (h.score for h in result.hits), reverse=True
    )
    assert "hybrid.bm25" in next(h for h in result.hits if h.id == "reset").sources
    assert result.degraded == ()
    assert result.cache.status == "bypass"


def test_k_cuts_and_widens(funnel: Funnel) -> None:
    """Fewer than the last stage keeps, or more than any stage keeps."""
    assert len(funnel.run("password", k=1).hits) == 1
    assert len(funnel.run("password", k=5).hits) == 5
    assert len(funnel.run("password", top_k=2).hits) == 2


def test_k_beyond_the_corpus_is_fine(funnel: Funnel) -> None:
    """All there is, no error."""
    assert len(funnel.run("password", k=1000).hits) == len(CORPUS)


def test_overrides_change_one_call(funnel: Funnel) -> None:
    """The next call is as the settings say."""
    assert len(funnel.run("password", overrides={"length": {"k": 1}}).hits) == 1
    assert len(funnel.run("password").hits) == 3


def test_filters_restrict_the_documents(funnel: Funnel) -> None:
    """Equality on metadata."""
    assert set(funnel.run("card", filters={"lang": "de"}).ids) == {"erstattung"}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"k": 0}, "k: got 0"),
        ({"k": True}, "k: got True"),
        ({"k": 2, "top_k": 3}, "mean the same"),
        ({"deadline_ms": -5}, "deadline_ms: got -5"),
        ({"deadline_ms": float("nan")}, "deadline_ms: got nan"),
        ({"scope": ""}, "scope: got ''"),
        ({"filters": ["lang"]}, "filters: got"),
        ({"filters": {"lang": object()}}, "lang"),
        ({"filters": {"colour": "red"}}, "colour"),
        ({"overrides": {"lenght": {"k": 1}}}, "did you mean 'length'"),
        ({"overrides": {"length": 5}}, "got 5, expected a mapping"),
        ({"overrides": {"length": None}}, "got None, expected a mapping"),
        ({"overrides": {"length": {"function": "x"}}}, "cannot change per call"),
        ({"overrides": {"length": {"k": "many"}}}, "got 'many'"),
    ],
)
def test_wrong_options_are_refused(funnel: Funnel, options: dict[str, Any], part: str) -> None:
    """What was got is in the message."""
    with pytest.raises(InputError) as caught:
        funnel.run("password", **options)
    assert part in str(caught.value)


@pytest.mark.parametrize("text", ["", "  ", None, 5])
def test_wrong_queries_are_refused(funnel: Funnel, text: Any) -> None:
    """Blank text and other types."""
    with pytest.raises(InputError):
        funnel.run(text)


def test_a_huge_query_is_answered_and_noted(funnel: Funnel) -> None:
    """100k characters: cut, answered, said."""
    result = funnel.run("password " * 12_000)
    assert result.notes == ("query_shortened",)
    assert result.hits


def test_an_empty_corpus_gives_no_hits() -> None:
    """Not an error, not degraded."""
    with make() as empty:
        result = empty.run("anything")
    assert result.hits == ()
    assert result.degraded == ()


def test_nan_from_the_encoder_is_a_clear_error() -> None:
    """A broken encoder is named; it never ranks."""

    class BreaksOnQueries(FakeEncoder):
        async def aencode(self, texts: Sequence[str]) -> FloatArray:
            vectors = await super().aencode(texts)
            return np.full_like(vectors, np.nan) if len(texts) == 1 else vectors

    with make(BreaksOnQueries()) as funnel:
        funnel.index(CORPUS)
        with pytest.raises(StageError, match="NaN"):
            funnel.run("password")


def test_a_failing_stage_degrades_visibly() -> None:
    """The order of retrieval is kept and the reason is in the result."""

    def explode(query: str, candidates: Sequence[Candidate]) -> list[float]:
        raise RuntimeError("boom")

    with make(function=explode) as funnel:
        funnel.index(CORPUS)
        result = funnel.run("password")
    assert result.degraded == ("length:error",)
    assert len(result.hits) == 3
    assert "boom" in (result.stage("length").message or "")


def test_a_scope_field_keeps_tenants_apart() -> None:
    """With scope_field a call sees its tenant's documents only, and must name it."""
    with make(scope_field="tenant") as funnel:
        funnel.index({"id": f"{t}-doc", "text": "the password", "tenant": t} for t in "ab")
        assert funnel.run("password", scope="a").ids == ("a-doc",)
        with pytest.raises(InputError, match="every call needs scope"):
            funnel.run("password")
        with pytest.raises(InputError, match="set by scope"):
            funnel.run("password", scope="a", filters={"tenant": "b"})


def test_threads_share_one_funnel(funnel: Funnel) -> None:
    """Many threads, each with its own right answer."""
    expected = {text: funnel.run(text).ids for text in ("password", "card", "parcel")}
    with ThreadPoolExecutor(8) as pool:
        texts = list(expected) * 20
        answers = list(pool.map(lambda text: funnel.run(text).ids, texts))
    assert answers == [expected[text] for text in texts]


async def test_tasks_and_loops_share_one_funnel() -> None:
    """Arun works on any loop, many at once."""
    funnel = make()
    await funnel.aindex(CORPUS)
    results = await asyncio.gather(*(funnel.arun("password") for _ in range(20)))
    assert len({result.ids for result in results}) == 1
    other = await asyncio.to_thread(lambda: asyncio.run(funnel.arun("password")))
    assert other.ids == results[0].ids
    await funnel.aclose()


async def test_run_inside_a_loop_says_use_arun() -> None:
    """Instead of a deadlock or a stack trace."""
    funnel = make()
    with pytest.raises(InputError, match="arun"):
        funnel.run("password")
    await funnel.aclose()


def test_one_string_is_not_a_list(funnel: Funnel) -> None:
    """Its characters would otherwise be run as queries, or deleted as ids."""
    with pytest.raises(InputError, match="got one string"):
        funnel.run_many("password")
    with pytest.raises(InputError, match="expected a list of ids"):
        funnel.delete("12")
    with pytest.raises(InputError, match="got 12, expected texts"):
        funnel.delete([12])  # type: ignore[list-item]


async def test_a_coroutine_starts_a_funnel_and_leaves_its_with_block() -> None:
    """It awaits the start; close at the end of the block works inside the running loop."""
    with make() as funnel:
        assert await funnel.astart() is funnel
        assert await funnel.arun("anything") is not None
    with pytest.raises(Closed):
        await funnel.arun("anything")


def test_run_many_keeps_the_order(funnel: Funnel) -> None:
    """Results come in the order of the queries, one wrong query fails before any runs."""
    results = funnel.run_many(["password", "parcel", "card"], k=1, concurrency=2)
    assert [result.query for result in results] == ["password", "parcel", "card"]
    with pytest.raises(InputError):
        funnel.run_many(["password", " "])


async def test_a_cancelled_caller_stops_its_stages() -> None:
    """Work for nobody is not done."""
    cancelled = threading.Event()
    begun = threading.Event()

    async def slow(query: str, candidates: Sequence[Candidate]) -> list[float]:
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return []

    funnel = make(function=slow)
    await funnel.aindex(CORPUS)
    task = asyncio.create_task(funnel.arun("password"))
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(cancelled.wait, 5)
    await funnel.aclose()


def test_close_is_final_and_idempotent() -> None:
    """After close calls say so; threads are gone."""
    before = set(threading.enumerate())
    funnel = make()
    funnel.run("anything")
    funnel.close()
    funnel.close()
    with pytest.raises(Closed):
        funnel.run("anything")
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), thread.name


@pytest.mark.parametrize("broken", ["cache", "stage"])
def test_a_part_that_fails_to_close_leaves_no_other_open(broken: str, tmp_path: Path) -> None:
    """The failure is logged, the index directory is free, and no thread is left."""

    async def fails() -> None:
        raise RuntimeError("cannot close")

    before = set(threading.enumerate())
    funnel = make(qdrant={"path": str(tmp_path / "index")})
    funnel.index(CORPUS)
    part: Any = funnel.cache if broken == "cache" else funnel.stages[0]
    part.aclose = fails
    with structlog.testing.capture_logs() as events:
        funnel.close()
    assert [e["part"] for e in events if e["event"] == "close_failed"] == [type(part).__name__]
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), thread.name
    with make(qdrant={"path": str(tmp_path / "index")}) as again:
        assert again.run("password").hits


def test_an_unknown_function_is_refused_at_construction() -> None:
    """The message names what was handed over."""
    with pytest.raises(ConfigError, match="'length' was not handed over"):
        Funnel(
            settings(),
            cache=NullCache(),
            models=FakeModels(FakeEncoder()),  # type: ignore[arg-type]
        )


def test_min_score_on_a_rank_only_stage_is_refused() -> None:
    """A threshold without scores means nothing."""
    stages = [
        {"kind": "hybrid", "k": 4},
        {"kind": "callable", "function": "length", "k": 3, "score_kind": "rank", "min_score": 1},
    ]
    with pytest.raises(ConfigError, match="orders without scores"):
        make(stages=stages)


def test_min_score_per_call_on_a_rank_only_stage_is_refused() -> None:
    """As at load; the same call without it is answered."""
    stages = [
        {"kind": "hybrid", "k": 4},
        {"kind": "callable", "name": "f", "function": "length", "k": 3, "score_kind": "rank"},
    ]
    with make(stages=stages) as funnel:
        funnel.index(CORPUS)
        with pytest.raises(InputError, match="orders without scores"):
            funnel.run("password", overrides={"f": {"min_score": 1}})
        assert funnel.run("password", overrides={"f": {"min_score": None}}).degraded == ()


def test_deleted_documents_are_gone(funnel: Funnel) -> None:
    """Delete says how many there were."""
    assert funnel.delete(["reset", "nobody"]) == 1
    assert "reset" not in funnel.run("reset password", k=10).ids


def test_a_rebuild_replaces_all_documents(funnel: Funnel) -> None:
    """What is not in the new corpus is gone."""
    funnel.index([{"id": "only", "text": "the only password document"}], rebuild=True)
    assert funnel.run("password", k=10).ids == ("only",)


@pytest.mark.parametrize(
    "change", [{"encoder": FakeEncoder("fake:other", dim=32)}, {"bm25": {"k1": 1.2}}]
)
def test_a_rebuild_works_where_start_refuses(tmp_path: Path, change: dict[str, Any]) -> None:
    """Other settings than the collection's are what it is for; the cache is told of it."""
    seen: list[str] = []

    class Watcher(NullCache):
        async def start(self) -> None:
            seen.append("start")

        async def documents_changed(self, **_: Any) -> None:
            seen.append("told")

    place = {"path": str(tmp_path / "index")}
    with make(qdrant=place) as old:
        old.index(CORPUS)
    with make(qdrant=place, cache=Watcher(), **change) as new:
        with pytest.raises(ConfigError, match="--rebuild"):
            new.index(CORPUS)
        assert new.index(CORPUS[:2], rebuild=True).rebuilt
        assert seen[:2] == ["start", "told"]
        assert set(new.run("password", k=10).ids) == {"reset", "change"}


def test_many_queries_may_come_from_a_generator(funnel: Funnel) -> None:
    """They are checked first, and are still there to be run."""
    results = funnel.run_many(text for text in ["password", "refund"])
    assert [result.query for result in results] == ["password", "refund"]


def test_the_encoder_is_asked_once_per_query() -> None:
    """Stages share one query embedding."""
    encoder = FakeEncoder()
    with make(encoder) as funnel:
        funnel.index(CORPUS)
        encoder.texts.clear()
        funnel.run("password")
    assert encoder.texts == ["password"]


def test_one_summary_event_per_query_without_its_text(funnel: Funnel) -> None:
    """Timings and the query id are logged, the text only at debug."""
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as events:
        result = funnel.run("password for my secret account")
    summaries = [event for event in events if event["event"] == "query"]
    assert len(summaries) == 1
    assert summaries[0]["query_id"] == result.query_id
    assert set(summaries[0]["stages"]) == {"hybrid", "length"}
    shown = [str(event) for event in events if event["log_level"] != "debug"]
    assert not any("secret account" in text for text in shown)


def test_results_are_plain_data(funnel: Funnel) -> None:
    """to_dict survives JSON; inputs are not changed."""
    before = json.dumps(CORPUS)
    plain = json.loads(json.dumps(funnel.run("password").to_dict()))
    assert plain["trace"][0]["in"] == 0
    assert plain["hits"][0]["rank"] == 1
    assert json.dumps(CORPUS) == before


def test_whatever_changes_a_ranking_changes_the_partition(funnel: Funnel) -> None:
    """Filters, scope, k and every override keep their answers apart; a timeout does not."""

    class Recorder(NullCache):
        seen: list[str] = []  # noqa: RUF012 - one test, one list

        async def serve(self, request: CacheRequest, compute: Compute) -> Served:
            self.seen.append(json.dumps(request.partition, sort_keys=True))
            return await super().serve(request, compute)

    funnel.cache = recorder = Recorder()
    calls: list[dict[str, Any]] = [
        {},
        {"k": 2},
        {"scope": "a"},
        {"filters": {"lang": "en"}},
        {"overrides": {"hybrid": {"weights": {"dense": 0.5}}}},
        {"overrides": {"hybrid": {"rrf_k": 10}}},
        {"overrides": {"length": {"min_score": 1.0}}},
    ]
    for options in calls:
        funnel.run("password", **options)
    assert len(set(recorder.seen)) == len(calls)
    funnel.run("password", overrides={"hybrid": {"timeout_ms": 4000}})
    assert recorder.seen[-1] == recorder.seen[0]


def test_a_broken_write_still_clears_the_cache() -> None:
    """Whatever part of it was written, no kept answer outlives it."""

    class Watcher(NullCache):
        told = 0

        async def documents_changed(self, **_: Any) -> None:
            self.told += 1

    class BreaksOnSecond(FakeEncoder):
        async def aencode(self, texts: Sequence[str]) -> FloatArray:
            if any("broken" in text for text in texts):
                raise RuntimeError("out of order")
            return await super().aencode(texts)

    watcher = Watcher()
    with make(BreaksOnSecond(), cache=watcher) as funnel:
        funnel.index(CORPUS)
        with pytest.raises(Exception, match="out of order"):
            funnel.index([{"id": "new", "text": "a broken document"}])
    assert watcher.told == 2


def test_a_p99_target_leaves_optional_stages_out_under_overload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the settings to the trace; without overload it changes nothing."""
    overloaded = [False]

    class Worker:
        def overloaded(self) -> bool:
            return overloaded[0]

    monkeypatch.setattr("funnel.engine.model_worker", Worker)

    async def slow(query: str, candidates: Sequence[Candidate]) -> list[float]:
        await asyncio.sleep(0.3)
        return longest_first(query, candidates)

    stages = [
        {"kind": "hybrid", "k": 4},
        {"kind": "callable", "name": "slow", "function": "length", "k": 3, "optional": True},
    ]
    with make(function=slow, stages=stages, p99_target_ms=100) as funnel:
        funnel.index(CORPUS)
        assert [funnel.run("reset my password").degraded for _ in range(2)] == [(), ()]
        overloaded[0] = True
        result = funnel.run("reset my password")
        assert result.degraded == ("slow:load",)
        assert result.stage("slow").skipped == "load"
        overloaded[0] = False
        assert funnel.run("reset my password").degraded == ()
