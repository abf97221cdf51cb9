"""Index writes, purges and the epoch: nobody gets an answer that is no longer true."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from funnel.cache import invalidation
from funnel.cache.store import Epoch, Record, Stored
from funnel.cache.store_memory import MemoryStore
from funnel.errors import CacheError
from funnel.models.base import Side
from funnel.types import Document
from tests.cache.world import Clock, Stages, World, settle


@pytest.fixture
def world() -> World:
    """A world with two kept answers, on cats and on dogs."""
    return World()


async def _fill(world: World) -> None:
    await world.ask("a word about cats")
    await world.ask("a word about dogs")


async def _status(world: World, topic: str) -> str:
    return (await world.ask(f"a word about {topic}")).info.status


async def test_unnamed_change_drops_everything(world: World) -> None:
    """When nobody says what was written, anything may have changed."""
    await _fill(world)
    await world.cache.documents_changed()
    assert [await _status(world, topic) for topic in ("cats", "dogs")] == ["miss", "miss"]


async def test_deleted_document_drops_the_answers_that_hold_it(world: World) -> None:
    """Other answers stay."""
    await _fill(world)
    await world.cache.documents_changed(deleted=["cats-2"])
    assert [await _status(world, topic) for topic in ("cats", "dogs")] == ["miss", "hit"]


async def test_updated_document_drops_the_answers_that_hold_it(world: World) -> None:
    """The same for a document whose text changed, wherever its text has moved to."""
    await _fill(world)
    changed = Document("dogs-1", "now of something else", "Note about zebras")
    await world.cache.documents_changed(upserted=[changed])
    assert [await _status(world, topic) for topic in ("cats", "dogs")] == ["hit", "miss"]


async def test_new_document_drops_the_answers_it_might_enter(world: World) -> None:
    """Reverse search: a new text near a cached question makes that answer incomplete."""
    await _fill(world)
    await world.cache.documents_changed(upserted=[Document("new", "all there is about cats")])
    assert [await _status(world, topic) for topic in ("cats", "dogs")] == ["miss", "hit"]


async def test_new_document_drops_answers_that_have_room(world: World) -> None:
    """An answer shorter than its k may get any new document, however far it is."""
    await world.ask("a word about cats", partition={"k": 3})
    await _fill(world)
    changed = Document("dogs-1", "of something else", "Note about zebras")
    await world.cache.documents_changed(deleted=["zebras-1"])
    assert (await world.ask("a word about cats", partition={"k": 3})).info.status == "hit"
    await world.cache.documents_changed(upserted=[changed])
    assert (await world.ask("a word about cats", partition={"k": 3})).info.status == "miss"
    assert [await _status(world, topic) for topic in ("cats", "dogs")] == ["hit", "miss"]


@pytest.mark.parametrize("size", [60, 3_000])
async def test_the_end_of_a_long_document_counts_too(world: World, size: int) -> None:
    """What the encoder would not read of it in one piece; what is endless drops everything."""
    await _fill(world)
    long = Document("new", f"{'filler ' * size}all there is about cats")
    await world.cache.documents_changed(upserted=[long])
    assert [await _status(world, topic) for topic in ("cats", "dogs")] == ["miss", "hit"]
    endless = Document("endless", "filler " * 300_000)
    await world.cache.documents_changed(upserted=[endless])
    assert await _status(world, "dogs") == "miss"


async def test_new_document_is_read_as_one(world: World) -> None:
    """Of an encoder that tells queries from documents; its length counts as read so, too."""
    await _fill(world)
    world.encoder.sides.clear()
    await world.cache.documents_changed(upserted=[Document("new", "all there is about cats")])
    assert world.encoder.sides == ["document", "document"]


async def test_new_document_reaches_all_partitions_and_tenants(world: World) -> None:
    """Reverse search looks at every tenant's and every setting's answers."""
    await world.ask("a word about cats", scope="left")
    await world.ask("a word about cats", partition={"k": 3})
    await world.cache.documents_changed(upserted=[Document("new", "all there is about cats")])
    assert (await world.ask("a word about cats", scope="left")).info.status == "miss"
    assert (await world.ask("a word about cats", partition={"k": 3})).info.status == "miss"


async def test_a_document_near_to_very_many_drops_everything_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One by one, and for each further document again, that took minutes."""
    monkeypatch.setattr(invalidation, "_AFFECTED", 3)

    class Counting(MemoryStore):
        dropped = 0

        async def delete(self, partition: str, key: str) -> bool:
            self.dropped += 1
            return await super().delete(partition, key)

    store = Counting()
    world = World(store=store)
    for text in ("one about cats", "a tale about birds", "one about dogs"):
        await world.ask(text)
    near = [Document(f"new-{n}", "all there is about cats") for n in range(3)]
    await world.cache.documents_changed(upserted=near[:1])
    assert store.dropped == 1
    for other in range(3):
        await world.ask("one about cats", partition={"k": 2, "other": other})
    await world.cache.documents_changed(upserted=near)
    assert store.dropped == 1
    assert (await world.ask("one about dogs")).info.status == "miss"


async def test_reverse_search_that_fails_drops_everything() -> None:
    """What could not be found out is owed as if all had changed."""

    class Silent(MemoryStore):
        async def nearest_anywhere(
            self, vector: Any, *, limit: int, floor: float
        ) -> Sequence[Stored]:
            raise CacheError("not in time")

    world = World(store=Silent())
    await _fill(world)
    await world.cache.documents_changed(upserted=[Document("new", "all there is about cats")])
    await asyncio.sleep(0.2)
    assert [await _status(world, topic) for topic in ("cats", "dogs")] == ["miss", "miss"]


async def test_interrupted_write_drops_everything(world: World) -> None:
    """A caller who gives up while the cache is being told has still changed the index."""
    await _fill(world)
    encodes = asyncio.Event()

    async def never(texts: Sequence[str], *, side: Side | None = None) -> Any:
        encodes.set()
        await asyncio.Event().wait()

    aencode, world.encoder.aencode = world.encoder.aencode, never  # type: ignore[method-assign]
    changed = [Document("new", "all there is about cats")]
    task = asyncio.create_task(world.cache.documents_changed(upserted=changed))
    await encodes.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    world.encoder.aencode = aencode  # type: ignore[method-assign]
    assert (await world.ask("a word about cats")).info.reason == "invalidation_pending"
    await asyncio.sleep(0.2)
    assert [await _status(world, topic) for topic in ("cats", "dogs")] == ["miss", "miss"]


class Deaf(MemoryStore):
    """A memory store that cannot be told of writes for a while, and keeps nothing meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.hears = asyncio.Event()

    async def bump(self, *, invalidate: bool) -> Epoch:
        if not self.hears.is_set():
            raise CacheError("not now")
        return await super().bump(invalidate=invalidate)

    @property
    def floor(self) -> int:
        return self._epoch.floor

    async def put(self, record: Record) -> bool:
        await self.hears.wait()
        return await super().put(record)


async def test_while_a_write_is_owed_equal_questions_are_one_run() -> None:
    """Of what came since the latest write: what began before it may hold the old corpus."""
    store = Deaf()
    world = World(store=store, stages=Stages(delay_s=0.1), timeout_ms=300)
    await world.cache.start()
    await world.cache.documents_changed()
    asked = [asyncio.ensure_future(world.ask("one about cats")) for _ in range(20)]
    await asyncio.sleep(0.05)
    assert len(world.stages.runs) == 1
    await world.cache.documents_changed()
    later = await asyncio.gather(*(world.ask("one about cats") for _ in range(20)))
    assert len(world.stages.runs) == 2
    infos = [served.info for served in (*await asyncio.gather(*asked), *later)]
    assert [info.status for info in infos].count("hit") == 38
    assert {info.reason for info in infos if info.status != "hit"} == {"invalidation_pending"}
    assert (await world.cache.stats())["store"]["entries"] == 0


async def test_what_is_owed_needs_no_room_among_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all room for background work taken, the debt is paid as soon as the store answers."""
    monkeypatch.setattr("funnel.cache.semantic._WRITES", 1)
    store = Deaf()
    world = World(store=store, timeout_ms=300)
    asked = asyncio.create_task(world.ask("a word about cats"))  # keeping it takes the only room
    await settle()
    await world.cache.documents_changed()
    await asked
    store.hears.set()
    assert await world.cache.settled(within_s=2.0)
    assert (await world.ask("a word about cats")).info.reason != "invalidation_pending"


async def test_write_that_is_owed_meanwhile_is_paid_too() -> None:
    """A payment under way may have been taken before the next write."""
    store = Deaf()
    world = World(store=store)
    await world.cache.documents_changed()
    paying, slow, told = asyncio.Event(), asyncio.Event(), 0

    async def bump(*, invalidate: bool) -> Epoch:
        nonlocal told
        told += 1
        number = told
        if number == 1:
            paying.set()
            await slow.wait()
        if number == 2:
            raise CacheError("not now")
        return await MemoryStore.bump(store, invalidate=invalidate)

    store.bump = bump  # type: ignore[method-assign]
    await paying.wait()
    await world.cache.documents_changed()
    slow.set()
    assert await world.cache.settled(within_s=2.0)
    assert told == 3


async def test_closing_says_what_stays_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends a process whose write was never told can read it in the log."""
    monkeypatch.setattr("funnel.cache.semantic._CLOSE_S", 0.1)
    world = World(store=Deaf())
    await world.cache.documents_changed()
    with capture_logs() as events:
        await world.cache.aclose()
    (error,) = [event for event in events if event["log_level"] == "error"]
    assert error["event"] == "cache.closed_owing"
    assert "funnel cache purge" in error["mend"]


async def test_closing_lets_what_is_owed_be_paid() -> None:
    """A store that answers again within the time of closing is told."""
    store = Deaf()
    world = World(store=store)
    await world.cache.documents_changed()
    store.hears.set()
    await world.cache.aclose()
    assert store.floor > 0


async def test_aliases_die_with_their_target(world: World) -> None:
    """A paraphrase of a dropped answer is computed anew."""
    await _fill(world)
    assert (await world.ask("something about cats")).info.status == "hit"
    await world.cache.documents_changed(deleted=["cats-1"])
    assert (await world.ask("something about cats")).info.status == "miss"


async def test_bulk_write_drops_everything() -> None:
    """Over the bulk limit nobody searches document by document."""
    world = World(bulk_documents=2)
    await _fill(world)
    await world.cache.documents_changed(deleted=["x", "y", "z"])
    assert await _status(world, "dogs") == "miss"


async def test_epoch_mode_drops_everything_on_any_write() -> None:
    """``invalidation: epoch`` trusts no targeted invalidation."""
    world = World(invalidation="epoch")
    await _fill(world)
    await world.cache.documents_changed(deleted=["cats-1"])
    assert await _status(world, "dogs") == "miss"


async def test_replica_sees_a_write_within_the_lag() -> None:
    """Another process's index write ends this one's in-process tier in under a second."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    here = World(store=store, clock=clock, epoch_lag_ms=0)
    there = World(store=store, clock=clock, epoch_lag_ms=0)
    await here.ask("a word about cats")
    assert (await there.ask("a word about cats")).info.status == "hit"
    await there.cache.documents_changed()
    assert (await here.ask("a word about cats")).info.status == "miss"


async def test_purge_of_one_scope(world: World) -> None:
    """A tenant's answers go, the others stay, and the count is told."""
    await world.ask("a word about cats", scope="left")
    await world.ask("a word about cats", scope="right")
    assert await world.cache.purge(scope="left") == 1
    assert (await world.ask("a word about cats", scope="left")).info.status == "miss"
    assert (await world.ask("a word about cats", scope="right")).info.status == "hit"


async def test_purge_of_everything(world: World) -> None:
    """All answers go."""
    await _fill(world)
    assert await world.cache.purge() == 2
    assert await _status(world, "cats") == "miss"


async def test_forgetting_one_query(world: World) -> None:
    """One entry can be dropped by its query."""
    await _fill(world)
    assert await world.cache.forget(world.request("a word about cats"))
    assert not await world.cache.forget(world.request("a word about cats"))
    assert [await _status(world, topic) for topic in ("cats", "dogs")] == ["miss", "hit"]


async def test_forgetting_a_wording_forgets_what_answered_it(world: World) -> None:
    """An alias goes with the entry that it leads to, or the next ask would find that again."""
    await _fill(world)
    assert (await world.ask("something about cats")).info.tier == "semantic"
    assert await world.cache.forget(world.request("something about cats"))
    assert (await world.ask("something about cats")).info.status == "miss"
    assert await _status(world, "dogs") == "hit"


async def test_forgotten_answer_is_not_put_back_by_a_run_in_flight() -> None:
    """What was computed before is refused, whenever it comes."""

    class PutsBack(MemoryStore):
        last: Record

        async def put(self, record: Record) -> bool:
            self.last = record
            return await super().put(record)

        async def delete(self, partition: str, key: str) -> bool:
            found = await super().delete(partition, key)
            await super().put(self.last)
            return found

    world = World(store=PutsBack())
    await world.ask("a word about cats")
    assert await world.cache.forget(world.request("a word about cats"))
    assert await _status(world, "cats") == "miss"


async def test_entry_that_was_read_before_it_was_dropped_is_not_served() -> None:
    """What a query takes into this process's memory while entries are being dropped goes too."""

    class Slow(MemoryStore):
        world: World

        async def delete(self, partition: str, key: str) -> bool:
            await _status(self.world, "cats")
            return await super().delete(partition, key)

        async def delete_documents(self, ids: Sequence[str]) -> int:
            await _status(self.world, "dogs")
            return await super().delete_documents(ids)

    store = Slow()
    store.world = world = World(store=store)
    await _fill(world)
    await world.cache.forget(world.request("a word about cats"))
    assert await _status(world, "cats") == "miss"
    await world.cache.documents_changed(deleted=["dogs-1"])
    assert await _status(world, "dogs") == "miss"
