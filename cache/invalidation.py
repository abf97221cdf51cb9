"""What an index write makes wrong: the epoch, the answers that hold a document, those it enters."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from funnel.cache.background import Background
from funnel.cache.guarded_store import Budget, GuardedStore, StoreFault
from funnel.cache.local import LocalTier
from funnel.cache.settings import CacheSettings
from funnel.cache.store import Epoch, Stored
from funnel.log import get_logger
from funnel.models.base import Encoder
from funnel.types import Document

if TYPE_CHECKING:
    from funnel.cache.store import Vector

log = get_logger(__name__)
_PATIENCE_S = 2.0
_AFFECTED = 1_000
_RETRY_S = (0.1, 0.2, 0.5, 1.0)


class Invalidator:
    """Turns index writes into epoch bumps and deletions.

    The epoch rises first: an answer that was computed across the write is then refused by the
    store. What cannot be told to the store is owed: while it is, this process serves nothing from
    the cache, and it tries again until the store has taken it.
    """

    def __init__(
        self,
        settings: CacheSettings,
        store: GuardedStore,
        encoder: Encoder,
        local: LocalTier,
        background: Background,
    ) -> None:
        self._settings = settings
        self._store = store
        self._encoder = encoder
        self._local = local
        self._background = background
        self.owing = False

    async def changed(self, upserted: Sequence[Document], deleted: Sequence[str]) -> None:
        """The index was written. Without any document named, anything may have changed."""
        count = len(upserted) + len(deleted)
        targeted = self._settings.invalidation == "documents"
        try:
            if targeted and 0 < count <= self._settings.bulk_documents:
                await self._targeted(upserted, deleted)
            else:
                await self._bump(invalidate=True)
        except StoreFault as fault:
            self._owe(fault)

    async def _targeted(self, upserted: Sequence[Document], deleted: Sequence[str]) -> None:
        await self._bump(invalidate=False)
        ids = [*deleted, *(document.id for document in upserted)]
        await self._store.call(lambda store: store.delete_documents(ids), Budget(_PATIENCE_S))
        if upserted and not await self._reverse_search(upserted):
            await self._bump(invalidate=True)

    async def _reverse_search(self, upserted: Sequence[Document]) -> bool:
        """Drop the entries whose query a new document might answer; False if that is too much.

        Every cached query at ``insert_floor`` or nearer to the document counts: an answer that is
        dropped in vain costs one run of the stages, one that is kept wrongly is wrong.
        """
        texts = [f"{document.title}\n{document.text}".strip() for document in upserted]
        try:
            vectors = await self._encoder.aencode(texts)
        except Exception as error:
            log.warning("cache.reverse_search_failed", error=type(error).__name__)
            return False
        return all([await self._drop_near(vector) for vector in vectors])

    async def _drop_near(self, vector: "Vector") -> bool:
        floor = self._settings.insert_floor
        found = await self._store.call(
            lambda store: store.nearest_anywhere(vector, limit=_AFFECTED, floor=floor),
            Budget(_PATIENCE_S),
        )
        for stored in found:
            await self._drop(stored)
        return len(found) < _AFFECTED

    async def _drop(self, stored: Stored) -> None:
        await self._store.call(
            lambda store: store.delete(stored.partition, stored.key), Budget(_PATIENCE_S)
        )

    async def purge(self, scope: str | None) -> int:
        """Drop all entries (of one hashed scope), here and for every replica.

        Raises:
            StoreFault: the store did not answer.
        """
        count = await self._store.call(
            lambda store: store.purge(scope=scope), Budget(10 * _PATIENCE_S)
        )
        await self._bump(invalidate=False)
        return count

    async def forget(self, partition: str, key: str) -> bool:
        """Drop one entry, here and for every replica.

        Raises:
            StoreFault: the store did not answer.
        """
        found = await self._store.call(
            lambda store: store.delete(partition, key), Budget(_PATIENCE_S)
        )
        await self._bump(invalidate=False)
        return found

    async def _bump(self, *, invalidate: bool) -> Epoch:
        epoch = await self._store.call(
            lambda store: store.bump(invalidate=invalidate), Budget(_PATIENCE_S)
        )
        self._local.saw(epoch)
        return epoch

    def _owe(self, fault: StoreFault) -> None:
        log.warning("cache.invalidation_owed", reason=fault.reason)
        if not self.owing:
            self.owing = True
            self._background.start(self._pay, "invalidation")

    async def _pay(self) -> None:
        attempt = 0
        while self.owing:
            await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
            attempt += 1
            try:
                await self._bump(invalidate=True)
            except StoreFault:
                continue
            self.owing = False
            log.info("cache.invalidation_paid", attempts=attempt)
