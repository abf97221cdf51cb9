"""One reading for many callers, and whose fault it is when it comes late."""

import asyncio
import time
from typing import Any

import pytest

from funnel.cache.breaker import BreakerSettings, CircuitBreaker
from funnel.cache.guarded_store import GuardedStore, StoreFault
from funnel.cache.patience import patient
from funnel.cache.store import Reading
from funnel.cache.store_memory import MemoryStore
from tests.cache.records import eventually
from tests.cache.world import Stages, World, settle

TEXT = "a word about cats"


class FarStore(MemoryStore):
    """A memory store that other processes seem to see, some way off."""

    shared = True

    def __init__(self) -> None:
        super().__init__()
        self.delay_s = 0.01
        self.readings = 0

    async def get(self, partition: str, key: str) -> Reading:
        self.readings += 1
        found = await super().get(partition, key)
        await asyncio.sleep(self.delay_s)
        return found


def _world(**changes: Any) -> tuple[World, FarStore]:
    store = FarStore()
    return World(store=store, stages=Stages(delay_s=0.1), local_entries=0, **changes), store


def _guarded(timeout_s: float) -> tuple[GuardedStore, FarStore]:
    """A store that is slow for ever, behind a breaker that one failure opens."""
    store = FarStore()
    store.delay_s = 5.0
    return GuardedStore(store, CircuitBreaker(BreakerSettings(failures=1)), timeout_s), store


async def _get(guarded: GuardedStore) -> Reading:
    return await guarded.call(lambda store: store.get("aa", "00"))


def _be_away(seconds: float) -> None:
    """What a loop does that is in the middle of other work."""
    time.sleep(seconds)


async def _many(world: World, count: int, **options: Any) -> list[Any]:
    return await asyncio.gather(
        *(
            world.cache.serve(world.request(TEXT, **options), world.stages.of(TEXT))
            for _ in range(count)
        )
    )


async def test_one_question_in_flight_costs_one_reading() -> None:
    """Callers at the same time share it, later ones join who computes without asking again."""
    world, store = _world()
    first = asyncio.ensure_future(_many(world, 100))
    await asyncio.sleep(0.05)
    await _many(world, 100)
    await first
    assert (store.readings, len(world.stages.runs)) == (1, 1)


async def test_without_a_lag_a_caller_shares_only_what_began_after_it_came() -> None:
    """Two readings for a hundred: the one under way, and the next."""
    world, store = _world(epoch_lag_ms=0)
    await _many(world, 100)
    assert (store.readings, len(world.stages.runs)) == (2, 1)


async def test_a_kept_answer_is_an_exact_hit_for_all_who_shared_the_reading() -> None:
    """Nobody is told of a flight that there was not."""
    world, store = _world()
    await world.ask(TEXT)
    store.readings = 0
    served = await _many(world, 50)
    assert {one.info.tier for one in served} == {"exact"}
    assert store.readings == 1


async def test_what_another_process_kept_is_found_beside_a_slow_run() -> None:
    """Not at once, but after the lag that the epoch may have."""
    world, store = _world(epoch_lag_ms=50)
    world.stages.delay_s = 3_600
    stuck = asyncio.ensure_future(_many(world, 1))
    await asyncio.sleep(0.03)
    other = World(store=store)
    await other.ask(TEXT)
    await asyncio.sleep(0.06)
    (served,) = await _many(world, 1)
    assert served.info.tier == "exact"
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)


async def test_a_reading_from_before_a_write_is_not_for_who_came_after_it() -> None:
    """Although it is still under way."""
    world, store = _world()
    await world.ask(TEXT)
    store.delay_s = 0.05
    early = asyncio.ensure_future(_many(world, 1))
    await asyncio.sleep(0.01)
    await world.cache.documents_changed()
    world.stages.documents["cats"] = ("new",)
    (late,) = await _many(world, 1)
    assert [hit.id for hit in late.answer.hits] == ["new"]
    await early


async def test_a_caller_in_a_hurry_leaves_the_reading_to_the_others() -> None:
    """It goes on without the store; who waits for the same reading gets its answer."""
    world, store = _world()
    await world.ask(TEXT)
    store.delay_s = 0.1
    patient_one = asyncio.ensure_future(_many(world, 1))
    await asyncio.sleep(0.01)
    (hasty,) = await _many(world, 1, deadline_ms=40)
    assert hasty.info.reason == "store_timeout"
    assert (await patient_one)[0].info.tier == "exact"
    assert world.cache.guarded.breaker.state == "closed"


async def test_a_limit_is_kept_while_the_loop_is_there() -> None:
    """Fifty milliseconds are fifty."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with patient(0.05):
            await asyncio.sleep(5)
    assert 0.04 < time.monotonic() - began < 0.2


async def test_a_loop_that_was_away_reads_what_has_come() -> None:
    """The limit is over when it comes back, and so is the work."""
    async with patient(0.1) as wait:
        waiting = asyncio.ensure_future(asyncio.sleep(0.05))
        await asyncio.sleep(0)
        _be_away(0.2)
        await waiting
    assert wait.was_away


async def test_a_busy_loop_opens_no_breaker() -> None:
    """Only a store that was silent while somebody listened is to blame."""
    guarded, _ = _guarded(0.1)
    call = asyncio.ensure_future(_get(guarded))
    await asyncio.sleep(0)
    _be_away(0.3)
    with pytest.raises(StoreFault) as caught:
        await call
    assert (caught.value.ours, guarded.breaker.state) == (True, "closed")
    with pytest.raises(StoreFault):
        await _get(guarded)
    assert guarded.breaker.state == "open"


async def test_a_store_that_answers_others_is_not_to_blame_for_a_queue() -> None:
    """One call of two is answered meanwhile: the other has waited in our own line."""
    guarded, store = _guarded(0.2)
    slow = asyncio.ensure_future(_get(guarded))
    await asyncio.sleep(0.02)
    store.delay_s = 0.0
    await _get(guarded)
    with pytest.raises(StoreFault):
        await slow
    assert guarded.breaker.state == "closed"


async def test_what_was_computed_while_the_loop_was_busy_is_kept() -> None:
    """The epoch is known from before; the store refuses if it is another by now."""
    world, store = _world(timeout_ms=100)
    await world.ask("a word about dogs")
    store.delay_s = 0.5
    asking = asyncio.ensure_future(_many(world, 1))
    await asyncio.sleep(0.02)
    _be_away(0.3)
    await asking
    await settle()

    async def kept() -> bool:
        return (await store.stats()).entries == 2

    await eventually(kept)
