"""What comes from the cache, from which tier, and what it says about it."""

import asyncio
import resource
from collections.abc import Awaitable, Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from funnel.cache import store_redis, store_sqlite
from funnel.cache.admission import Doorkeeper
from funnel.cache.base import Answer, Served
from funnel.cache.codec import Codec, Entry
from funnel.cache.place import Place, place_of
from funnel.cache.store import Neighbours, Record, StoreLimits
from funnel.cache.store_memory import MemoryStore
from funnel.deadline import Deadline
from funnel.models.base import ScoredPairs, TextPair
from funnel.types import Hit, SourceScore
from tests.cache.conftest import MakeStore
from tests.cache.world import Clock, Stages, TopicEncoder, TopicScorer, World, hit, settle


async def test_first_question_is_computed() -> None:
    """An empty cache computes and says why."""
    world = World()
    served = await world.ask("a word about cats")
    assert (served.info.status, served.info.reason) == ("miss", "no_candidates")
    assert [hit.id for hit in served.answer.hits] == ["cats-1", "cats-2"]


async def test_same_text_is_an_exact_hit() -> None:
    """The second time the very text comes from the cache, unchanged."""
    world = World()
    first = await world.ask("a word about cats")
    again = await world.ask("a word about cats")
    assert (again.info.status, again.info.tier) == ("hit", "exact")
    assert again.info.matched_query == "a word about cats"
    assert again.answer.hits == first.answer.hits
    assert world.stages.runs == ["a word about cats"]


async def test_paraphrase_is_a_semantic_hit_with_score() -> None:
    """A verified paraphrase is served with the matched query, the score and the threshold."""
    world = World()
    await world.ask("a word about cats")
    served = await world.ask("something about cats")
    assert (served.info.status, served.info.tier) == ("hit", "semantic")
    assert served.info.matched_query == "a word about cats"
    assert served.info.score == pytest.approx(8.0)
    assert served.info.threshold == pytest.approx(2.0)
    assert len(world.stages.runs) == 1


async def test_verified_paraphrase_is_remembered_as_alias() -> None:
    """The second time a paraphrase costs no verifier pass."""
    world = World(local_entries=0)
    await world.ask("a word about cats")
    await world.ask("something about cats")
    passes = len(world.scorer.calls)
    served = await world.ask("something about cats")
    assert served.info.tier == "alias"
    assert served.info.matched_query == "a word about cats"
    assert len(world.scorer.calls) == passes


async def test_aliases_are_never_matched_themselves() -> None:
    """Chains cannot drift: a question like an alias, but unlike its target, is a miss."""
    scorer = TopicScorer()
    world = World(scorer=scorer)
    await world.ask("one about cats")
    await world.ask("two about cats")
    scorer.scores = dict.fromkeys(
        (("three about cats", "one about cats"), ("one about cats", "three about cats")), -8.0
    )
    served = await world.ask("three about cats")
    assert served.info.status == "miss"


async def test_lower_of_both_orders_decides() -> None:
    """A pair that is only alike in one direction is refused, with its score."""
    scorer = TopicScorer()
    world = World(scorer=scorer)
    await world.ask("one about cats")
    scorer.scores[("one about cats", "two about cats")] = 1.0
    served = await world.ask("two about cats")
    assert (served.info.status, served.info.reason) == ("miss", "below_threshold")
    assert served.info.score == pytest.approx(1.0)


async def test_nearest_alone_then_one_pass_for_all_others() -> None:
    """Both orders of the nearest; if that is refused, both orders of the other four at once."""
    scorer = TopicScorer()
    world = World(scorer=scorer, threshold=100.0)
    for word in ["one", "two", "three", "four", "five", "six"]:
        await world.ask(f"{word} about cats")
    scorer.calls.clear()
    await world.ask("something else about cats")
    assert [len(call) for call in scorer.calls] == [2, 8]


async def test_hit_on_the_nearest_costs_one_pair() -> None:
    """However many are near: once the nearest is the question, no other is scored."""
    scorer = TopicScorer()
    world = World(scorer=scorer)
    scorer.scores = {
        (f"{a} about cats", f"{b} about cats"): -8.0
        for a in ("one", "two", "three")
        for b in ("one", "two", "three")
    }
    for word in ["one", "two", "three"]:
        assert (await world.ask(f"{word} about cats")).info.status == "miss"
    scorer.calls.clear()
    assert (await world.ask("four about cats")).info.tier == "semantic"
    assert [len(call) for call in scorer.calls] == [2]


async def test_cosines_at_hand_are_not_computed_again() -> None:
    """A verifier that weighs in the cosine of the cache's own encoder is told it."""
    told: list[Sequence[float]] = []

    class CosineScorer(TopicScorer):
        cosine_of = TopicEncoder.revision

        async def ascore(
            self,
            pairs: Sequence[TextPair],
            *,
            deadline: Deadline,
            cosines: Sequence[float] | None = None,
        ) -> ScoredPairs:
            told.extend([cosines] if cosines is not None else [])
            return await super().ascore(pairs, deadline=deadline)

    world = World(scorer=CosineScorer())
    await world.ask("one about cats")
    told.clear()
    assert (await world.ask("two about cats")).info.tier == "semantic"
    one, two = TopicEncoder().encode(["one about cats", "two about cats"])
    assert told == [pytest.approx([float(one @ two)] * 2, abs=1e-3)]


async def test_other_partition_never_matches() -> None:
    """Other settings, filters or k: another partition, whatever the text."""
    world = World()
    await world.ask("a word about cats", partition={"k": 10})
    for partition in ({"k": 5}, {"k": 10, "filters": {"lang": "en"}}, {"k": True}, {"k": "10"}):
        assert (await world.ask("a word about cats", partition=partition)).info.status == "miss"


async def test_other_tenant_never_matches() -> None:
    """Tenants do not see each other's answers."""
    world = World()
    await world.ask("a word about cats", scope="left")
    assert (await world.ask("a word about cats", scope="right")).info.status == "miss"
    assert (await world.ask("a word about cats")).info.status == "miss"
    assert (await world.ask("a word about cats", scope="left")).info.status == "hit"


@pytest.mark.parametrize(
    "filters",
    [{"a": float("nan")}, {"a": object()}, {"a": {1, 2}}, {("x", "y"): 1}],
    ids=["nan", "object", "set", "tuple key"],
)
async def test_hostile_filters_bypass_the_cache(filters: dict[object, object]) -> None:
    """What cannot be compared for equality is computed every time."""
    world = World()
    for _ in range(2):
        served = await world.ask("a word about cats", partition={"filters": filters})
        assert (served.info.status, served.info.reason) == ("bypass", "uncacheable_partition")


async def test_filter_values_of_other_types_differ() -> None:
    """1, "1", 1.0 and true are four partitions."""
    world = World()
    for value in (1, "1", 1.0, True):
        served = await world.ask("a word about cats", partition={"filters": {"a": value}})
        assert served.info.status == "miss"


async def test_degraded_answers_are_not_kept() -> None:
    """A run that did less than asked is served once and never again."""
    world = World()
    world.stages.degraded = ("llm: timeout",)
    await world.ask("a word about cats")
    world.stages.degraded = ()
    assert (await world.ask("a word about cats")).info.status == "miss"


async def test_errors_are_not_kept() -> None:
    """The stages' own error leaves the cache, and the next query computes."""
    world = World()
    world.stages.error = RuntimeError("boom")
    with pytest.raises(RuntimeError, match="boom"):
        await world.ask("a word about cats")
    world.stages.error = None
    assert (await world.ask("a word about cats")).info.status == "miss"
    assert (await world.ask("a word about cats")).info.status == "hit"


async def test_empty_answers_live_shortly() -> None:
    """No result is kept for its own short time."""
    clock = Clock()
    world = World(clock=clock, empty_ttl_s=60)
    world.stages.documents["cats"] = ()
    await world.ask("a word about cats")
    clock.now += 59
    assert (await world.ask("a word about cats")).info.status == "hit"
    clock.now += 2
    assert (await world.ask("a word about cats")).info.status == "miss"


async def test_ttl_is_not_extended_by_hits() -> None:
    """A popular entry dies at its time all the same."""
    clock = Clock()
    world = World(clock=clock, ttl_s=100)
    await world.ask("a word about cats")
    for _ in range(3):
        clock.now += 30
        assert (await world.ask("a word about cats")).info.status == "hit"
    clock.now += 11
    assert (await world.ask("a word about cats")).info.status == "miss"


async def test_hit_tells_its_age() -> None:
    """Age counts from when the answer was computed."""
    clock = Clock()
    world = World(clock=clock)
    await world.ask("a word about cats")
    clock.now += 42
    served = await world.ask("a word about cats")
    assert served.info.age_s == pytest.approx(42.1)


async def test_stale_while_revalidate_serves_flagged_and_recomputes() -> None:
    """A late entry is served once as stale, and fresh afterwards."""
    clock = Clock()
    world = World(clock=clock, ttl_s=100, stale_while_revalidate_s=50)
    await world.ask("a word about cats")
    clock.now += 120
    late = await world.ask("a word about cats")
    assert (late.info.status, late.info.stale) == ("hit", True)
    assert len(world.stages.runs) == 2
    fresh = await world.ask("a word about cats")
    assert (fresh.info.status, fresh.info.stale) == ("hit", False)


async def test_stale_on_error_instead_of_failing() -> None:
    """When the stages fail, a late entry is better than nothing, and says so."""
    clock = Clock()
    world = World(clock=clock, ttl_s=100, stale_on_error_s=1_000)
    await world.ask("a word about cats")
    clock.now += 200
    world.stages.error = RuntimeError("boom")
    served = await world.ask("a word about cats")
    assert (served.info.status, served.info.stale) == ("hit", True)
    assert served.info.reason == "stages_failed"


async def test_nothing_older_than_max_staleness() -> None:
    """The hard limit wins over every kind of staleness."""
    clock = Clock()
    world = World(clock=clock, ttl_s=100, stale_on_error_s=1_000, max_staleness_s=150)
    await world.ask("a word about cats")
    clock.now += 200
    world.stages.error = RuntimeError("boom")
    with pytest.raises(RuntimeError):
        await world.ask("a word about cats")


@pytest.mark.parametrize("jump", [-86_400.0, 10 * 86_400.0])
async def test_clock_jumps_are_misses(jump: float) -> None:
    """An entry from the future, or suddenly very old, is not served."""
    clock = Clock()
    world = World(clock=clock)
    await world.ask("a word about cats")
    clock.now += jump
    assert (await world.ask("a word about cats")).info.status == "miss"


async def test_early_refresh_recomputes_before_the_end() -> None:
    """Near its end an entry is recomputed while it is still served."""
    clock = Clock()
    world = World(clock=clock, ttl_s=100, early_refresh=1.0, spread=lambda: 1e-9)
    await world.ask("a word about cats")
    clock.now += 99
    assert (await world.ask("a word about cats")).info.stale is False
    assert len(world.stages.runs) == 2


async def test_query_beyond_the_window_has_no_semantic_tier() -> None:
    """Two long texts may differ where the embedder did not read."""
    world = World()
    long = " ".join(["word"] * 70)
    await world.ask(f"{long} about cats")
    served = await world.ask(f"{long} word about cats")
    assert (served.info.status, served.info.reason) == ("miss", "query_beyond_window")
    assert (await world.ask(f"{long} about cats")).info.tier == "exact"


async def test_pair_beyond_the_verifiers_window_is_refused() -> None:
    """What the verifier could not read to its end is no match."""
    world = World(scorer=TopicScorer(window=5))
    await world.ask("a word about cats")
    served = await world.ask("something about cats")
    assert (served.info.status, served.info.reason) == ("miss", "not_scored")


async def test_shortened_query_bypasses() -> None:
    """Of a text that was cut nobody knows the rest, so it is never compared."""
    world = World()
    text = "x" * 9_000 + " about cats"
    for _ in range(2):
        served = await world.ask(text)
        assert (served.info.status, served.info.reason) == ("bypass", "query_shortened")


async def test_poisoned_entry_is_a_counted_miss() -> None:
    """An entry that was changed in the store does not open."""
    world = World(local_entries=0)
    await world.ask("a word about cats")
    request = world.request("a word about cats")
    place = place_of(request, world.cache.matcher.identity)
    assert place is not None
    forged = Codec(b"another key").seal(
        Entry("a word about cats", (), 1e6, 1e6, 0, 0.0), place.partition, place.key
    )
    record = Record(place.partition, place.key, "", forged, 1e6, 0, documents=())
    assert await world.store.put(record)
    served = await world.ask("a word about cats")
    assert (served.info.status, served.info.reason) == ("miss", "corrupt_checksum")
    assert world.cache.counters.events["corrupt_checksum"] >= 1


async def test_entry_of_another_tenant_does_not_open() -> None:
    """A payload copied to another partition is refused."""
    world = World(local_entries=0)
    await world.ask("a word about cats", scope="left")
    identity = world.cache.matcher.identity
    left = place_of(world.request("a word about cats", scope="left"), identity)
    right = place_of(world.request("a word about cats", scope="right"), identity)
    assert left is not None and right is not None
    found = (await world.store.get(left.partition, left.key)).found
    assert found
    copied = Record(right.partition, right.key, "", found.payload, 1e6, 0)  # type: ignore[union-attr]
    assert await world.store.put(copied)
    served = await world.ask("a word about cats", scope="right")
    assert (served.info.status, served.info.reason) == ("miss", "corrupt_checksum")


async def test_look_alike_letters_are_not_conflated() -> None:
    """A word that mixes scripts matches nothing but itself."""
    world = World()
    await world.ask("login to paypal about cats")
    served = await world.ask("login to p\u0430ypal about cats")
    assert (served.info.status, served.info.reason) == ("miss", "guard_script")


async def test_many_queries_against_a_small_cap() -> None:
    """Distinct queries never grow the cache over its cap, through the whole of serving."""
    world = World(max_entries=50, local_entries=20, semantic=False)
    for number in range(5_000):
        text = f"q{number} about t{number}"
        await world.cache.serve(world.request(text), world.stages.of(text))
    await settle()
    stats = await world.cache.stats()
    assert stats["store"]["entries"] <= 50
    assert len(world.cache.flights) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_million_records_against_a_small_cap() -> None:
    """What remembers queries stays within its bounds, and memory stops growing, at 10^6 of them."""
    store = MemoryStore(StoreLimits(max_entries=1_000))
    doorkeeper = Doorkeeper(2_000)
    vector = np.ones(4, dtype=np.float32)
    grown: list[int] = []
    for number in range(1_000_000):
        place = Place(f"{number % 3:032x}", f"{number * 7919:032x}", "")
        doorkeeper.admits(place)
        near = vector if number % 10 == 0 else None
        await store.put(
            Record(place.partition, place.key, "", b"x" * 64, 60, 0, vector=near, documents=["d"])
        )
        if number in (100_000, 999_999):
            grown.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    stats = await store.stats()
    assert (stats.entries, stats.extra["nearest"]["vectors"]) == (1_000, 100)
    assert grown[1] < 1.1 * grown[0]
    await store.aclose()


@pytest.mark.parametrize("local_entries", [0, 1_024])
async def test_popular_entry_survives_a_scan(
    local_entries: int, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One-time queries do not push out what is asked all the time, wherever it is answered."""
    for module in (store_sqlite, store_redis):  # so many records take longer to come than a second
        monkeypatch.setattr(module, "_FLUSH_S" if module is store_sqlite else "_TEND_S", 0.001)
    store = await make_store(max_entries=100)
    world = World(store=store, max_entries=100, local_entries=local_entries, semantic=False)
    popular = "the popular one about cats"
    await world.ask(popular)
    for number in range(1_000):
        text = f"q{number} about t{number}"
        await world.cache.serve(world.request(text), world.stages.of(text))
        if number % 20 == 0:
            assert (await world.ask(popular)).info.status == "hit"
    place = place_of(world.request(popular), world.cache.matcher.identity)
    assert place is not None
    assert (await store.get(place.partition, place.key)).found
    assert (await store.stats()).evictions > 100


async def test_oversized_entry_is_not_kept() -> None:
    """An answer over the size cap is served and not stored."""
    world = World(max_entry_bytes=256, stages=Stages())
    world.stages.documents["cats"] = tuple(f"document-{n}" for n in range(100))
    await world.ask("a word about cats")
    assert (await world.ask("a word about cats")).info.status == "miss"
    assert world.cache.counters.events["not_stored_too_large"] == 2


async def test_hits_keep_everything_but_trace_and_usage() -> None:
    """Metadata, scores and ranks survive the trip; what did not run is empty."""
    world = World()
    await world.ask("a word about cats")
    served = await world.ask("a word about cats")
    assert served.answer.hits == (hit(1, "cats-1"), hit(2, "cats-2"))
    assert served.answer.trace == ()
    assert served.answer.usage.calls == 0


@pytest.mark.parametrize("local_entries", [0, 1_024])
async def test_callers_cannot_alter_what_is_kept(local_entries: int) -> None:
    """Whatever each caller does to its own answer, the next one gets what was computed."""
    world = World(stages=_RichStages(), local_entries=local_entries)
    for text in ["one about cats", "one about cats", "two about cats", "two about cats"] * 2:
        served = await world.ask(text)
        assert served.answer.hits == (RICH,)
        _spoil(served)
    assert world.stages.runs == ["one about cats"]


async def test_caller_cannot_alter_an_answer_that_is_being_kept() -> None:
    """With no time left to wait for the store, what was computed is kept after it was handed out.

    Not what the caller made of it meanwhile.
    """
    store = MemoryStore()

    async def hangs(*_: Any, **__: Any) -> Neighbours:
        await asyncio.sleep(30)
        raise AssertionError

    store.nearest = hangs  # type: ignore[method-assign]
    world = World(store=store, stages=_RichStages(), timeout_ms=20)
    text = "one about cats"
    _spoil(await world.cache.serve(world.request(text), world.stages.of(text)))
    await settle()
    again = await world.ask(text)
    assert (again.info.status, again.answer.hits) == ("hit", (RICH,))


@pytest.mark.parametrize("kept", [False, True], ids=["computed", "kept"])
async def test_callers_of_one_flight_cannot_alter_each_others_answers(kept: bool) -> None:
    """Of one computation, or of one kept paraphrase, everybody gets a copy."""
    world = World(stages=_RichStages(), semantic=kept)
    world.stages.delay_s = 0.01
    if kept:
        await world.ask("two about cats")
    text = "one about cats"

    async def ask_and_spoil() -> Answer:
        served = await world.cache.serve(world.request(text), world.stages.of(text))
        answer = deepcopy(served.answer)
        _spoil(served)
        return answer

    answers = await asyncio.gather(*(ask_and_spoil() for _ in range(5)))
    assert [answer.hits for answer in answers] == [(RICH,)] * 5
    assert len(world.stages.runs) == 1


RICH = Hit(
    rank=1,
    id="cats-1",
    score=1.0,
    score_kind="logit",
    score_stage="stage",
    title="",
    text="text",
    metadata={"lang": "en", "tags": ["x", {"deep": [1]}], "more": {"y": [2]}},
    stage_scores={"stage": 1.0},
    stage_ranks={"stage": 1},
    sources={"stage.bm25": SourceScore(1, 2.0)},
)


class _RichStages(Stages):
    """Answers with one hit that has something of everything."""

    def of(self, text: str) -> Callable[[], Awaitable[Answer]]:
        async def compute() -> Answer:
            self.runs.append(text)
            await asyncio.sleep(self.delay_s)
            return Answer((replace(RICH, **deepcopy(_parts(RICH))),), elapsed_ms=100.0)

        return compute


def _parts(one: Hit) -> dict[str, Any]:
    return {
        name: getattr(one, name) for name in ("metadata", "stage_scores", "stage_ranks", "sources")
    }


def _spoil(served: Served) -> None:
    """Alter everything in an answer that can be altered."""
    for parts in map(_parts, served.answer.hits):
        parts["metadata"]["tags"][1]["deep"].append("evil")
        parts["metadata"]["more"]["y"].clear()
        for part in parts.values():
            part["evil"] = 1


async def test_uncalibrated_verifier_leaves_the_exact_tiers() -> None:
    """Without a threshold nothing but the very text is a hit, and the result says why."""
    world = World(threshold=None)
    await world.ask("a word about cats")
    served = await world.ask("something about cats")
    assert (served.info.status, served.info.reason) == ("miss", "uncalibrated")
    assert (await world.ask("a word about cats")).info.tier == "exact"


async def test_stats_count_tiers_and_reasons() -> None:
    """Hits by tier, misses by reason, and the store's gauges add up."""
    world = World()
    await world.ask("one about cats")
    await world.ask("one about cats")
    await world.ask("two about cats")
    stats = await world.cache.stats()
    assert (stats["requests"], stats["hits"]) == (3, 2)
    assert stats["hits_by_tier"] == {"exact": 1, "semantic": 1}
    assert stats["reasons"] == {"no_candidates": 1}
    assert stats["store"]["entries"] == 1
    assert stats["saved_ms"] == pytest.approx(200.0)


async def test_explain_shows_candidates_and_changes_nothing() -> None:
    """Every candidate with its cosine, score and verdict; no hit is counted, nothing is kept."""
    world = World()
    await world.ask("one about cats")
    await world.ask("one about dogs")
    before = await world.cache.stats()
    report = await world.cache.explain(world.request("two about cats"))
    assert (report["status"], report["tier"]) == ("hit", "semantic")
    assert (report["matched_query"], report["age_s"]) == ("one about cats", pytest.approx(0.1))
    assert report["score"] >= report["needed"]
    verdicts = {candidate["query"]: candidate for candidate in report["candidates"]}
    assert verdicts["one about cats"]["accepted"]
    assert verdicts["one about dogs"]["reason"] == "below_floor"
    after = await world.cache.stats()
    assert (after["requests"], after["store"]) == (before["requests"], before["store"])
