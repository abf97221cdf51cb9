"""What is kept: whole, bounded, nobody else's, and out of reach of callers."""

import asyncio
import os
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path
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
from funnel.types import Hit, SourceScore
from tests.cache.conftest import MakeStore
from tests.cache.world import Stages, World, hit, settle

MemoryInUse = Callable[[], int]


@pytest.fixture
def memory_in_use() -> Iterator[MemoryInUse]:
    """Counts the bytes that were taken since the test began and are not free again."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


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
    for number in range(1_500):
        text = f"q{number} about t{number}"
        await world.cache.serve(world.request(text), world.stages.of(text))
    await settle()
    stats = await world.cache.stats()
    assert stats["store"]["entries"] <= 50
    assert len(world.cache.flights) == 0


async def test_nothing_stays_of_records_that_went(memory_in_use: MemoryInUse) -> None:
    """Beyond its cap a store holds not one byte more for what it let in and out again."""
    store = MemoryStore(StoreLimits(max_entries=100))
    early, late = await _flood(store, Doorkeeper(200), 15_000, {2_999, 14_999}, memory_in_use)
    assert late - early < 60_000  # five bytes for each that came between
    await store.aclose()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_million_records_against_a_small_cap() -> None:
    """What remembers queries stays within its bounds, and the process does not grow by them.

    Not by 16 bytes for each, native memory included.
    """
    store = MemoryStore(StoreLimits(max_entries=1_000))
    early, late = await _flood(store, Doorkeeper(2_000), 1_000_000, {100_000, 999_999}, _resident)
    stats = await store.stats()
    assert (stats.entries, stats.extra["nearest"]["vectors"]) == (1_000, 100)
    assert late - early < 16 * 900_000
    await store.aclose()


async def _flood(
    store: MemoryStore, doorkeeper: Doorkeeper, count: int, looks: set[int], memory: MemoryInUse
) -> list[int]:
    """Put that many different records, a tenth with vectors; the memory at some of them."""
    vector = np.ones(4, dtype=np.float32)
    taken: list[int] = []
    for number in range(count):
        place = Place(f"{number % 3:032x}", f"{number * 7919:032x}", "")
        doorkeeper.admits(place)
        near = vector if number % 10 == 0 else None
        await store.put(
            Record(place.partition, place.key, "", b"x" * 64, 60, 0, vector=near, documents=["d"])
        )
        if number in looks:
            taken.append(memory())
    return taken


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
    for number in range(400):
        text = f"q{number} about t{number}"
        await world.cache.serve(world.request(text), world.stages.of(text))
        if number % 20 == 0:
            assert (await world.ask(popular)).info.status == "hit"
    place = place_of(world.request(popular), world.cache.matcher.identity)
    assert place is not None
    assert (await store.get(place.partition, place.key)).found
    assert (await store.stats()).evictions > 5


async def test_popular_entries_survive_though_each_comes_back_seldom() -> None:
    """Fifteen times more one-time queries than there is room for lie between two uses of one."""
    world = World(max_entries=20, local_entries=0, semantic=False)
    once = iter(range(10_000))

    async def one_time_queries(count: int) -> None:
        for number in islice(once, count):
            text = f"q{number} about t{number}"
            await world.cache.serve(world.request(text), world.stages.of(text))

    await one_time_queries(200)  # a while after the cache is full it is known to be
    popular = [f"popular about p{number}" for number in range(6)]
    for text in popular * 2:
        await world.ask(text)
    for text in popular * 5:
        await one_time_queries(50)
        assert (await world.ask(text)).info.status == "hit"


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
