"""Several caches over one shared store, as in several processes."""

import asyncio
import time

import pytest

from funnel.cache import invalidation
from funnel.cache.background import Background
from tests.cache.conftest import SHARED_KINDS, MakeStore
from tests.cache.world import Stages, World, settle

pytestmark = pytest.mark.parametrize("store_kind", SHARED_KINDS, indirect=True)


async def _worlds(make_store: MakeStore, count: int, *, delay_s: float = 0.0) -> list[World]:
    stages = Stages(delay_s=delay_s)
    worlds = [
        World(
            store=await make_store(),
            stages=stages,
            timeout_ms=5_000,
            epoch_lag_ms=0,
            lease_wait_s=20,
        )
        for _ in range(count)
    ]
    for world in worlds:
        await world.cache.start()
    return worlds


async def test_one_keeps_the_other_serves(make_store: MakeStore) -> None:
    """What one process computed, the other serves: exactly and as a paraphrase."""
    here, there = await _worlds(make_store, 2)
    await here.ask("a word about cats")
    await _kept(here)
    assert (await there.ask("a word about cats")).info.tier == "exact"
    for _ in range(100):
        served = await there.ask("something about cats")
        if served.info.status == "hit":
            break
        await asyncio.sleep(0.02)
    assert served.info.status == "hit"


async def test_same_text_in_two_processes_is_one_run(make_store: MakeStore) -> None:
    """The lease lets one compute; the other waits and takes what was kept."""
    worlds = await _worlds(make_store, 2, delay_s=0.3)
    text = "a word about cats"
    served = await asyncio.gather(
        *(world.cache.serve(world.request(text), world.stages.of(text)) for world in worlds)
    )
    assert len(worlds[0].stages.runs) == 1
    assert sorted(one.info.status for one in served) == ["hit", "miss"]
    assert served[0].answer.hits == served[1].answer.hits


async def test_paraphrases_in_two_processes_are_one_run_each_at_most(
    make_store: MakeStore,
) -> None:
    """Twenty wordings in each of two processes: two runs at most."""
    worlds = await _worlds(make_store, 2, delay_s=0.3)
    texts = [f"wording {'abcdefghijklmnopqrst'[n] * 2} about cats" for n in range(20)]
    await asyncio.gather(
        *(
            world.cache.serve(world.request(text), world.stages.of(text))
            for text in texts
            for world in worlds
        )
    )
    assert len(worlds[0].stages.runs) <= 2


async def test_index_write_here_ends_hits_there(make_store: MakeStore) -> None:
    """A write in one process is seen by the other's next lookup."""
    here, there = await _worlds(make_store, 2)
    await here.ask("a word about cats")
    await _kept(here)
    assert (await there.ask("a word about cats")).info.status == "hit"
    await here.cache.documents_changed()
    assert (await there.ask("a word about cats")).info.status == "miss"


async def test_a_process_that_dies_between_a_write_and_telling_of_it(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other serves nothing from before once the dead one is silent for its time, no sooner."""
    monkeypatch.setattr(invalidation, "_ANNOUNCED_S", 0.4)
    monkeypatch.setattr(invalidation, "_ANNOUNCE_EVERY_S", 0.1)
    here, there = await _worlds(make_store, 2)
    await there.ask("a word about cats")
    await _kept(there)
    async with here.cache.documents_changing():
        await asyncio.sleep(0.6)
        assert (await there.ask("a word about cats")).info.status == "hit"
    await asyncio.sleep(0.6)
    assert (await there.ask("a word about cats")).info.status == "hit"
    monkeypatch.setattr(invalidation, "_ANNOUNCE_EVERY_S", 60)
    write = here.cache.documents_changing()
    await write.__aenter__()
    await asyncio.sleep(0.5)
    assert (await there.ask("a word about cats")).info.status == "miss"
    await write.__aexit__(None, None, None)


async def test_a_write_that_found_no_room_gives_its_lease_back(make_store: MakeStore) -> None:
    """The answer is not kept; the next one to ask need not wait for a lease that nobody uses."""
    (world,) = await _worlds(make_store, 1)
    world.cache._writes = world.cache._serving._writes = Background(0)
    await world.ask("a word about cats")
    assert await _seconds(world, "a word about cats") < 1
    world.stages.error = RuntimeError("boom")
    with pytest.raises(RuntimeError):
        await world.ask("a word about dogs")
    world.stages.error = None
    assert await _seconds(world, "a word about dogs") < 1


async def test_who_asks_after_an_index_write_does_not_wait_for_an_older_run(
    make_store: MakeStore,
) -> None:
    """The older run's answer will not be kept, so its lease is no reason to wait."""
    (world,) = await _worlds(make_store, 1, delay_s=3)
    text = "a word about cats"
    older = asyncio.ensure_future(world.cache.serve(world.request(text), world.stages.of(text)))
    for _ in range(200):
        if world.stages.runs:
            break
        await asyncio.sleep(0.01)
    await world.cache.documents_changed(deleted=["dogs-1"])
    world.stages.delay_s = 0.0
    assert await _seconds(world, text) < 1.5
    older.cancel()
    await asyncio.gather(older, return_exceptions=True)


async def _seconds(world: World, text: str) -> float:
    began = time.monotonic()
    await world.ask(text)
    return time.monotonic() - began


async def _kept(world: World) -> None:
    for _ in range(200):
        if world.cache.counters.events["stored"]:
            return
        await asyncio.sleep(0.01)
        await settle()
