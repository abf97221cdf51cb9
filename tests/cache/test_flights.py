"""Many callers, one computation: the same text, paraphrases, failures, cancellations."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from funnel.cache.base import Answer, Served
from funnel.models.base import Side
from funnel.types import Hit
from tests.cache.records import eventually
from tests.cache.world import Stages, TopicScorer, World, settle


async def _all(world: World, texts: list[str]) -> list[Served]:
    return await asyncio.gather(
        *(world.cache.serve(world.request(t), world.stages.of(t)) for t in texts)
    )


async def test_same_text_at_once_is_one_run() -> None:
    """A hundred callers of one text share one run of the stages."""
    world = World(stages=Stages(delay_s=0.02))
    served = await _all(world, ["a word about cats"] * 100)
    assert len(world.stages.runs) == 1
    assert Counter(s.info.status for s in served) == {"miss": 1, "hit": 99}
    assert {s.info.tier for s in served if s.info.status == "hit"} == {"flight"}


async def test_a_thousand_paraphrases_at_once_are_one_run() -> None:
    """A thousand wordings of one question, at once: exactly one run, one answer for all."""
    world = World(stages=Stages(delay_s=0.05), flight_wait_s=60)
    texts = [f"wording {_letters(n)} about cats" for n in range(1_000)]
    served = await _all(world, texts)
    assert len(world.stages.runs) == 1
    assert {tuple(hit.id for hit in s.answer.hits) for s in served} == {("cats-1", "cats-2")}
    assert len(world.cache.flights) == 0


async def test_different_questions_at_once_all_run() -> None:
    """Questions on other topics do not wait for, or get the answers of, each other."""
    world = World(stages=Stages(delay_s=0.02))
    texts = [f"wording {_letters(n)} about {_letters(n % 10)}" for n in range(100)]
    served = await _all(world, texts)
    assert len(world.stages.runs) == 10
    for text, one in zip(texts, served, strict=True):
        topic = text.rsplit(" ", 1)[-1]
        assert [hit.id for hit in one.answer.hits] == [f"{topic}-1", f"{topic}-2"]


async def test_unverified_lookalikes_run_alone() -> None:
    """Near in embedding, refused by the verifier: each computes."""
    scorer = TopicScorer()
    world = World(scorer=scorer, stages=Stages(delay_s=0.01), threshold=100.0)
    await _all(world, [f"wording {_letters(n)} about cats" for n in range(10)])
    assert len(world.stages.runs) == 10


async def test_cancelled_leader_hands_over() -> None:
    """When the computing caller goes away, one of the waiters computes."""
    world = World(stages=Stages(delay_s=0.05))
    text = "a word about cats"
    leader = asyncio.ensure_future(world.cache.serve(world.request(text), world.stages.of(text)))
    await asyncio.sleep(0.01)
    waiting = [
        asyncio.ensure_future(world.cache.serve(world.request(t), world.stages.of(t)))
        for t in (text, text, "other words about cats")
    ]
    await asyncio.sleep(0.01)
    leader.cancel()
    served = await asyncio.gather(*waiting)
    assert len(world.stages.runs) == 2
    assert all(s.answer.hits for s in served)
    with pytest.raises(asyncio.CancelledError):
        await leader


async def test_failed_leader_gets_one_retry_then_all_fail() -> None:
    """Fifty waiters on a failing stage are two runs, not fifty, and all hear of the error."""
    world = World(stages=Stages(delay_s=0.01))
    world.stages.error = RuntimeError("boom")
    calls = [
        world.cache.serve(world.request("a word about cats"), world.stages.of("x about cats"))
        for _ in range(50)
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert len(world.stages.runs) == 2
    assert all(isinstance(result, RuntimeError) for result in results)
    assert len(world.cache.flights) == 0


async def test_waiting_is_bounded() -> None:
    """A waiter gives up on a slow leader and computes for itself."""
    world = World(stages=Stages(delay_s=0.3), flight_wait_s=0.05)
    served = await _all(world, ["a word about cats"] * 2)
    assert len(world.stages.runs) == 2
    assert sorted(s.info.reason or "" for s in served) == ["flight_timeout", "no_candidates"]


async def test_waiter_with_little_time_computes_early() -> None:
    """A waiter spends at most half of its deadline on waiting."""
    world = World(stages=Stages(delay_s=0.3))
    slow = asyncio.ensure_future(_all(world, ["a word about cats"]))
    await asyncio.sleep(0.01)
    began = asyncio.get_running_loop().time()
    compute = world.stages.of("x about cats")
    world.stages.delay_s = 0.0
    await world.cache.serve(world.request("a word about cats", deadline_ms=100), compute)
    assert asyncio.get_running_loop().time() - began < 0.2
    await slow


async def test_answer_of_a_hasty_leader_is_not_everybodys() -> None:
    """A run degraded by its own short deadline does not answer those who have time."""
    world = World(stages=Stages(delay_s=0.03))
    world.stages.degraded = ("deadline",)
    text = "a word about cats"
    hasty = asyncio.ensure_future(
        world.cache.serve(world.request(text, deadline_ms=500), world.stages.of(text))
    )
    await asyncio.sleep(0.01)
    patient = asyncio.ensure_future(
        world.cache.serve(world.request(text, deadline_ms=5_000), world.stages.of(text))
    )
    await asyncio.sleep(0.01)
    assert (await hasty).answer.degraded == ("deadline",)
    world.stages.degraded = ()
    await patient
    assert len(world.stages.runs) == 2


async def test_index_write_during_a_run_separates_old_and_new() -> None:
    """Who asks after a write does not join a run that began before it, and that is not kept."""
    world = World(stages=Stages(delay_s=0.05))
    text = "a word about cats"
    old = asyncio.ensure_future(world.cache.serve(world.request(text), world.stages.of(text)))
    await asyncio.sleep(0.01)
    await world.cache.documents_changed()
    world.stages.documents["cats"] = ("new",)
    new = await world.cache.serve(world.request(text), world.stages.of(text))
    assert [hit.id for hit in new.answer.hits] == ["new"]
    await old
    await settle()
    kept = await world.ask(text)
    assert (kept.info.status, [hit.id for hit in kept.answer.hits]) == ("hit", ["new"])


async def test_stale_answer_for_all_when_the_stages_fail() -> None:
    """Also who gave up waiting and computed gets the stale answer, not the error."""
    world = World(stale_on_error_s=1_000, ttl_s=100, flight_wait_s=0.05)
    await world.ask("a word about cats")
    world.clock.now += 200
    world.stages.error, world.stages.delay_s = RuntimeError("boom"), 0.2
    served = await _all(world, ["a word about cats"] * 3)
    assert {(s.info.status, s.info.stale, s.info.reason) for s in served} == {
        ("hit", True, "stages_failed")
    }


async def test_paraphrase_that_gave_up_waiting_gets_the_stale_answer_too() -> None:
    """Its own run fails beside the one it waited for."""
    world = World(stale_on_error_s=1_000, ttl_s=100, flight_wait_s=0.05)
    await world.ask("a word about cats")
    await world.ask("a word about dogs")
    world.clock.now += 200
    slow = asyncio.ensure_future(_all(world, ["something about cats"]))
    world.stages.delay_s = 0.2
    await asyncio.sleep(0.01)
    world.stages.error = RuntimeError("boom")
    (served,) = await _all(world, ["a word about cats"])
    assert (served.info.status, served.info.reason) == ("hit", "stages_failed")
    await asyncio.gather(slow, return_exceptions=True)


async def test_a_paraphrase_of_a_stale_answer_gets_it_when_the_stages_fail() -> None:
    """As the wording itself does: flagged, with its score; and all who ask the same words, too."""
    world = World(stale_on_error_s=1_000, ttl_s=100)
    await world.ask("a word about cats")
    world.clock.now += 200
    verified = len(world.scorer.calls)
    assert (await world.ask("something about dogs")).info.status == "miss"
    assert len(world.scorer.calls) == verified  # nobody verifies in vain
    world.stages.error, world.stages.delay_s = RuntimeError("boom"), 0.05
    served = await _all(world, ["something about cats"] * 3)
    assert {(s.info.tier, s.info.stale, s.info.reason) for s in served} == {
        ("semantic", True, "stages_failed")
    }
    assert {(s.info.matched_query, s.info.score) for s in served} == {("a word about cats", 8.0)}
    assert len(world.cache.flights) == 0


async def test_what_is_no_paraphrase_or_too_old_is_not_served_for_an_error() -> None:
    """Then the error is the answer."""
    world = World(stale_on_error_s=1_000, ttl_s=100)
    await world.ask("a word about cats")
    world.stages.error = RuntimeError("boom")
    world.clock.now += 200
    with pytest.raises(RuntimeError):
        await world.ask("a word about dogs")
    world.clock.now += 2_000
    with pytest.raises(RuntimeError):
        await world.ask("something about cats")


async def test_landed_flight_is_not_joined_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedder that hangs: after a while the answer is kept without a vector, and expires."""
    monkeypatch.setattr("funnel.cache.serving._JOINABLE_S", 0.2)
    monkeypatch.setattr("funnel.cache.writer._VECTOR_S", 0.2)
    world = World(ttl_s=10, verifier={"model": "world/verifier", "timeout_ms": 20}, timeout_ms=50)
    await world.cache.start()
    world.encoder.aencode = _hang  # type: ignore[method-assign]
    text = "a word about cats"
    await world.cache.serve(world.request(text), world.stages.of(text))
    assert len(world.cache.flights) == 1

    async def landed() -> bool:
        return bool((await world.store.stats()).entries) and not len(world.cache.flights)

    await eventually(landed)
    assert (
        await world.cache.serve(world.request(text), world.stages.of(text))
    ).info.tier == "exact"
    world.clock.now += 10_000
    served = await world.cache.serve(world.request(text), world.stages.of(text))
    assert (served.info.status, len(world.stages.runs)) == ("miss", 2)


@pytest.mark.parametrize("levels", [150, 500, 5_000])
async def test_metadata_nested_too_deep_is_answered_and_not_kept(levels: int) -> None:
    """All callers get the answer as it is; the next one computes again."""
    world = World(stages=Stages(delay_s=0.01))
    deep: dict[str, Any] = {}
    for _ in range(levels):
        deep = {"inner": [deep]}

    async def compute() -> Answer:
        world.stages.runs.append("deep")
        await asyncio.sleep(0.01)
        return Answer((Hit(1, "d", 1.0, "logit", "stage", "", "t", metadata=deep),))

    request = world.request("a word about cats")
    served = await asyncio.gather(*(world.cache.serve(request, compute) for _ in range(3)))
    assert all(one.answer.hits[0].metadata["inner"][0] is deep["inner"][0] for one in served)
    assert len(world.stages.runs) == 1
    await settle()
    assert (await world.cache.serve(request, compute)).info.status == "miss"
    assert world.cache.counters.events["not_stored_too_deep"] >= 1
    assert len(world.cache.flights) == 0


async def _hang(texts: Sequence[str], *, side: Side | None = None) -> Any:
    await asyncio.sleep(3_600)


def _letters(number: int) -> str:
    """A word for a number, of two letters at least: a single one would be a name to the guards."""
    digits = "abcdefghij"
    return "".join(digits[int(digit)] for digit in f"{number:02}")
