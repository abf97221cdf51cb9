"""Writing documents: what changed is embedded and stored, what did not costs one look.

Every point is stored whole, under an id made from the document's, with a hash of its content. So
the same run can be started again after a kill: what is in is skipped, nothing is doubled.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.collection import (
    IDENTITY_KEYS,
    CollectionState,
    payload,
    point,
    point_id,
)
from funnel.errors import ModelError
from funnel.log import get_logger
from funnel.models.base import Encoder
from funnel.progress import bar
from funnel.qdrant import BM25, Backend
from funnel.spool import Prepared, Spool, full_text
from funnel.terms import Bm25Settings, SparseTerms, counts_of, document_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from qdrant_client import models

    FloatArray = NDArray[np.float32]

log = get_logger(__name__)
WINDOW = 1_024  # texts handed to the encoder at once: enough for sorting by length to pay
BATCH_POINTS = 256
BATCH_BYTES = 8_000_000  # a server refuses requests over 32 MB
SCROLL = 1_000
MAX_DRIFT = 0.05  # of the average length, before stored weights are computed anew
_FLOAT_BYTES = 12  # as JSON


@dataclass(slots=True)
class Tally:
    """Counts of one run, by what was done to the documents."""

    new: int = 0
    replaced: int = 0
    metadata_only: int = 0
    unchanged: int = 0
    length_added: int = 0

    @property
    def written(self) -> int:
        """Documents that the index now holds in another form than before."""
        return self.new + self.replaced + self.metadata_only


@dataclass(slots=True)
class _Work:
    """A window sorted by what must be done to each document."""

    embed: list[Prepared] = field(default_factory=list)
    overwrite: list[Prepared] = field(default_factory=list)


@dataclass(slots=True)
class _Run:
    """One call of ``write``: one window is stored while the next one is embedded."""

    target: str
    state: CollectionState
    spool: Spool
    recount: bool
    tally: Tally = field(default_factory=Tally)
    storing: asyncio.Task[None] | None = None

    async def stored(self) -> None:
        """Wait for the window being stored."""
        if self.storing is not None:
            await self.storing

    async def abandoned(self) -> None:
        """Let what is embedded be stored, for the next run to find."""
        if self.storing is not None:
            await asyncio.wait({self.storing})
            if not self.storing.cancelled():
                self.storing.exception()  # seen: the first failure is the one to report


class Writer:
    """Writes spooled documents into one physical collection."""

    def __init__(self, backend: Backend, encoder: Encoder, bm25: Bm25Settings) -> None:
        self._backend = backend
        self._encoder = encoder
        self._bm25 = bm25

    async def write(
        self, target: str, state: CollectionState, spool: Spool, *, progress: bool = False
    ) -> tuple[CollectionState, Tally]:
        """Bring a collection up to a corpus; documents that the corpus lacks stay.

        Raises:
            BackendUnavailable: Qdrant went away; running the same again continues.
            ModelError: the encoder gave NaN or another shape.
        """
        run = _Run(target, state, spool, recount=state.writing)
        try:
            with bar("indexing", spool.documents, enabled=progress) as advance:
                for window in spool.windows(WINDOW):
                    await self._write_window(run, window)
                    advance(len(window))
            await run.stored()
        except BaseException:
            await run.abandoned()
            log.warning("indexing_interrupted", collection=target, mend="run the same again")
            raise
        return await self._finish(run), run.tally

    async def save(self, target: str, state: CollectionState) -> None:
        """Keep the state with the collection."""
        await self._backend.write(
            "update_collection", collection_name=target, metadata=state.metadata()
        )

    async def delete(
        self, target: str, state: CollectionState, ids: Sequence[str]
    ) -> tuple[CollectionState, int]:
        """Remove documents by id; unknown ids are ignored."""
        wanted = list(dict.fromkeys(point_id(doc_id) for doc_id in ids))
        gone = lost = 0
        for start in range(0, len(wanted), SCROLL):
            stored = await self._stored(target, wanted[start : start + SCROLL])
            if stored:
                await self._backend.write(
                    "delete", collection_name=target, points_selector=list(stored), wait=True
                )
            gone += len(stored)
            lost += sum(known["length"] for known in stored.values())
        if gone:
            state = state.written(
                documents=max(0, state.documents - gone),
                total_length=max(0, state.total_length - lost),
            )
            state = await self._settled(target, state)
        return state, gone

    async def prune(self, target: str, spool: Spool) -> int:
        """Remove the documents that a corpus does not hold."""
        strangers: list[str] = [
            record.id
            async for record in self._scrolled(target, ["id"])
            if not spool.holds(record.payload["id"])
        ]
        for start in range(0, len(strangers), SCROLL):
            await self._backend.write(
                "delete",
                collection_name=target,
                points_selector=strangers[start : start + SCROLL],
                wait=True,
            )
        return len(strangers)

    async def recounted(self, target: str, state: CollectionState) -> CollectionState:
        """The state with its statistics counted from the stored documents."""
        documents = total = 0
        async for record in self._scrolled(target, ["length"]):
            documents += 1
            total += record.payload["length"]
        return replace(state, documents=documents, total_length=total)

    async def _write_window(self, run: _Run, window: Sequence[Prepared]) -> None:
        work = await self._compare(run.target, window, run.tally)
        if not (work.embed or work.overwrite):
            return
        if run.storing is None:
            run.state = run.state.with_fields(run.spool.fields).written(writing=True)
            await self.save(run.target, run.state)
        batches = await self._embedded(work.embed, run.state)
        await run.stored()
        run.storing = asyncio.create_task(self._store(run.target, batches, work.overwrite))

    async def _compare(self, target: str, window: Sequence[Prepared], tally: Tally) -> _Work:
        stored = await self._stored(target, [point_id(item.document.id) for item in window])
        work = _Work()
        for item in window:
            known = stored.get(point_id(item.document.id))
            if known is None:
                tally.new += 1
                tally.length_added += item.terms.length
                work.embed.append(item)
            elif known["hash"] == item.hash:
                tally.unchanged += 1
            elif known["text_hash"] == item.text_hash:
                tally.metadata_only += 1
                work.overwrite.append(item)
            else:
                tally.replaced += 1
                tally.length_added += item.terms.length - known["length"]
                work.embed.append(item)
        return work

    async def _stored(self, target: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        records = await self._backend.write(
            "retrieve",
            collection_name=target,
            ids=list(ids),
            with_payload=IDENTITY_KEYS,
            with_vectors=False,
        )
        return {str(record.id): record.payload for record in records}

    async def _embedded(
        self, items: Sequence[Prepared], state: CollectionState
    ) -> "list[list[models.PointStruct]]":
        if not items:
            return []
        texts = [full_text(item.document) for item in items]
        dense = unit_vectors(await self._encoder.aencode(texts), len(texts), self._encoder)
        tokens: Sequence[FloatArray | None] = [None] * len(texts)
        if state.token_vectors:
            tokens = await self._encoder.atoken_vectors(texts)
        return await asyncio.to_thread(self._batches, items, dense, tokens, state.average_length)

    def _batches(
        self,
        items: Sequence[Prepared],
        dense: "FloatArray",
        tokens: "Sequence[FloatArray | None]",
        average: float,
    ) -> "list[list[models.PointStruct]]":
        points = (
            (
                point(item, row, document_weights(item.terms, self._bm25, average), matrix),
                _size(item, row, matrix),
            )
            for item, row, matrix in zip(items, dense, tokens, strict=True)
        )
        return list(_cut(points))

    async def _store(
        self,
        target: str,
        batches: "Sequence[Sequence[models.PointStruct]]",
        overwrite: Sequence[Prepared],
    ) -> None:
        from qdrant_client import models

        for batch in batches:
            await self._backend.write(
                "upsert", collection_name=target, points=list(batch), wait=True
            )
        operations = [
            models.OverwritePayloadOperation(
                overwrite_payload=models.SetPayload(
                    payload=payload(item), points=[point_id(item.document.id)]
                )
            )
            for item in overwrite
        ]
        for start in range(0, len(operations), BATCH_POINTS):
            await self._backend.write(
                "batch_update_points",
                collection_name=target,
                update_operations=operations[start : start + BATCH_POINTS],
                wait=True,
            )

    async def _finish(self, run: _Run) -> CollectionState:
        """Keep the statistics of what was written; if nothing was, nothing changes."""
        if run.recount:
            counted = await self.recounted(run.target, run.state)
        elif run.tally.written:
            counted = replace(
                run.state,
                documents=run.state.documents + run.tally.new,
                total_length=run.state.total_length + run.tally.length_added,
            )
        else:
            return run.state
        return await self._settled(run.target, counted.written(writing=False))

    async def _settled(self, target: str, state: CollectionState) -> CollectionState:
        """Keep the state, after moving the stored weights if the average length has moved."""
        if state.drift > MAX_DRIFT and state.documents:
            await self.save(target, replace(state, writing=True))
            await self._reweigh(target, state)
            state = replace(state, average_length=state.true_average)
        await self.save(target, state)
        return state

    async def _reweigh(self, target: str, state: CollectionState) -> None:
        from qdrant_client import models

        log.info("bm25_reweighed", collection=target, average=round(state.true_average, 1))
        pending: list[models.PointVectors] = []
        async for record in self._scrolled(target, ["length"], vectors=[BM25]):
            stored = record.vector[BM25]
            weights = SparseTerms(list(stored.indices), list(stored.values))
            counts = counts_of(weights, record.payload["length"], self._bm25, state.average_length)
            moved = document_weights(counts, self._bm25, state.true_average)
            vector = models.SparseVector(indices=moved.ids, values=moved.values)
            pending.append(models.PointVectors(id=record.id, vector={BM25: vector}))
            if len(pending) == SCROLL:
                await self._update_vectors(target, pending)
                pending = []
        if pending:
            await self._update_vectors(target, pending)

    async def _update_vectors(self, target: str, points: "list[models.PointVectors]") -> None:
        await self._backend.write(
            "update_vectors", collection_name=target, points=points, wait=True
        )

    async def _scrolled(
        self, target: str, keys: list[str], vectors: list[str] | None = None
    ) -> Any:
        offset = None
        while True:
            records, offset = await self._backend.write(
                "scroll",
                collection_name=target,
                limit=SCROLL,
                offset=offset,
                with_payload=keys,
                with_vectors=vectors or False,
            )
            for record in records:
                yield record
            if offset is None:
                return


def unit_vectors(vectors: "FloatArray", count: int, encoder: Encoder) -> "FloatArray":
    """Vectors checked and scaled to unit length, shape (count, dim).

    Raises:
        ModelError: another shape, or values that are not finite, or a vector of zeros.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.shape != (count, encoder.dim):
        raise ModelError(
            f"encoder {encoder.name!r} returned shape {vectors.shape} for {count} texts, expected "
            f"({count}, {encoder.dim})"
        )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = int((~np.isfinite(norms) | (norms == 0)).sum())
    if bad:
        raise ModelError(
            f"encoder {encoder.name!r} returned NaN, infinite or zero vectors for {bad} of {count} "
            "texts; expected finite numbers: try backend torch in fp32, or another model"
        )
    scaled: FloatArray = vectors / norms
    return scaled


def _size(item: Prepared, dense: "FloatArray", tokens: "FloatArray | None") -> int:
    floats = dense.size + 2 * len(item.terms.ids) + (0 if tokens is None else tokens.size)
    return floats * _FLOAT_BYTES + 4 * len(item.document.text)


def _cut(
    points: "Iterable[tuple[models.PointStruct, int]]",
) -> "Iterator[list[models.PointStruct]]":
    batch: list[models.PointStruct] = []
    total = 0
    for item, size in points:
        if batch and (len(batch) == BATCH_POINTS or total + size > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
