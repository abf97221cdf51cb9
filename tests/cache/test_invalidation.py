"""Index writes, purges and the epoch: nobody gets an answer that is no longer true."""

import pytest

from funnel.cache.store_memory import MemoryStore
from funnel.types import Document
from tests.cache.world import Clock, World


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


async def test_new_document_reaches_all_partitions_and_tenants(world: World) -> None:
    """Reverse search looks at every tenant's and every setting's answers."""
    await world.ask("a word about cats", scope="left")
    await world.ask("a word about cats", partition={"k": 3})
    await world.cache.documents_changed(upserted=[Document("new", "all there is about cats")])
    assert (await world.ask("a word about cats", scope="left")).info.status == "miss"
    assert (await world.ask("a word about cats", partition={"k": 3})).info.status == "miss"


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
