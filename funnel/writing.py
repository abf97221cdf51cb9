"""Writes to the corpus, and what the cache is told of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from funnel.cache.base import QueryCache
from funnel.errors import CorpusError, InputError
from funnel.index import DocumentIndex, IndexReport, listed_ids
from funnel.indexing.corpus import Corpus, document_from
from funnel.indexing.lease import AnotherWrites
from funnel.types import Document

Documents: TypeAlias = Iterable[Document | Mapping[str, Any]] | Corpus
"""Documents, mappings with ``id`` and ``text``, or a file read by
``funnel.indexing.corpus.read_corpus``."""
NOTED_DOCUMENTS = 256
"""Writes up to this size tell the cache which documents changed; larger ones drop everything."""


class Writer:
    """Writes documents, and drops the kept answers that a write may have made wrong.

    A write that failed half-way drops them too: some of it may be in the index.
    """

    def __init__(self, documents: DocumentIndex, cache: QueryCache) -> None:
        self._documents = documents
        self._cache = cache

    async def index(
        self,
        documents: Documents,
        *,
        on_bad: Literal["skip", "fail"],
        rebuild: bool,
        progress: bool,
        always_tell: bool = False,
    ) -> IndexReport:
        """Insert or replace by id, or replace everything; see :meth:`funnel.Funnel.index`.

        ``always_tell`` tells the cache also of a write that changed nothing: the one before may
        have been killed when all was written and the cache not told.
        """
        noted = [] if rebuild else _noted(documents)
        write = self._documents.rebuild if rebuild else self._documents.upsert
        async with self._cache.documents_changing():
            try:
                report = await write(documents, on_bad=on_bad, progress=progress)
            except (CorpusError, InputError, AnotherWrites):  # nothing was written
                raise
            except BaseException:
                await self._cache.documents_changed()
                raise
            if report.changed or always_tell:
                await self._cache.documents_changed(upserted=noted)
            return report

    async def delete(self, given: Iterable[str]) -> int:
        """Delete by id; returns how many there were."""
        ids = listed_ids(given)
        if not ids:  # the cache would take no name for all documents
            return 0
        async with self._cache.documents_changing():
            try:
                count = await self._documents.delete(ids)
            except (InputError, AnotherWrites):  # nothing was deleted
                raise
            except BaseException:
                await self._cache.documents_changed(deleted=ids)
                raise
            await self._cache.documents_changed(deleted=ids)
            return count


def _noted(documents: Documents) -> list[Document]:
    """The documents of a small write, for the cache; empty when anything may have changed."""
    if not isinstance(documents, Sequence) or len(documents) > NOTED_DOCUMENTS:
        return []
    try:
        return [document_from(document) for document in documents]
    except ValueError:  # the index itself says what is wrong, or skips it
        return []
