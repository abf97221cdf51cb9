"""Processes that share a server write a collection one after another."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from funnel.errors import BackendUnavailable
from funnel.index import DocumentIndex
from funnel.indexing.lease import WRITERS
from funnel.indexing.qdrant import QdrantSettings
from tests.fakes import FakeEncoder
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
    monkeypatch.setattr("funnel.indexing.lease.LEASE_S", 1.2)
    monkeypatch.setattr("funnel.indexing.lease.RENEW_S", 0.2)


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
    await asyncio.gather(one.upsert(corpus("x")), other.upsert(corpus("yyyy")))
    await asyncio.gather(one.delete(["x0", "x1"]), other.delete(["x1", "x2"]))
    state = await one._refresh()
    assert state is not None
    assert state.documents == await other.count() == 597 + (not is_first)
    assert state.total_length == (await one._upkeep.recounted("docs", state)).total_length
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
    while await holder(one) != one._lease._token:
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
    async with one._lease.held():
        with pytest.raises(
            BackendUnavailable, match=rf"being written by .*process {os.getpid()}\).*nothing was"
        ):
            await other.upsert([{"id": "new", "text": "fox"}])
        assert await other.count() == len(DOCUMENTS)
    assert (await other.upsert([{"id": "new", "text": "fox"}])).new == 1


@pytest.mark.usefixtures("short")
async def test_a_killed_writer_is_forgotten_after_a_while(
    two: tuple[DocumentIndex, DocumentIndex],
) -> None:
    """The next one waits that long, and not for ever."""
    one, other = two
    await one.upsert(DOCUMENTS)
    await one._lease._take()
    assert (await other.upsert([{"id": "new", "text": "fox"}])).new == 1


async def test_a_lease_that_was_not_given_back_is_its_owner_s_at_once(
    two: tuple[DocumentIndex, DocumentIndex],
) -> None:
    """When the server was away at the end, the same process need not wait for itself."""
    await two[0]._lease._take()
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
        async with one._lease.held():
            loopback.status = 500
            await asyncio.sleep(5)
    loopback.status = 200
    with pytest.raises(BackendUnavailable, match="given up"):
        async with one._lease.held():
            monkeypatch.setattr(other._lease, "_token", one._lease._token)
            await other._lease._release()
            await asyncio.sleep(5)
    with pytest.raises(TimeoutError, match="its own"):
        async with one._lease.held():
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
