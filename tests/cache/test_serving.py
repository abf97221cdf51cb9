"""What comes from the cache, from which tier, and what it says about it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from funnel.cache.store import Epoch
from funnel.deadline import Deadline
from funnel.errors import CacheError
from funnel.models.base import ScoredPairs, TextPair
from tests.cache.world import Stages, TopicEncoder, TopicScorer, World


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
    told: list[Sequence[float | None]] = []

    class CosineScorer(TopicScorer):
        cosine_of = TopicEncoder.revision

        async def ascore(
            self,
            pairs: Sequence[TextPair],
            *,
            deadline: Deadline,
            cosines: Sequence[float | None] | None = None,
        ) -> ScoredPairs:
            told.extend([cosines] if cosines is not None else [])
            return await super().ascore(pairs, deadline=deadline)

    world = World(scorer=CosineScorer())
    await world.ask("the one about cats")
    told.clear()
    assert (await world.ask("two about cats")).info.tier == "semantic"
    one, two = TopicEncoder().encode(["the one about cats", "two about cats"])
    assert told == [pytest.approx([float(one @ two)] * 2, abs=1e-3)]
    told.clear()
    assert (await world.ask("teh word about cats")).info.tier == "semantic"
    assert told == [[None, None]]  # the kept cosine is of the question as it was misspelt


async def test_what_a_verifier_rules_out_has_no_score() -> None:
    """It is told what is needed; the miss says what it was compared with, and explains it whole."""
    told: list[Sequence[float] | None] = []

    class CeilingScorer(TopicScorer):
        has_ceiling = True

        async def ascore(
            self,
            pairs: Sequence[TextPair],
            *,
            deadline: Deadline,
            needed: Sequence[float] | None = None,
        ) -> ScoredPairs:
            told.append(needed)
            scored = await super().ascore(pairs, deadline=deadline)
            low = np.full(len(pairs), -np.inf) if needed is None else np.asarray(needed)
            return replace(scored, values=np.where(scored.values < low, -np.inf, scored.values))

    scorer = CeilingScorer()
    one, two = "one about cats", "two about cats"
    scorer.scores = {(one, two): -8.0, (two, one): -8.0}
    world = World(scorer=scorer)
    await world.ask("one about cats")
    told.clear()
    missed = (await world.ask("two about cats")).info
    assert (missed.reason, missed.matched_query, missed.score) == (
        "below_threshold",
        "one about cats",
        None,
    )
    assert told == [[missed.threshold] * 2]
    assert (await world.ask("three about cats")).info.tier == "semantic"
    report = await world.cache.explain(world.request("five about cats"))
    assert report["candidates"][0]["score"] == 8.0
    assert told[-1] == [-np.inf] * 2


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


async def test_explain_gives_the_reason_of_the_lookup() -> None:
    """What is below the floor is shown, but a lookup does not see it; nor after an entry's end."""
    world = World(ttl_s=100)
    await world.ask("one about cats")
    report = await world.cache.explain(world.request("one about dogs"))
    assert [candidate["reason"] for candidate in report["candidates"]] == ["below_floor"]
    served = await world.ask("one about dogs")
    assert report["reason"] == served.info.reason == "no_candidates"
    world.clock.now += 101
    await world.ask("one about cats")
    for query in ("one about dogs", "two about dogs"):
        report = await world.cache.explain(world.request(query))
        assert report["reason"] == (await world.ask(query)).info.reason


async def test_a_misspelt_question_is_looked_for_below_the_floor() -> None:
    """Among kept ones and among those in flight; others are not."""
    kept = "how do I reset the password about cats"
    misspelt = kept.replace("password", "pasword")
    world = World(floor=0.995)
    await world.ask(kept)
    assert (await world.ask("two about cats")).info.reason == "no_candidates"
    found = (await world.ask(misspelt)).info
    assert (found.tier, found.matched_query) == ("semantic", kept)
    world = World(floor=0.995, stages=Stages(delay_s=0.05))
    await asyncio.gather(world.ask(kept), world.ask(misspelt))
    assert len(world.stages.runs) == 1


async def test_explain_knows_of_a_write_that_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store has not heard of a write, nothing is a hit, whoever asks."""
    monkeypatch.setattr("funnel.cache.semantic._CLOSE_S", 0.1)  # what is owed stays so
    world = World()
    await world.ask("one about cats")

    async def fail(*, invalidate: bool) -> Epoch:
        raise CacheError("down")

    monkeypatch.setattr(world.store, "bump", fail)
    await world.cache.documents_changed(deleted=["cats-1"])
    served = await world.ask("one about cats")
    report = await world.cache.explain(world.request("one about cats"))
    assert (report["status"], report["reason"]) == ("miss", served.info.reason)
    await world.cache.aclose()
