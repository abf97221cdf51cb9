"""Processes that share a server write a collection one after another."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from funnel.cache.null import NullCache
from funnel.errors import BackendUnavailable
from funnel.index import DocumentIndex
from funnel.indexing.lease import WRITERS
from funnel.indexing.qdrant import QdrantSettings
from funnel.models.base import Side
from funnel.writing import Writer
from tests.fakes import FakeEncoder, FloatArray
from tests.index.conftest import DOCUMENTS
from tests.index.loopback import Loopback, serving


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    with serving() as server:
        yield server


@pytest.fixture
async def two(loopback: Loopback) -> AsyncIterator[tuple[DocumentIndex, DocumentIndex]]:
    """Indexes as two processes have them; started and empty."""
    async with AsyncExitStack() as stack:
        settings = QdrantSettings(url=loopback.url)
        both = tuple(DocumentIndex(settings, "docs", FakeEncoder()) for _ in range(2))
        for index in both:
            stack.push_async_callback(index.aclose)
            await index.start()
        yield both[0], both[1]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that tests can outwait."""
    monkeypatch.setattr("funnel.indexing.lease.LEASE_S", 3.0)
    monkeypatch.setattr("funnel.indexing.lease.RENEW_S", 0.5)


def corpus(name: str, size: int = 300) -> list[dict[str, Any]]:
    words = "fox " * (1 + len(name))
    return [
        {"id": f"{name}{n}", "text": f"{words} {n}", "metadata": {f"field_{name}": 1}}
        for n in range(size)
    ]


@pytest.mark.parametrize("is_first", [True, False])
async def test_writes_at_once_lose_nothing(
    two: tuple[DocumentIndex, DocumentIndex], is_first: bool
) -> None:
    """Neither documents, nor statistics, nor fields; also when both make the collection."""
    one, other = two
    if not is_first:
        await one.upsert([{"id": "base", "text": "fox"}])
    await asyncio.gather(one.upsert(corpus("x", 60)), other.upsert(corpus("yyyy", 60)))
    await asyncio.gather(one.delete(["x0", "x1"]), other.delete(["x1", "x2"]))
    state = await one._live.refresh()
    assert state is not None
    assert state.documents == await other.count() == 117 + (not is_first)
    assert state.total_length == (await one._updates._upkeep.recounted("docs", state)).total_length
    assert not state.writing
    for field in ("field_x", "field_yyyy"):
        assert (await other.search(terms="fox", filters={field: 1})).bm25


async def test_a_write_waits_for_another_process_s_rebuild(
    two: tuple[DocumentIndex, DocumentIndex],
) -> None:
    """So it goes into the new collection, not into the one that is dropped."""
    one, other = two
    await one.upsert(DOCUMENTS)
    rebuilding = asyncio.create_task(one.rebuild(corpus("x")))
    while await holder(one) != one._updates._lease._token:
        continue
    await other.upsert([{"id": "new", "text": "fox"}])
    assert rebuilding.done()
    assert await other.count() == 301


async def holder(index: DocumentIndex) -> str:
    records, _ = await index._backend.call("scroll", collection_name=WRITERS, limit=1)
    return str(records[0].payload["token"])


@pytest.mark.usefixtures("short")
async def test_a_second_writer_is_refused_while_the_first_goes_on(
    two: tuple[DocumentIndex, DocumentIndex],
) -> None:
    """By the name of the first; once that is done, nothing is waited for."""
    one, other = two
    await one.upsert(DOCUMENTS)
    async with one._updates._lease.held():
        with pytest.raises(
            BackendUnavailable,
            match=rf"being written by .*process {os.getpid()}\).*nothing of this was",
        ):
            await other.upsert([{"id": "new", "text": "fox"}])
        assert await other.count() == len(DOCUMENTS)
    assert (await other.upsert([{"id": "new", "text": "fox"}])).new == 1


async def test_a_long_write_lets_a_short_one_in_between(
    two: tuple[DocumentIndex, DocumentIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it writes or deletes meanwhile stands, and the statistics are right at the end."""
    monkeypatch.setattr("funnel.indexing.update.WINDOW", 20)
    one, other = two
    await one.upsert([{"id": "old", "text": "fox"}])
    slow = one._encoder.aencode

    async def slowly(texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
        await asyncio.sleep(0.1)
        return await slow(texts, side=side)

    monkeypatch.setattr(one._encoder, "aencode", slowly)
    long = asyncio.create_task(one.upsert(corpus("x", 300)))
    while not await other.count() > 20:
        continue
    await other.upsert([{"id": "new", "text": "a fox among others", "metadata": {"short": 1}}])
    assert not long.done()
    await other.delete(["old", "x0"])
    assert not long.done()
    assert (await long).new == 300
    state = await one._live.refresh()
    assert state is not None
    assert state.documents == await other.count() == 300
    assert state.total_length == (await one._updates._upkeep.recounted("docs", state)).total_length
    assert not state.writing
    assert (await one.search(terms="fox", filters={"short": 1})).bm25[0].document.id == "new"
    assert (await one.search(terms="fox", filters={"field_x": 1})).bm25


async def test_a_long_write_that_cannot_go_on_is_told_to_the_cache(
    two: tuple[DocumentIndex, DocumentIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of it was written, so kept answers may be old; the message says how much."""
    monkeypatch.setattr("funnel.indexing.update.WINDOW", 20)
    one, cache = two[0], NotedCache()
    take, taken = one._updates._lease._take, 0

    async def once(written: int = 0) -> float:
        nonlocal taken
        taken += 1
        if taken == 2:
            raise one._updates._lease._refusal({"writer": "another one"}, written)
        return await take(written)

    async def wanted() -> bool:
        return True

    monkeypatch.setattr(one._updates._lease, "_take", once)
    monkeypatch.setattr(one._updates._lease, "wanted", wanted)
    with pytest.raises(BackendUnavailable, match="20 of this was written"):
        await Writer(one, cache).index(
            corpus("x", 60), on_bad="fail", rebuild=False, progress=False
        )
    assert cache.told
    assert await one.count() == 20


@pytest.mark.usefixtures("short")
async def test_a_killed_writer_is_forgotten_after_a_while(
    two: tuple[DocumentIndex, DocumentIndex],
) -> None:
    """The next one waits that long, and not for ever."""
    one, other = two
    await one.upsert(DOCUMENTS)
    await one._updates._lease._take()
    assert (await other.upsert([{"id": "new", "text": "fox"}])).new == 1


async def test_a_lease_that_was_not_given_back_is_its_owner_s_at_once(
    two: tuple[DocumentIndex, DocumentIndex],
) -> None:
    """When the server was away at the end, the same process need not wait for itself."""
    await two[0]._updates._lease._take()
    async with asyncio.timeout(10):
        assert (await two[0].upsert(DOCUMENTS)).new == len(DOCUMENTS)


@pytest.mark.usefixtures("short")
async def test_a_writer_that_cannot_renew_stops_in_time(
    loopback: Loopback,
    two: tuple[DocumentIndex, DocumentIndex],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the server is away, or has given the right to write to another one."""
    one, other = two
    monkeypatch.setattr("funnel.indexing.qdrant._WRITE_PAUSES_S", ())
    with pytest.raises(BackendUnavailable, match="given up"):
        async with one._updates._lease.held():
            loopback.status = 500
            await asyncio.sleep(5)
    loopback.status = 200
    with pytest.raises(BackendUnavailable, match="given up"):
        async with one._updates._lease.held():
            monkeypatch.setattr(other._updates._lease, "_token", one._updates._lease._token)
            await other._updates._lease._release()
            await asyncio.sleep(5)
    with pytest.raises(TimeoutError, match="its own"):
        async with one._updates._lease.held():
            raise TimeoutError("its own")


async def test_one_writer_pays_three_requests(
    loopback: Loopback, two: tuple[DocumentIndex, DocumentIndex]
) -> None:
    """After its first write."""
    await two[0].upsert(DOCUMENTS)
    before = len(loopback.requests)
    await two[0].upsert([{"id": "new", "text": "fox"}])
    asked = [request for request in loopback.requests[before:] if WRITERS in request]
    assert len(asked) == 3


class NotedCache(NullCache):
    """What a cache is told of changed documents."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def documents_changed(self, **what: Any) -> None:
        self.told.append(what)


@pytest.mark.parametrize("rebuild", [True, False])
async def test_a_refused_write_leaves_kept_answers_alone(
    two: tuple[DocumentIndex, DocumentIndex], monkeypatch: pytest.MonkeyPatch, rebuild: bool
) -> None:
    """Nothing was written: hours of another one's indexing must not empty a service's cache."""
    one, cache = two[0], NotedCache()
    await one.upsert(DOCUMENTS)
    writer = Writer(one, cache)

    async def refused(_: int) -> float:
        raise one._updates._lease._refusal({"writer": "another one"})

    with monkeypatch.context() as patch:
        patch.setattr(one._updates._lease, "_take", refused)
        with pytest.raises(BackendUnavailable, match="being written"):
            await writer.index(DOCUMENTS, on_bad="fail", rebuild=rebuild, progress=False)
        with pytest.raises(BackendUnavailable, match="being written"):
            await writer.delete(["d1"])
    assert cache.told == []
    await writer.delete(["d1"])
    assert cache.told == [{"deleted": ["d1"]}]


@pytest.mark.parametrize("when", ["upsert", "retrieve"])
async def test_a_caller_that_left_while_it_became_the_writer_keeps_no_one_out(
    two: tuple[DocumentIndex, DocumentIndex], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Cancelled after the server had stored its token, which nobody would renew or give back."""
    one, other = two
    await one.upsert(DOCUMENTS)
    write, stored = one._backend.write, asyncio.Event()

    async def hanging(method: str, **arguments: Any) -> Any:
        answer = await write(method, **arguments)
        values = [point.payload for point in arguments.get("points", [])]
        if method == when and "free" not in [value.get("token") for value in values]:
            stored.set()
            await asyncio.sleep(60)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(one._backend, "write", hanging)
        leaving = asyncio.create_task(one.delete(["d1"]))
        await stored.wait()
        leaving.cancel()
        await asyncio.wait({leaving})
    assert await holder(other) == "free"


async def test_a_short_limit_for_reads_does_not_keep_the_right_to_write(
    loopback: Loopback, two: tuple[DocumentIndex, DocumentIndex]
) -> None:
    """It is given back as patiently as it was asked for, also to a busy server."""
    hasty = two[0]
    hasty._backend._timeout_s = 0.04  # type: ignore[attr-defined]
    async with hasty._updates._lease.held():
        loopback.fail_next = 1
    loopback.delay_s = 0.1
    async with hasty._updates._lease.held():
        pass
    loopback.delay_s = 0.0
    assert await holder(two[1]) == "free"


async def test_one_lost_answer_does_not_end_a_long_write(
    two: tuple[DocumentIndex, DocumentIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that hangs is given up while there is time for the next one."""
    one = two[0]
    await one.upsert(DOCUMENTS)
    monkeypatch.setattr("funnel.indexing.lease.LEASE_S", 5.0)
    monkeypatch.setattr("funnel.indexing.lease.RENEW_S", 1.0)
    write, lost = one._backend.write, 0

    async def losing(method: str, **arguments: Any) -> Any:
        nonlocal lost
        if not lost:
            lost += 1
            await asyncio.sleep(60)
        return await write(method, **arguments)

    async with one._updates._lease.held():
        with monkeypatch.context() as patch:
            patch.setattr(one._backend, "write", losing)
            await asyncio.sleep(4.5)
    assert lost == 1


@pytest.mark.usefixtures("short")
async def test_a_writer_that_was_given_up_stores_no_more(
    two: tuple[DocumentIndex, DocumentIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way is waited for only while no other one may write."""
    one, other = two
    monkeypatch.setattr("funnel.indexing.ingest.STORING_S", 0.1)
    await one.upsert(DOCUMENTS)
    write = one._backend.write

    async def late(method: str, **arguments: Any) -> Any:
        if method == "upsert" and arguments["collection_name"] != WRITERS:
            storing.set()
            await asyncio.sleep(7)
        if arguments.get("collection_name") == WRITERS and storing.is_set():
            raise BackendUnavailable("away")
        return await write(method, **arguments)

    storing = asyncio.Event()
    with monkeypatch.context() as patch:
        patch.setattr(one._backend, "write", late)
        task = asyncio.create_task(one.upsert([{"id": "d1", "text": "older"}]))
        await storing.wait()
        await other.upsert([{"id": "d1", "text": "newer"}])
        with pytest.raises(BackendUnavailable, match="given up"):
            await task
    assert [document.text for document in await other.get(["d1"])] == ["newer"]


async def test_a_lost_record_of_writers_is_made_anew(
    two: tuple[DocumentIndex, DocumentIndex],
) -> None:
    """After an operator removed a collection that no service named."""
    one = two[0]
    await one.upsert(DOCUMENTS)
    await one._backend.write("delete_collection", collection_name=WRITERS)
    assert (await one.upsert([{"id": "new", "text": "fox"}])).new == 1
    assert await holder(one) == "free"


async def test_a_replica_that_does_not_know_the_record_yet_is_asked_again(
    two: tuple[DocumentIndex, DocumentIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers with no point just after the first was stored."""
    one = two[0]
    write = one._backend.write
    empty: list[list[Any]] = [[]]

    async def behind(method: str, **arguments: Any) -> Any:
        answer = await write(method, **arguments)
        if method == "retrieve" and arguments["collection_name"] == WRITERS and empty:
            return empty.pop()
        return answer

    monkeypatch.setattr(one._backend, "write", behind)
    assert (await one.upsert(DOCUMENTS)).new == len(DOCUMENTS)


@pytest.mark.usefixtures("short")
async def test_a_killed_writer_whose_clock_ran_ahead_is_forgotten_too(
    two: tuple[DocumentIndex, DocumentIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be waited for until that hour; what nobody renews is nobody's."""
    one, other = two
    await one.upsert(DOCUMENTS)
    now = time.time
    with monkeypatch.context() as patch:
        patch.setattr("funnel.indexing.lease.time.time", lambda: now() + 3_600)
        await one._updates._lease._take()
    assert (await other.upsert([{"id": "new", "text": "fox"}])).new == 1


@pytest.mark.usefixtures("short")
async def test_a_renewal_that_reads_from_a_replica_behind_ends_no_write(
    two: tuple[DocumentIndex, DocumentIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nothing is found says nothing of who writes: it is asked again."""
    one = two[0]
    write = one._backend.write
    reads = 0

    async def behind(method: str, **arguments: Any) -> Any:
        nonlocal reads
        answer = await write(method, **arguments)
        if method == "retrieve" and arguments["collection_name"] == WRITERS:
            reads += 1
            return [] if reads == 2 else answer
        return answer

    monkeypatch.setattr(one._backend, "write", behind)
    async with one._updates._lease.held():
        await asyncio.sleep(1.2)
    assert reads > 2
