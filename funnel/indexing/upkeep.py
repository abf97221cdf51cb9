"""What keeps a collection's state true: statistics, weights, deletions.

BM25's weights depend on the average length of the documents. When writes have moved it by more
than a few per cent, all stored weights are computed anew from themselves, without text or model;
so scores do not depend on the order in which documents came in. The state says so before the first
one is stored: killed on the way, the next write computes all of them, old and new, once more.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from funnel.indexing.batches import FLOAT_BYTES, cut
from funnel.indexing.collection import IDENTITY_KEYS, CollectionState, point_id
from funnel.indexing.qdrant import BM25, Backend
from funnel.indexing.terms import Bm25Settings, SparseTerms, counts_of, document_weights
from funnel.log import get_logger

if TYPE_CHECKING:
    from qdrant_client import models

log = get_logger(__name__)
MAX_DRIFT = 0.05  # of the average length, before stored weights are computed anew
_SCROLL = 1_000


class Upkeep:
    """Reads and mends what is stored in one physical collection."""

    def __init__(self, backend: Backend, bm25: Bm25Settings) -> None:
        self._backend = backend
        self._bm25 = bm25

    async def save(self, target: str, state: CollectionState) -> None:
        """Keep the state with the collection."""
        await self._backend.write(
            "update_collection", collection_name=target, metadata=state.metadata()
        )

    async def stored(self, target: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Hashes and lengths of the points among ``ids``."""
        records = await self._backend.write(
            "retrieve",
            collection_name=target,
            ids=list(ids),
            with_payload=IDENTITY_KEYS,
            with_vectors=False,
        )
        return {str(record.id): record.payload for record in records}

    async def delete(
        self, target: str, state: CollectionState, ids: Sequence[str]
    ) -> tuple[CollectionState, int]:
        """Remove documents by id; unknown ids are ignored.

        The state says so meanwhile: a delete that was killed is counted anew by the next write.
        """
        recount = state.writing
        wanted = list(dict.fromkeys(point_id(doc_id) for doc_id in ids))
        gone = lost = 0
        for start in range(0, len(wanted), _SCROLL):
            stored = await self.stored(target, wanted[start : start + _SCROLL])
            if stored:
                if not gone:
                    state = state.written(writing=True)
                    await self.save(target, state)
                await self._backend.write(
                    "delete", collection_name=target, points_selector=list(stored), wait=True
                )
            gone += len(stored)
            lost += sum(known["length"] for known in stored.values())
        if recount:
            state = await self.recounted(target, state)
        elif gone:
            state = replace(
                state,
                documents=max(0, state.documents - gone),
                total_length=max(0, state.total_length - lost),
            )
        else:
            return state, 0
        return await self.settled(target, state.written(writing=False)), gone

    async def prune(self, target: str, keep: Callable[[str], bool]) -> int:
        """Remove the documents that ``keep`` does not know; returns how many."""
        strangers: list[str] = [
            record.id
            async for record in self._scrolled(target, ["id"])
            if not keep(record.payload["id"])
        ]
        for start in range(0, len(strangers), _SCROLL):
            await self._backend.write(
                "delete",
                collection_name=target,
                points_selector=strangers[start : start + _SCROLL],
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

    async def settled(self, target: str, state: CollectionState) -> CollectionState:
        """Keep the state, after moving the stored weights if the average length has moved.

        Or if a run was killed that moved some: also when the average has come back since.
        """
        if state.documents and (state.weighing or state.drift > MAX_DRIFT):
            await self.save(target, replace(state, writing=True, weighing=True))
            await self._reweigh(target, state)
            # A new epoch: what was searched meanwhile was scored by old and new weights.
            state = state.written(average_length=state.true_average)
        state = replace(state, weighing=False)
        await self.save(target, state)
        return state

    async def _reweigh(self, target: str, state: CollectionState) -> None:
        from qdrant_client import models

        log.info("bm25_reweighed", collection=target, average=round(state.true_average, 1))
        pending: list[tuple[models.PointVectors, int]] = []
        async for record in self._scrolled(target, ["length"], vectors=[BM25]):
            stored = record.vector[BM25]
            weights = SparseTerms(list(stored.indices), list(stored.values))
            counts = counts_of(weights, record.payload["length"])
            moved = document_weights(counts, self._bm25, state.true_average)
            vector = models.SparseVector(indices=moved.ids, values=moved.values)
            point = models.PointVectors(id=record.id, vector={BM25: vector})
            pending.append((point, 2 * len(moved.ids) * FLOAT_BYTES))
            if len(pending) == _SCROLL:
                await self._update_vectors(target, pending)
                pending = []
        await self._update_vectors(target, pending)

    async def _update_vectors(
        self, target: str, sized: "Sequence[tuple[models.PointVectors, int]]"
    ) -> None:
        for points in cut(sized):
            await self._backend.write(
                "update_vectors", collection_name=target, points=points, wait=True
            )

    async def _scrolled(
        self, target: str, keys: list[str], vectors: list[str] | None = None
    ) -> AsyncIterator[Any]:
        offset = None
        while True:
            records, offset = await self._backend.write(
                "scroll",
                collection_name=target,
                limit=_SCROLL,
                offset=offset,
                with_payload=keys,
                with_vectors=vectors or False,
            )
            for record in records:
                yield record
            if offset is None:
                return
