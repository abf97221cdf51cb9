"""The documents: one Qdrant collection with a BM25 and mostly a dense vector for each of them."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from funnel.deadline import Deadline
from funnel.errors import CorpusError, InputError
from funnel.indexing.catalogue import Ask, Catalogue
from funnel.indexing.collection import (
    DOCUMENT_KEYS,
    CollectionState,
    document_of,
    point_id,
)
from funnel.indexing.corpus import Corpus, given_corpus
from funnel.indexing.filters import Condition, check_fields, parse_filters
from funnel.indexing.ingest import Tally, Writer
from funnel.indexing.lease import Lease
from funnel.indexing.live import Live
from funnel.indexing.qdrant import BM25, DENSE, TOKENS, PointQuery, QdrantSettings, connect
from funnel.indexing.results import Found, IndexReport, SearchResult
from funnel.indexing.spool import Spool
from funnel.indexing.terms import Analyzer, Bm25Settings, count_terms, query_weights
from funnel.indexing.update import Updates
from funnel.indexing.upkeep import Upkeep
from funnel.models.base import Encoder
from funnel.progress import bar
from funnel.threads import Threads
from funnel.types import Document, Filters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

__all__ = ["DocumentIndex", "Found", "IndexReport", "SearchResult"]

OnBad = Literal["skip", "fail"]
Documents: TypeAlias = Iterable[Document | Mapping[str, Any]] | Corpus
_TIE_MARGIN = 16  # fetched beyond k, so that equal scores at the cut are broken by id


class DocumentIndex:
    """One collection of documents, on a server, in a local directory, or in memory.

    ``collection`` is an alias; behind it stands a collection that a rebuild replaces atomically.
    Belongs to one event loop. Writes run one after another, searches beside them; processes that
    share a server wait for each other's writes.

    Args:
        settings: where Qdrant is.
        collection: the name that services use.
        encoder: makes the vectors that the settings store; a collection that holds another one's is
            refused.
        bm25: how texts become terms; stored with the collection.
    """

    def __init__(
        self,
        settings: QdrantSettings,
        collection: str,
        encoder: Encoder,
        *,
        bm25: Bm25Settings | None = None,
    ) -> None:
        self.settings = settings
        self.collection = collection
        self._encoder = encoder
        self._bm25 = bm25 or Bm25Settings()
        self._analyzer = Analyzer(self._bm25)
        self._backend = connect(settings)
        catalogue = Catalogue(self._backend, settings, collection, encoder, self._bm25)
        self._live = Live(self._backend, catalogue, collection)
        upkeep = Upkeep(self._backend, self._bm25)
        writer = Writer(self._backend, encoder, self._bm25, upkeep)
        lease = Lease(self._backend, settings, collection)
        self._updates = Updates(
            collection, self._backend, catalogue, upkeep, writer, lease, self._live
        )

    # -- life

    async def start(self) -> None:
        """Connect, and check that the collection, if there is one, fits the settings.

        Raises:
            ConfigError: another embedder or BM25 setting made the collection, or the
                server is too old.
            BackendUnavailable: Qdrant cannot be reached, or the directory is in use.
        """
        await self._backend.open()
        if self.settings.embeds:
            await asyncio.to_thread(lambda: self._encoder.revision)  # hashes files
        await self._live.refresh()

    async def warm_up(self, *, dense: bool = False, bm25: bool = False) -> None:
        """Do now what the first search of these sources would otherwise wait for.

        Raises:
            ModelError: the embedder is missing or damaged.
        """
        if dense:
            await asyncio.to_thread(_load, self._encoder)
        if bm25 and self._live.state is not None:
            await self._backend.warm_up(self.collection)

    async def aclose(self) -> None:
        """Release connections and locks. Idempotent."""
        await self._live.aclose()
        await self._backend.aclose()

    @property
    def refused(self) -> bool:
        """Whether the collection, as last read, does not fit the settings; a rebuild mends it."""
        return self._live.refused

    @property
    def identity(self) -> str:
        """Another one for every index and after every rebuild, as last read; empty at first.

        Two indexes may well have the same name and other documents.
        """
        return self._live.name

    # -- reading

    async def search(
        self,
        *,
        vector: "FloatArray | None" = None,
        terms: str | None = None,
        k: int = 10,
        filters: Filters | None = None,
        deadline: Deadline | None = None,
    ) -> SearchResult:
        """Ask the dense source, the BM25 source or both, in one round trip.

        Args:
            vector: a query embedding of shape (dim,), for the dense source.
            terms: a query text, for the BM25 source.
            k: at most so many documents from each source.
            filters: restrictions on metadata.
            deadline: when the caller stops waiting.

        Raises:
            InputError: k, the vector or a filter is wrong, or no dense vectors are stored.
            ConfigError: another process has rebuilt the collection with other settings.
            StageTimeout: the deadline passed.
            BackendUnavailable: Qdrant cannot be reached.
        """
        if k < 1:
            raise InputError(f"k: got {k}, expected at least 1")
        conditions = parse_filters(filters or {})
        ask = partial(self._backend.call, deadline=deadline)
        state = await self._live.present(ask)
        if state is None:
            return SearchResult()
        if conditions:
            await self._check_fields(conditions, state, ask)
        if vector is not None and not state.dense_vectors:
            raise InputError(
                f"vector: got one, but collection {self.collection!r} holds no dense vectors; ask "
                "by terms alone, or set qdrant.dense_vectors: true and index again with --rebuild"
            )
        counts = count_terms(self._analyzer.terms(terms)) if terms is not None else None
        query = PointQuery(
            collection=self.collection,
            dense=None if vector is None else self._checked(vector),
            sparse=query_weights(counts) if counts is not None and counts.ids else None,
            conditions=conditions,
            limit=k + _TIE_MARGIN,
            payload=DOCUMENT_KEYS,
        )
        found = await self._backend.search(query, deadline)
        return SearchResult(
            _ranked(found.get(DENSE, ()), k),
            _ranked(found.get(BM25, ()), k),
            0 if counts is None else counts.length,
        )

    async def token_vectors(
        self, ids: Sequence[str], *, deadline: Deadline | None = None
    ) -> dict[str, "FloatArray"]:
        """Stored token vectors by document id, each of shape (tokens, dim).

        Documents without them are left out; there are none unless ``qdrant.token_vectors`` is on.
        """
        if self._live.state is None or not self._live.state.token_vectors or not ids:
            return {}
        records = await self._retrieve(ids, ["id"], [TOKENS], deadline)
        return {
            record.payload["id"]: np.asarray(record.vector[TOKENS], dtype=np.float32)
            for record in records
            if record.vector and TOKENS in record.vector
        }

    async def get(self, ids: Sequence[str], *, deadline: Deadline | None = None) -> list[Document]:
        """The stored documents among ``ids``, in their order."""
        if self._live.state is None or not ids:
            return []
        records = await self._retrieve(ids, DOCUMENT_KEYS, None, deadline)
        found = {record.payload["id"]: document_of(record.payload) for record in records}
        return [found[doc_id] for doc_id in dict.fromkeys(ids) if doc_id in found]

    async def count(self) -> int:
        """How many documents there are."""
        if await self._live.refresh() is None:
            return 0
        answer = await self._backend.call("count", collection_name=self.collection, exact=True)
        return int(answer.count)

    async def epoch(self) -> int:
        """A number that changes with every write; 0 before the first.

        Another process's writes to a server show within a second.
        """
        state = await self._live.refresh() if self._live.is_old else self._live.state
        return state.epoch if state else 0

    # -- writing

    async def upsert(
        self,
        documents: Documents,
        *,
        on_bad: OnBad = "fail",
        progress: bool = False,
    ) -> IndexReport:
        """Insert or replace documents by id.

        Everything is read and checked before anything is written. Documents whose content is
        stored already are not embedded again, so a killed run is continued by running it again.

        Args:
            documents: documents, mappings, or rows of a file
                (:func:`funnel.indexing.corpus.read_corpus`).
            on_bad: ``fail`` writes nothing if one is bad, ``skip`` leaves bad ones out.
            progress: show a bar if standard error is a terminal.

        Raises:
            InputError: ``on_bad`` is neither of the two.
            CorpusError: bad rows, up to 10,000 of them named, with ``on_bad="fail"``.
            BackendUnavailable: Qdrant went away on the way, or another process goes on writing.
        """
        began = time.perf_counter()
        _check_on_bad(on_bad)
        async with self._live.writing:
            with Spool(self._analyzer) as spool:
                await self._fill(spool, documents, on_bad, progress=progress)
                if (self._live.state or self.settings).embeds:
                    await asyncio.to_thread(_load, self._encoder)
                tally = await self._updates.add(spool, progress=progress)
                return self._report(spool, tally, began)

    async def delete(self, ids: Iterable[str]) -> int:
        """Remove documents by id. Returns how many there were.

        Raises:
            InputError: as :func:`listed_ids`.
            BackendUnavailable: Qdrant went away, or another process goes on writing.
        """
        wanted = listed_ids(ids)
        if not wanted:
            return 0
        async with self._live.writing:
            return await self._updates.delete(wanted)

    async def rebuild(
        self,
        documents: Documents,
        *,
        on_bad: OnBad = "fail",
        progress: bool = False,
    ) -> IndexReport:
        """Index a corpus into a new collection and switch to it at once when it is complete.

        Searches see the old documents until then. Embedder and BM25 settings may differ from the
        old collection's, so this works where :meth:`start` refuses. A killed rebuild is continued
        by the next one.

        Raises:
            InputError: there is no good document; the old collection stays.
            CorpusError: as :meth:`upsert`; the old collection stays.
            BackendUnavailable: as :meth:`upsert`; the old collection stays.
        """
        began = time.perf_counter()
        _check_on_bad(on_bad)
        await self._backend.open()
        if self.settings.embeds:
            await asyncio.to_thread(_load, self._encoder)
        async with self._live.writing:
            with Spool(self._analyzer) as spool:
                await self._fill(spool, documents, on_bad, progress=progress)
                _refuse_empty(spool)
                tally = await self._updates.replace(spool, progress=progress)
                return replace(self._report(spool, tally, began), rebuilt=True)

    # -- inside: searching

    def _checked(self, vector: "FloatArray") -> list[float]:
        array = np.asarray(vector, dtype=np.float32)
        if array.shape != (self._encoder.dim,):
            raise InputError(f"vector: got shape {array.shape}, expected ({self._encoder.dim},)")
        if not np.isfinite(array).all():
            raise InputError("vector: got NaN or infinite values, expected finite numbers")
        return list(map(float, array))

    async def _check_fields(
        self, conditions: Sequence[Condition], state: CollectionState, ask: Ask
    ) -> None:
        try:
            check_fields(conditions, state.fields)
        except InputError:
            newer = await self._live.refresh(ask)  # another process may have brought the field
            if newer is not None and newer.documents:
                check_fields(conditions, newer.fields)

    async def _retrieve(
        self,
        ids: Sequence[str],
        keys: list[str],
        vectors: list[str] | None,
        deadline: Deadline | None,
    ) -> Any:
        return await self._backend.call(
            "retrieve",
            deadline=deadline,
            collection_name=self.collection,
            ids=[point_id(doc_id) for doc_id in dict.fromkeys(ids)],
            with_payload=keys,
            with_vectors=vectors or False,
        )

    # -- inside: writing

    async def _fill(
        self, spool: Spool, documents: Documents, on_bad: OnBad, *, progress: bool
    ) -> None:
        corpus = documents if isinstance(documents, Corpus) else given_corpus(documents)
        reading = Threads(1, "funnel-reading")  # of its own: who gives up waits for no read
        with bar("reading", None, enabled=progress) as advance:
            fill = partial(spool.fill, corpus, on_row=lambda: advance(1))
            await asyncio.get_running_loop().run_in_executor(reading, fill)
        if spool.problems and on_bad == "fail":
            raise CorpusError(corpus.source, spool.problems, bad=spool.bad_rows)

    def _report(self, spool: Spool, tally: Tally, began: float) -> IndexReport:
        state = self._live.state
        return IndexReport(
            collection=self.collection,
            rows=spool.rows_read,
            new=tally.new,
            replaced=tally.replaced,
            metadata_only=tally.metadata_only,
            unchanged=tally.unchanged,
            repeats=spool.repeats,
            problems=tuple(spool.problems),
            bad_rows=spool.bad_rows,
            documents=state.documents if state else 0,
            seconds=time.perf_counter() - began,
        )


def listed_ids(ids: Iterable[str]) -> list[str]:
    """The ids as a list, which can be gone through again.

    Raises:
        InputError: one string, whose characters would be taken for ids, or what holds no texts.
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InputError(f"ids: got {ids!r:.80}, expected a list of ids; nothing was deleted")
    listed = list(ids)
    if strange := [doc_id for doc_id in listed if not isinstance(doc_id, str)]:
        raise InputError(f"ids: got {strange[0]!r:.80}, expected texts; nothing was deleted")
    return listed


def _load(encoder: Encoder) -> int:
    """Its dimension, which loads the model: seconds, so not on the event loop."""
    return encoder.dim


def _check_on_bad(on_bad: str) -> None:
    if on_bad not in get_args(OnBad):
        raise InputError(f"on_bad: got {on_bad!r:.80}, expected 'fail' or 'skip'")


def _refuse_empty(spool: Spool) -> None:
    """What exhausted its generator, or spoilt all its rows, must not replace what is searched."""
    if not spool.documents:
        raise InputError(
            f"rebuild: got no good document in {spool.rows_read} rows, expected at least one; "
            "nothing was written: mend the rows, or delete the documents instead"
        )


def _ranked(points: Sequence[Any], k: int) -> tuple[Found, ...]:
    found = [Found(document_of(point.payload), float(point.score)) for point in points]
    return tuple(sorted(found, key=lambda item: (-item.score, item.document.id))[:k])
