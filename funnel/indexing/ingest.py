"""Writing documents: what changed is embedded and stored, what did not costs one look.

Every point is stored whole, under an id made from the document's, with a hash of its content. So
the same run can be started again after a kill: what is in is skipped, nothing is doubled.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from funnel.errors import ModelError
from funnel.indexing.batches import FLOAT_BYTES, cut
from funnel.indexing.collection import (
    CollectionState,
    payload,
    point,
    point_id,
)
from funnel.indexing.filters import MAX_FIELDS
from funnel.indexing.qdrant import Backend
from funnel.indexing.spool import Prepared, Windows, full_text
from funnel.indexing.terms import Bm25Settings, document_weights
from funnel.indexing.upkeep import Upkeep
from funnel.log import get_logger
from funnel.models.base import Encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from qdrant_client import models

    FloatArray = NDArray[np.float32]

log = get_logger(__name__)
WINDOW = 512  # texts sorted by length together: padding is 1%, and a kill loses little work
_AHEAD = 1  # windows on their way while the next one is compared
STORING_S = 4.0  # for what is being stored when a run ends early; less than lease.RENEW_S


@dataclass(slots=True)
class Tally:
    """Counts of one run, by what was done to the documents."""

    new: int = 0
    replaced: int = 0
    metadata_only: int = 0
    unchanged: int = 0
    length_added: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

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
    """One call of ``write``: windows pass in their order, the next one begun before one is stored.

    So a window is tokenised, and its points are made, while the model is busy with another one.
    """

    target: str
    state: CollectionState
    fields: Mapping[str, Iterable[str]]
    recount: bool
    tally: Tally = field(default_factory=Tally)
    begun: bool = False
    passing: deque[asyncio.Task[None]] = field(default_factory=deque)
    storing: asyncio.Task[None] | None = None

    async def passed(self, *, but: int = 0) -> None:
        """Wait until at most ``but`` windows are on their way; the first failure is raised."""
        while len(self.passing) > but:
            await asyncio.shield(self.passing[0])
            self.passing.popleft()

    async def abandoned(self) -> None:
        """Let what is being stored be stored, for the next run to find; give up the rest.

        Not for ever: the right to write may be lost, and another one begins soon.
        """
        for task in self.passing:
            if task is not self.storing:
                task.cancel()
        if self.storing is not None:
            await asyncio.wait({self.storing}, timeout=STORING_S)
            self.storing.cancel()
        # Their failures count as seen: the first one is the one to report.
        await asyncio.gather(*self.passing, return_exceptions=True)


class Writer:
    """Writes spooled documents into one physical collection."""

    def __init__(
        self, backend: Backend, encoder: Encoder, bm25: Bm25Settings, upkeep: Upkeep
    ) -> None:
        self._backend = backend
        self._encoder = encoder
        self._bm25 = bm25
        self._upkeep = upkeep

    async def write(
        self,
        target: str,
        state: CollectionState,
        windows: Windows,
        fields: Mapping[str, Iterable[str]],
        *,
        advance: Callable[[int], None],
        stop: Callable[[], Awaitable[bool]] | None = None,
    ) -> tuple[CollectionState, Tally]:
        """Bring a collection up to a corpus; documents that the corpus lacks stay.

        Args:
            target: the physical collection.
            state: of the collection; the new one comes back.
            windows: what to write. What is left of them was not written, for ``stop``.
            fields: metadata fields of all of them, with their kinds.
            advance: is told of every window how many documents it had.
            stop: asked before each window but the first; true ends the run in good order.

        Raises:
            BackendUnavailable: Qdrant went away; running the same again continues.
            ModelError: the encoder gave NaN or another shape.
        """
        run = _Run(target, state, fields, recount=state.writing)
        try:
            for window in windows:
                await self._write_window(run, window)
                advance(len(window))
                if windows and stop is not None and await stop():
                    break
            await run.passed()
        except BaseException:
            await run.abandoned()
            log.warning("indexing_interrupted", collection=target, mend="run the same again")
            raise
        return await self._finish(run), run.tally

    async def _write_window(self, run: _Run, window: Sequence[Prepared]) -> None:
        work = await self._compare(run.target, window, run.tally)
        if not (work.embed or work.overwrite):
            return
        if not run.begun:
            run.state = run.state.with_fields(run.fields).written(writing=True)
            await self._upkeep.save(run.target, run.state)
            run.begun = True
            if len(run.state.fields) >= MAX_FIELDS:
                log.warning(
                    "metadata_fields_are_many",
                    collection=run.target,
                    noted=MAX_FIELDS,
                    mend="filters on further ones are refused; use fewer field names",
                )
        before = run.passing[-1] if run.passing else None
        run.passing.append(asyncio.create_task(self._pass(run, work, before)))
        await run.passed(but=_AHEAD)

    async def _pass(self, run: _Run, work: _Work, before: asyncio.Task[None] | None) -> None:
        batches = await self._embedded(work.embed, run.state)
        if before is not None:
            await asyncio.shield(before)
        run.storing = asyncio.current_task()
        await self._store(run.target, batches, work.overwrite)

    async def _compare(self, target: str, window: Sequence[Prepared], tally: Tally) -> _Work:
        stored = await self._upkeep.stored(target, [point_id(item.document.id) for item in window])
        work = _Work()
        for item in window:
            known = stored.get(point_id(item.document.id))
            if known is None:
                tally.new += 1
                tally.length_added += item.terms.length
                work.embed.append(item)
            elif known["length"] != item.terms.length:  # or an older version split its text
                tally.replaced += 1
                tally.length_added += item.terms.length - known["length"]
                work.embed.append(item)
            elif known["hash"] == item.hash:
                tally.unchanged += 1
            elif known["text_hash"] == item.text_hash:
                tally.metadata_only += 1
                work.overwrite.append(item)
            else:
                tally.replaced += 1
                work.embed.append(item)
        return work

    async def _embedded(
        self, items: Sequence[Prepared], state: CollectionState
    ) -> "list[list[models.PointStruct]]":
        if not items:
            return []
        texts = [full_text(item.document) for item in items]
        dense: Sequence[FloatArray | None] = [None] * len(texts)
        tokens: Sequence[FloatArray | None] = [None] * len(texts)
        if state.dense_vectors:
            vectors = await self._encoder.aencode(texts, side="document")
            dense = list(unit_vectors(vectors, len(texts), self._encoder))
        if state.token_vectors:
            tokens = await self._encoder.atoken_vectors(texts, side="document")
        return await asyncio.to_thread(self._batches, items, dense, tokens, state.average_length)

    def _batches(
        self,
        items: Sequence[Prepared],
        dense: "Sequence[FloatArray | None]",
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
        return list(cut(points))

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
            (
                models.OverwritePayloadOperation(
                    overwrite_payload=models.SetPayload(
                        payload=payload(item), points=[point_id(item.document.id)]
                    )
                ),
                _payload_size(item),
            )
            for item in overwrite
        ]
        for together in cut(operations):
            await self._backend.write(
                "batch_update_points", collection_name=target, update_operations=together, wait=True
            )

    async def _finish(self, run: _Run) -> CollectionState:
        """Keep the statistics of what was written; if nothing was, nothing changes."""
        if run.recount:
            counted = await self._upkeep.recounted(run.target, run.state)
        elif run.tally.written:
            counted = replace(
                run.state,
                documents=run.state.documents + run.tally.new,
                total_length=run.state.total_length + run.tally.length_added,
            )
        else:
            return run.state
        return await self._upkeep.settled(run.target, counted.written(writing=False))


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


def _size(item: Prepared, dense: "FloatArray | None", tokens: "FloatArray | None") -> int:
    embedded = sum(0 if each is None else each.size for each in (dense, tokens))
    return (embedded + 2 * len(item.terms.ids)) * FLOAT_BYTES + _payload_size(item)


def _payload_size(item: Prepared) -> int:
    document = item.document
    metadata = len(json.dumps(dict(document.metadata)))
    return 4 * (len(document.title) + len(document.text)) + metadata
