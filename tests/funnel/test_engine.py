"""The whole funnel over an index in memory: queries, options, threads, faults, close."""

import asyncio
import copy
import json
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import structlog

from funnel import Funnel
from funnel.cache.base import CacheRequest, Compute, Served
from funnel.cache.null import NullCache
from funnel.errors import ConfigError, InputError, StageError
from funnel.models.base import Side
from funnel.types import Candidate
from tests.fakes import FakeEncoder, FloatArray
from tests.funnel.funnels import CORPUS, FakeModels, longest_first, make, settings


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
    assert len(funnel.run("password", overrides={"length": {"top_k": 1}}).hits) == 1
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
        ({"deadline_ms": 10**400}, "deadline_ms: got 1000"),
        ({"cache": "no"}, "cache: got 'no', expected True or False"),
        ({"scope": ""}, "scope: got ''"),
        ({"filters": ["lang"]}, "filters: got"),
        ({"filters": {"lang": object()}}, "lang"),
        ({"filters": {"colour": "red"}}, "colour"),
        ({"overrides": {"lenght": {"k": 1}}}, "did you mean 'length'"),
        ({"overrides": {"length": 5}}, "got 5, expected a mapping"),
        ({"overrides": {"length": None}}, "got None, expected a mapping"),
        ({"overrides": {"length": {"function": "x"}}}, "cannot change per call"),
        ({"overrides": {"length": {"k": "many"}}}, "got 'many'"),
        ({"overrides": {"length": {"top_k": "many"}}}, "['length'].k: got 'many'"),
        ({"overrides": {"length": {"k": 2, "top_n": 2}}}, "k and top_n, of which more than one"),
        ({"overrides": {"length": {"k": True}}}, "['length'].k: got true, expected a number"),
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


def test_a_query_is_read_as_a_query() -> None:
    """Of an encoder that tells queries from documents."""
    encoder = FakeEncoder()
    with make(encoder) as funnel:
        funnel.index(CORPUS)
        encoder.sides.clear()
        funnel.run("password")
    assert encoder.sides == ["query"]


def test_nan_from_the_encoder_is_a_clear_error() -> None:
    """A broken encoder is named; it never ranks."""

    class BreaksOnQueries(FakeEncoder):
        async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
            vectors = await super().aencode(texts, side=side)
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


@pytest.mark.parametrize("scope", ["", 5])
def test_a_purge_of_no_scope_is_no_purge_of_nothing(scope: Any) -> None:
    """A tenant's name that got lost on the way is refused, as by ``run``."""
    with make() as funnel, pytest.raises(InputError, match="scope: got"):
        funnel.purge_cache(scope=scope)


def test_a_scope_field_keeps_tenants_apart() -> None:
    """With scope_field a call sees its tenant's documents only, and must name it."""
    with make(scope_field="tenant") as funnel:
        funnel.index({"id": f"{t}-doc", "text": "the password", "tenant": t} for t in "ab")
        assert funnel.run("password", scope="a").ids == ("a-doc",)
        with pytest.raises(InputError, match="every call needs scope"):
            funnel.run("password")
        with pytest.raises(InputError, match="set by scope"):
            funnel.run("password", scope="a", filters={"tenant": "b"})


def test_one_string_is_not_a_list(funnel: Funnel) -> None:
    """Its characters would otherwise be run as queries, or deleted as ids."""
    with pytest.raises(InputError, match="got one string"):
        funnel.run_many("password")
    with pytest.raises(InputError, match="expected a list of ids"):
        funnel.delete("12")
    with pytest.raises(InputError, match="got 12, expected texts"):
        funnel.delete([12])  # type: ignore[list-item]


def test_run_many_keeps_the_order(funnel: Funnel) -> None:
    """Results come in the order of the queries, one wrong query fails before any runs."""
    results = funnel.run_many(["password", "parcel", "card"], k=1, concurrency=2)
    assert [result.query for result in results] == ["password", "parcel", "card"]
    with pytest.raises(InputError):
        funnel.run_many(["password", " "])
    for wrong in (0, "8", True):
        with pytest.raises(InputError, match=f"concurrency: got {wrong!r}"):
            funnel.run_many(["password"], concurrency=wrong)  # type: ignore[arg-type]


def test_a_funnel_cannot_be_sent_to_another_process(funnel: Funnel) -> None:
    """It says what can, instead of naming a lock inside."""
    for send in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="send its settings"):
            send(funnel)
    assert pickle.loads(pickle.dumps(funnel.settings)) == funnel.settings  # noqa: S301 - ours


def test_an_unknown_function_is_refused_at_construction() -> None:
    """The message names what was handed over."""
    with pytest.raises(ConfigError, match="'length' was not handed over"):
        Funnel(
            settings(),
            cache=NullCache(),
            models=FakeModels(FakeEncoder()),  # type: ignore[arg-type]
        )


def test_plain_data_as_settings_are_refused_with_the_mend() -> None:
    """Not by an attribute that a dict lacks."""
    with pytest.raises(ConfigError, match="got dict, expected FunnelSettings; .*from_mapping"):
        Funnel({"stages": []})  # type: ignore[arg-type]


def test_what_is_no_function_is_refused_at_construction() -> None:
    """Not at every query, as a stage that was skipped."""
    with pytest.raises(ConfigError, match="'length' is 5, expected a function"):
        Funnel(
            settings(),
            functions={"length": 5},  # type: ignore[dict-item]
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
    sets: list[Any] = [{"en", "de"}, frozenset({"de", "en"}), ["de", "en"]]
    for any_of in sets:
        funnel.run("password", filters={"lang": any_of})
    assert len(set(recorder.seen[-3:])) == 1


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
