"""What is kept for how long, and what is served past its time."""

import pytest

from tests.cache.world import Clock, World


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


async def test_a_refresh_that_is_not_kept_does_not_count_as_one() -> None:
    """Degraded answers are never kept; the entry stays as old as it is."""
    clock = Clock()
    world = World(clock=clock, ttl_s=100, stale_while_revalidate_s=50)
    await world.ask("a word about cats")
    clock.now += 120
    world.stages.degraded = ("cross_encoder",)
    await world.ask("a word about cats")
    events = (await world.cache.stats())["events"]
    assert (events.get("refreshed"), events["refresh_not_kept"]) == (None, 1)
    assert (await world.ask("a word about cats")).info.stale


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


async def test_entries_past_their_time_take_no_candidates_place() -> None:
    """A fresh paraphrase is found behind many that are kept in case that the stages fail."""
    clock = Clock()
    world = World(clock=clock, ttl_s=100, stale_on_error_s=10_000, candidates=2)
    late = [f"{word} about cats" for word in ("alpha", "bravo", "charlie", "delta", "echo")]
    world.scorer.scores = {(one, other): -8.0 for one in late for other in late}
    for text in late:
        await world.ask(text)
    clock.now += 200
    assert (await world.ask("foxtrot about cats")).info.status == "miss"
    for word in ("golf", "hotel", "india", "juliet"):
        assert (await world.ask(f"{word} about cats")).info.matched_query == "foxtrot about cats"


async def test_what_is_too_stale_does_not_stay_in_the_store() -> None:
    """Entries leave at ``max_staleness_s``, however long their own time would have been."""
    clock = Clock()
    world = World(clock=clock, ttl_s=10_000, max_staleness_s=100)
    await world.ask("a word about cats")
    clock.now += 101
    assert (await world.cache.stats())["store"]["entries"] == 0


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
