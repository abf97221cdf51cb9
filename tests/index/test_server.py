"""A server that is away, slow, busy, locked or too old: one clear error each."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from funnel.deadline import Deadline
from funnel.errors import (
    AuthError,
    BackendUnavailable,
    Closed,
    ConfigError,
    FunnelError,
    RateLimited,
    StageTimeout,
)
from funnel.index import DocumentIndex
from funnel.indexing.qdrant import QdrantSettings, ServerBackend
from tests.fakes import FakeEncoder
from tests.index.conftest import DOCUMENTS
from tests.index.loopback import Loopback, serving


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("funnel.indexing.qdrant._WRITE_PAUSES_S", (0.01, 0.02, 0.04))


def made(url: str, **settings: object) -> DocumentIndex:
    return DocumentIndex(QdrantSettings(url=url, **settings), "docs", FakeEncoder())  # type: ignore[arg-type]


@pytest.fixture
async def index(loopback: Loopback) -> AsyncIterator[DocumentIndex]:
    """A started index with documents on a loopback server."""
    index = made(loopback.url, timeout_ms=2_000)
    await index.start()
    await index.upsert(DOCUMENTS)
    yield index
    await index.aclose()


async def test_no_server_at_start_is_said_within_a_second() -> None:
    """The message names the place and the mend."""
    index = made("http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(BackendUnavailable, match=r"http://127.0.0.1:9 cannot be reached.*compose"):
        await index.start()
    assert time.monotonic() - began < 1.5


async def test_a_server_that_is_too_old_is_refused(loopback: Loopback) -> None:
    """Collection metadata came with 1.16."""
    loopback.version = "1.15.3"
    with pytest.raises(ConfigError, match=r"version 1\.15\.3, expected at least 1\.16"):
        await made(loopback.url).start()


@pytest.mark.parametrize("version", ["unknown", "", None, {"number": "8.1"}])
async def test_what_is_no_qdrant_server_is_said_to_be_none(
    loopback: Loopback, version: Any
) -> None:
    """Another service at that address, say; it is not said to be down."""
    loopback.version = version
    with pytest.raises(BackendUnavailable, match=r"as a Qdrant server does .* check qdrant\.url"):
        await made(loopback.url).start()


async def test_a_slow_server_ends_at_the_deadline(loopback: Loopback, index: DocumentIndex) -> None:
    """The caller does not wait for the socket's own timeout."""
    loopback.delay_s = 1.5
    began = time.monotonic()
    with pytest.raises(StageTimeout, match="what the deadline left"):
        await index.search(terms="fox", deadline=Deadline.after_ms(80))
    assert time.monotonic() - began < 1.0


async def test_a_slow_server_without_a_deadline_ends_at_the_settings_limit(
    loopback: Loopback,
) -> None:
    """``timeout_ms`` holds even below a second."""
    index = made(loopback.url, timeout_ms=150)
    await index.start()
    loopback.delay_s = 1.0
    with pytest.raises(BackendUnavailable, match=r"did not answer within \d+ ms.*timeout_ms"):
        await index.count()
    await index.aclose()


async def test_a_storm_waits_outside_of_the_client(loopback: Loopback) -> None:
    """In it every call looks through all that wait: 250 held the loop past their ends."""
    inside = most = 0

    class Crowd:
        async def info(self) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

        async def close(self) -> None:
            pass

    backend = ServerBackend(QdrantSettings(url=loopback.url))
    backend._client = Crowd()  # type: ignore[assignment]
    await asyncio.gather(*(backend.call("info") for _ in range(150)))
    assert most == 100
    await backend.aclose()


async def test_a_connection_closed_by_the_server_is_opened_again(
    loopback: Loopback, index: DocumentIndex
) -> None:
    """A restart between two queries costs no failed query."""
    loopback.drop_next = 1
    assert len((await index.search(terms="fox", k=3)).bm25) == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, AuthError), (403, AuthError), (429, RateLimited), (500, BackendUnavailable)],
)
async def test_statuses_become_the_errors_of_this_library(
    loopback: Loopback, index: DocumentIndex, status: int, error: type[FunnelError]
) -> None:
    """Callers never meet the client's own exceptions."""
    loopback.status = status
    with pytest.raises(error):
        await index.search(terms="fox")


async def test_a_wrong_key_is_refused_and_never_shown(loopback: Loopback) -> None:
    """The key reaches the server, and no message or repr."""
    loopback.api_key = "right"
    wrong = QdrantSettings(url=loopback.url, api_key="s3cret")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="insecure"), pytest.raises(AuthError) as caught:
        await DocumentIndex(wrong, "docs", FakeEncoder()).start()
    assert "s3cret" not in f"{caught.value} {wrong!r}"


async def test_writes_wait_for_a_server_that_restarts(
    loopback: Loopback, index: DocumentIndex
) -> None:
    """Two refusals on the way do not end an indexing run."""
    loopback.fail_next = 2
    with pytest.raises(BackendUnavailable):
        await index.count()
    report = await index.upsert([{"id": "new", "text": "fox"}])
    assert (report.new, await index.count()) == (1, 13)


async def test_a_server_that_dies_while_indexing_leaves_a_run_to_continue(
    loopback: Loopback, index: DocumentIndex
) -> None:
    """The error is clear, and the same upsert finishes once the server is back."""
    corpus = [{"id": f"n{n}", "text": f"fox {n}"} for n in range(1_500)]
    loopback.stores_left = 2
    with pytest.raises(BackendUnavailable, match="HTTP 500"):
        await index.upsert(corpus)
    loopback.stores_left = None
    loopback.status = 200
    report = await index.upsert(corpus)
    assert report.unchanged > 0
    assert report.documents == await index.count() == 1_512


async def test_a_cancelled_search_does_not_harm_the_next(
    loopback: Loopback, index: DocumentIndex
) -> None:
    """A caller that goes away leaves the connection pool usable."""
    loopback.delay_s = 0.3
    task = asyncio.create_task(index.search(terms="fox"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    loopback.delay_s = 0.0
    assert (await index.search(terms="fox")).bm25


async def test_one_search_is_one_round_trip(loopback: Loopback, index: DocumentIndex) -> None:
    """Both sources travel together."""
    vector = FakeEncoder().encode(["fox"])[0]
    before = len(loopback.requests)
    await index.search(vector=vector, terms="fox", filters={"lang": "en"})
    assert len(loopback.requests) == before + 1


async def test_another_process_s_writes_show_in_the_epoch(
    loopback: Loopback, index: DocumentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second index on the server sees them within the refresh time."""
    monkeypatch.setattr("funnel.indexing.live._REFRESH_S", 0.0)
    other = made(loopback.url)
    await other.start()
    assert await other.epoch() == await index.epoch()
    await index.upsert([{"id": "new", "text": "fox", "metadata": {"colour": "red"}}])
    assert await other.epoch() == await index.epoch()
    found = await other.search(terms="fox", filters={"colour": "red"})
    assert [item.document.id for item in found.bm25] == ["new"]
    await other.aclose()


async def test_another_process_s_rebuild_with_another_embedder_is_refused(
    loopback: Loopback, index: DocumentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors of the same length must not be searched with the wrong model, until it fits again."""
    monkeypatch.setattr("funnel.indexing.live._REFRESH_S", 0.0)
    other = DocumentIndex(
        QdrantSettings(url=loopback.url), "docs", FakeEncoder("fake:other", revision="2")
    )
    await other.rebuild(DOCUMENTS[:3])
    await index.search(terms="fox")  # does not wait for what it sets going
    assert index._live._refreshing is not None
    await index._live._refreshing
    for refresh_s in (0.0, 60.0):  # asked again, and as it was answered
        monkeypatch.setattr("funnel.indexing.live._REFRESH_S", refresh_s)
        with pytest.raises(ConfigError, match="made with the embedder fake:other"):
            await index.search(terms="fox")
        assert index.refused
    await index.rebuild(DOCUMENTS[:2])
    assert len((await index.search(terms="fox")).bm25) == 2
    assert not index.refused
    await other.aclose()


async def test_an_old_state_costs_no_search_its_answer(
    loopback: Loopback, index: DocumentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is read anew beside the search, not before it, and closing ends that."""
    monkeypatch.setattr("funnel.indexing.live._REFRESH_S", 0.0)
    before = len(loopback.requests)
    assert (await index.search(terms="fox")).bm25
    assert any(request.endswith("/query/batch") for request in loopback.requests[before:])
    assert index._live._refreshing is not None
    loopback.delay_s = 0.2
    await index.search(terms="fox")
    await index.aclose()
    assert index._live._refreshing.done()


async def test_payload_indexes_are_made_for_the_named_fields(loopback: Loopback) -> None:
    """Filters on them stay fast on a server."""
    index = made(loopback.url, payload_indexes={"lang": "keyword", "year": "integer"})
    await index.start()
    await index.upsert(DOCUMENTS)
    assert indexed(loopback) == {"metadata.lang": "keyword", "metadata.year": "integer"}
    await index.aclose()


async def test_payload_indexes_named_later_are_made_by_the_next_indexing(
    loopback: Loopback, index: DocumentIndex
) -> None:
    """Also one of another type; those that are there are not asked for again."""
    for fields in ({"lang": "keyword", "year": "float"}, {"lang": "keyword", "year": "integer"}):
        later = made(loopback.url, payload_indexes=fields)
        await later.start()
        assert (await later.upsert(DOCUMENTS)).unchanged == len(DOCUMENTS)
        assert indexed(loopback) == {f"metadata.{field}": kind for field, kind in fields.items()}
        await later.aclose()
    asked = [path for path in loopback.requests if path.endswith("/index") and "docs--" in path]
    assert len(asked) == 3


def indexed(loopback: Loopback) -> dict[str, str]:
    """The kinds of the indexed fields of the one collection of documents."""
    (made,) = (made for name, made in loopback.indexes.items() if name.startswith("docs--"))
    return made


async def test_a_collection_of_someone_else_is_left_alone(loopback: Loopback) -> None:
    """A plain collection of that name is refused, not written into."""
    from qdrant_client import models

    vectors = models.VectorParams(size=4, distance=models.Distance.DOT)
    loopback.client.create_collection("docs", vectors_config=vectors)
    with pytest.raises(ConfigError, match="'docs' exists and was not made by funnel"):
        await made(loopback.url).start()


async def test_a_closed_index_says_so(index: DocumentIndex) -> None:
    """Not an attribute error."""
    await index.aclose()
    with pytest.raises(Closed):
        await index.search(terms="fox")
