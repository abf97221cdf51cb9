"""A broken store, verifier or encoder: the query is answered, and the result says what broke."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from funnel.cache.breaker import BreakerSettings, CircuitBreaker
from funnel.cache.guarded_store import GuardedStore, StoreFault
from funnel.cache.store import Epoch, Neighbours, Reading, Record, Stored
from funnel.cache.store_memory import MemoryStore
from funnel.errors import CacheError, ModelError
from funnel.models.base import Side
from tests.cache.world import Stages, TopicScorer, World, settle


class MoodyStore(MemoryStore):
    """A memory store whose calls a test makes slow or failing."""

    shared = False

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.delay_s = 0.0
        self.calls = 0

    async def _mood(self) -> None:
        self.calls += 1
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error

    async def get(self, partition: str, key: str) -> Reading:
        await self._mood()
        return await super().get(partition, key)

    async def nearest(self, partition: str, vector: Any, *, limit: int, floor: float) -> Neighbours:
        await self._mood()
        return await super().nearest(partition, vector, limit=limit, floor=floor)

    async def put(self, record: Record) -> bool:
        await self._mood()
        return await super().put(record)

    async def bump(self, *, invalidate: bool) -> Epoch:
        await self._mood()
        return await super().bump(invalidate=invalidate)

    async def nearest_anywhere(self, vector: Any, *, limit: int, floor: float) -> Sequence[Stored]:
        await self._mood()
        return await super().nearest_anywhere(vector, limit=limit, floor=floor)


def _world(store: MoodyStore, **changes: Any) -> World:
    plain = {"local_entries": 0, "timeout_ms": 50}
    return World(store=store, **{**plain, **changes})


@pytest.mark.parametrize(
    ("error", "reason"),
    [(CacheError("down"), "store_unavailable"), (KeyError("bug"), "store_error")],
)
async def test_failing_store_is_a_miss_with_a_reason(error: Exception, reason: str) -> None:
    """Expected and unexpected failures of a store never reach the caller."""
    store = MoodyStore()
    world = _world(store)
    store.error = error
    served = await world.ask("a word about cats")
    assert (served.info.status, served.info.reason) == ("error", reason)
    assert served.answer.hits


async def test_a_silent_store_costs_half_of_the_deadline_at_most() -> None:
    """A patient ``timeout_ms`` does not outlast the query: the stages still have their time."""
    store = MoodyStore()
    world = _world(store, timeout_ms=5_000)
    store.delay_s = 5.0
    began = time.monotonic()
    served = await world.ask("a word about cats", deadline_ms=800)
    assert time.monotonic() - began < 0.8
    assert served.answer.hits
    assert (served.info.status, served.info.reason) == ("error", "store_timeout")


async def test_callers_in_a_hurry_do_not_turn_the_store_off_for_others() -> None:
    """It answers within its own limit; that they could not wait so long is not its failure."""
    store = MoodyStore()
    world = _world(store, timeout_ms=1_000)
    await world.ask("one about cats")
    store.delay_s = 0.05
    for _ in range(6):
        served = await world.ask("one about cats", deadline_ms=40)
        assert served.info.reason == "store_timeout"
    assert (await world.ask("one about cats")).info.tier == "exact"


async def test_a_fault_names_the_store() -> None:
    """In silence, in failure, and while nobody asks any more."""
    store = MoodyStore()
    guarded = GuardedStore(store, CircuitBreaker(BreakerSettings(failures=2)), 0.05)

    async def fault() -> str:
        with pytest.raises(StoreFault) as caught:
            await guarded.call(lambda store: store.get("aa", "00"))
        return str(caught.value)

    store.delay_s = 5.0
    assert await fault() == (
        "cache store: store_timeout: MoodyStore gave no answer within 50 ms; see that it runs"
    )
    store.delay_s, store.error = 0.0, KeyError("bug")
    assert await fault() == "cache store: store_error: MoodyStore failed with KeyError"
    assert "breaker_open: MoodyStore kept failing; try again" in await fault()


async def test_slow_store_costs_its_timeout_once() -> None:
    """A hanging store delays a query by one timeout in all, however many calls it needs."""
    store = MoodyStore()
    world = _world(store)
    store.delay_s = 30.0
    loop = asyncio.get_running_loop()
    began = loop.time()
    served = await world.cache.serve(
        world.request("a word about cats"), world.stages.of("a word about cats")
    )
    assert (served.info.status, served.info.reason) == ("error", "store_timeout")
    assert 0.045 < loop.time() - began < 0.5


async def test_breaker_opens_and_closes_again() -> None:
    """After failures in a row the store is left alone, and used again when it is well."""
    store = MoodyStore()
    world = _world(store)
    store.error = CacheError("down")
    for number in range(8):
        await world.ask(f"word about cats{number}")
    calls = store.calls
    served = await world.ask("a word about dogs")
    assert served.info.reason == "breaker_open"
    assert store.calls == calls
    store.error = None
    await asyncio.sleep(0.75)
    await world.ask("a word about dogs")
    assert (await world.ask("a word about dogs")).info.status == "hit"


async def test_store_that_cannot_be_written_still_serves() -> None:
    """A full or read-only store: hits are served, new answers are not kept, nothing fails."""
    store = MoodyStore()
    world = _world(store)
    await world.ask("a word about cats")
    refuse = CacheError("read only")

    async def put(record: Record) -> bool:
        raise refuse

    store.put = put  # type: ignore[method-assign]
    assert (await world.ask("a word about dogs")).info.status == "miss"
    assert (await world.ask("a word about cats")).info.status == "hit"
    assert world.cache.counters.events["not_stored_store_unavailable"] == 1


async def test_a_full_disk_does_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets read and refuses writes, so no breaker opens: one line in ten seconds says it."""
    monkeypatch.setattr("funnel.cache.semantic._CLOSE_S", 0.1)  # what is owed stays so

    class Full(MemoryStore):
        async def put(self, record: Record) -> bool:
            raise CacheError("disk I/O error")

        async def bump(self, *, invalidate: bool) -> Epoch:
            raise CacheError("disk I/O error")

    world = World(store=Full(), local_entries=0)
    with capture_logs() as logs:
        for _ in range(5):
            await world.ask("a word about cats")
            await world.cache.documents_changed()
    said = [each["event"] for each in logs if each["log_level"] == "warning"]
    assert said == ["cache.store_failed", "cache.invalidation_owed"]
    await world.cache.aclose()


async def test_touch_that_fails_is_no_fault_of_the_hit() -> None:
    """A store that cannot note a use: the hit is served from this process all the same."""
    world = World()
    await world.ask("a word about cats")

    def touch(partition: str, key: str) -> None:
        raise KeyError(partition, key)

    world.store.touch = touch  # type: ignore[method-assign]
    served = await world.ask("a word about cats")
    assert (served.info.status, served.info.tier) == ("hit", "exact")
    assert world.cache.guarded.faults == {"store_error": 1}


async def test_flushed_store_is_a_plain_miss() -> None:
    """After somebody emptied the store the cache fills again."""
    world = World(epoch_lag_ms=0)
    await world.ask("a word about cats")
    await world.store.purge()
    assert (await world.ask("a word about cats")).info.status == "miss"
    assert (await world.ask("a word about cats")).info.status == "hit"


async def test_verifier_error_is_a_miss_that_says_so() -> None:
    """A verifier that raises: the stages answer."""
    scorer = TopicScorer()
    world = World(scorer=scorer)
    await world.ask("a word about cats")
    scorer.error = ModelError("broken weights")
    served = await world.ask("something about cats")
    assert (served.info.status, served.info.reason) == ("error", "verifier_error")
    assert served.answer.hits


async def test_unexpected_verifier_error_is_a_miss_too() -> None:
    """Even an error of no known kind stays inside."""
    scorer = TopicScorer()
    world = World(scorer=scorer)
    await world.ask("a word about cats")
    scorer.error = ZeroDivisionError()
    assert (await world.ask("something about cats")).info.reason == "verifier_error"


async def test_slow_verifier_is_a_miss_within_its_timeout() -> None:
    """The verifier's own limit holds, and repeated slowness opens its breaker."""
    scorer = TopicScorer()
    world = World(scorer=scorer, verifier={"model": "world/verifier", "timeout_ms": 20})
    await world.ask("a word about cats")
    scorer.delay_s = 0.2
    served = await world.ask("something about cats")
    assert (served.info.status, served.info.reason) == ("miss", "verifier_timeout")
    for number in range(5):
        await world.ask(f"{'abcdef'[number]} about cats")
    assert (await world.ask("another about cats")).info.reason == "verifier_breaker_open"


async def test_callers_in_a_hurry_do_not_turn_the_verifier_off_for_others() -> None:
    """It answers within its own limit; that they could not wait so long is not its failure."""
    world = World(scorer=TopicScorer(delay_s=0.05))
    await world.ask("one about cats")
    for word in ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot"):
        served = await world.ask(f"{word} about cats", deadline_ms=40)
        assert served.info.reason == "verifier_timeout"
        await asyncio.sleep(0.05)
    assert (await world.ask("golf about cats")).info.tier == "semantic"


async def test_verifier_gets_at_most_half_of_the_time_left() -> None:
    """A query in a hurry is not spent on verification."""
    scorer = TopicScorer(delay_s=0.0)
    world = World(scorer=scorer)
    await world.ask("a word about cats")
    scorer.delay_s = 5.0
    loop = asyncio.get_running_loop()
    began = loop.time()
    await world.ask("something about cats", deadline_ms=100)
    assert loop.time() - began < 0.5


async def test_missing_verifier_leaves_the_exact_tiers() -> None:
    """A model that does not load is told at start and does not stop anything."""
    scorer = TopicScorer()
    world = World(scorer=scorer)
    scorer.error = ModelError("not installed")
    await world.cache.start()
    scorer.error = None
    await world.ask("a word about cats")
    assert (await world.ask("something about cats")).info.reason == "verifier_error"
    assert (await world.ask("a word about cats")).info.status == "hit"


async def test_failing_embedding_is_a_miss() -> None:
    """Without a query vector there is no semantic tier."""
    world = World()
    await world.ask("a word about cats")
    world.encoder.aencode = _fails  # type: ignore[method-assign]
    served = await world.ask("something about cats")
    assert (served.info.status, served.info.reason) == ("miss", "embedding_failed")
    assert served.answer.hits


async def _fails(texts: Sequence[str], *, side: Side | None = None) -> Any:
    raise ModelError("no encoder")


async def test_owed_invalidation_stops_serving_until_it_is_paid() -> None:
    """An index write that the store did not hear of must not leave old answers being served."""
    store = MoodyStore()
    world = _world(store)
    await world.ask("a word about cats")
    store.error = CacheError("down")
    await world.cache.documents_changed()
    store.error = None
    served = await world.ask("a word about cats")
    assert (served.info.status, served.info.reason) == ("error", "invalidation_pending")
    await asyncio.sleep(0.3)
    await settle()
    assert (await world.ask("a word about cats")).info.status == "miss"


async def test_closing_lets_writes_finish() -> None:
    """What was computed just before closing is kept by a store that outlives the cache."""
    store = MoodyStore()
    store.delay_s = 0.02
    world = _world(store, stages=Stages(), timeout_ms=500)
    await world.cache.serve(
        world.request("a word about cats"), world.stages.of("a word about cats")
    )
    await world.cache.aclose()
    assert world.cache.counters.events["stored"] == 1
