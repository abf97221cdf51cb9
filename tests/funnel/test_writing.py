"""Writes: what the cache is told of them, whatever happens to the write."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from funnel.cache.null import NullCache
from funnel.errors import BackendUnavailable, CorpusError, InputError
from funnel.index import DocumentIndex, IndexReport
from funnel.indexing.qdrant import QdrantSettings
from funnel.writing import Writer
from tests.fakes import FakeEncoder

DOCUMENTS = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]


class Watcher(NullCache):
    """Writes down what it is told: ids upserted, ids deleted."""

    def __init__(self) -> None:
        self.told: list[tuple[list[str], list[str]]] = []
        self.writing = False

    @asynccontextmanager
    async def documents_changing(self) -> AsyncIterator[None]:
        self.writing = True
        try:
            yield
        finally:
            self.writing = False

    async def documents_changed(
        self, *, upserted: Sequence[Any] = (), deleted: Sequence[str] = ()
    ) -> None:
        assert self.writing  # from before the write until it is told
        self.told.append(([document.id for document in upserted], list(deleted)))


class BreaksHalfway(DocumentIndex):
    """Deletes the first document and then loses its server."""

    async def delete(self, ids: Iterable[str]) -> int:
        await super().delete([*ids][:1])
        raise BackendUnavailable("gone")


@pytest.fixture
def watcher() -> Watcher:
    """A cache that watches."""
    return Watcher()


@pytest.fixture
async def index() -> AsyncIterator[BreaksHalfway]:
    """Two documents."""
    index = BreaksHalfway(QdrantSettings(), "docs", FakeEncoder())
    await index.start()
    await index.upsert(DOCUMENTS)
    yield index
    await index.aclose()


async def _write(writer: Writer, **options: Any) -> None:
    await writer.index(DOCUMENTS, on_bad="fail", rebuild=False, progress=False, **options)


async def test_a_delete_that_failed_halfway_is_told(index: BreaksHalfway, watcher: Watcher) -> None:
    """Some of the documents are gone, nobody knows which."""
    with pytest.raises(BackendUnavailable):
        await Writer(index, watcher).delete(["a", "b"])
    assert await index.count() == 1
    assert watcher.told == [([], ["a", "b"])]


async def test_deleting_nothing_tells_nothing(index: BreaksHalfway, watcher: Watcher) -> None:
    """The cache would take a change of no named document for a change of all."""
    assert await Writer(index, watcher).delete([]) == 0
    assert watcher.told == []


@pytest.mark.parametrize("ids", ["a", None, 5, [1], b"a"])
async def test_a_delete_that_was_refused_tells_nothing(watcher: Watcher, ids: Any) -> None:
    """One string, say, is an error of the caller's, and nothing was deleted."""
    index = DocumentIndex(QdrantSettings(), "docs", FakeEncoder())
    with pytest.raises(InputError, match="nothing was deleted"):
        await Writer(index, watcher).delete(ids)
    assert watcher.told == []
    await index.aclose()


async def test_a_write_is_announced_before_it_begins(watcher: Watcher) -> None:
    """Whoever dies in the middle of it has told of it beforehand."""

    class Looks(DocumentIndex):
        async def upsert(self, *_: Any, **__: Any) -> IndexReport:
            assert watcher.writing
            raise InputError("enough")

    index = Looks(QdrantSettings(), "docs", FakeEncoder())
    with pytest.raises(InputError, match="enough"):
        await _write(Writer(index, watcher))
    assert not watcher.writing
    await index.aclose()


async def test_ids_may_come_one_by_one(watcher: Watcher) -> None:
    """From a generator, which can be gone through only once."""
    index = DocumentIndex(QdrantSettings(), "docs", FakeEncoder())
    await index.start()
    await index.upsert(DOCUMENTS)
    assert await Writer(index, watcher).delete(each["id"] for each in DOCUMENTS) == 2
    assert watcher.told == [([], ["a", "b"])]
    await index.upsert(DOCUMENTS)
    assert await index.delete(each["id"] for each in DOCUMENTS) == 2
    await index.aclose()


async def test_a_write_that_changed_nothing_is_told_on_demand(
    index: BreaksHalfway, watcher: Watcher
) -> None:
    """For whoever may repeat a write that was killed before the cache was told."""
    await _write(Writer(index, watcher))
    assert watcher.told == []
    await _write(Writer(index, watcher), always_tell=True)
    assert watcher.told == [(["a", "b"], [])]


async def test_a_corpus_that_was_refused_tells_nothing(
    index: BreaksHalfway, watcher: Watcher
) -> None:
    """Nothing was written."""
    with pytest.raises(CorpusError):
        await Writer(index, watcher).index(
            [{"id": "a"}], on_bad="fail", rebuild=False, progress=False, always_tell=True
        )
    assert watcher.told == []
