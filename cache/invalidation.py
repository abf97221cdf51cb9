"""What an index write makes wrong: the epoch, the answers that hold a document, those it enters."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from funnel.cache.background import Background
from funnel.cache.guarded_store import Budget, GuardedStore, StoreFault
from funnel.cache.local import LocalTier
from funnel.cache.settings import CacheSettings
from funnel.cache.store import ROOM, Epoch, Store, Stored
from funnel.log import get_logger
from funnel.models.base import Encoder
from funnel.types import Document

if TYPE_CHECKING:
    from funnel.cache.store import Vector

log = get_logger(__name__)
_PATIENCE_S = 2.0
_AFFECTED = 1_000
_AT_ONCE = 8
_WINDOWS = 512  # of text to embed for one write; beyond that everything is dropped
_LONGEST_TOKEN = 16  # characters; on average
_RETRY_S = (0.1, 0.2, 0.5, 1.0)
_ANNOUNCED_S = 10.0
_ANNOUNCE_EVERY_S = 3.0


class Invalidator:
    """Turns index writes into epoch bumps and deletions.

    The epoch rises first: an answer that was computed across the write is then refused by the
    store. It rises again at the end: what a process has read between the two, and keeps in its own
    memory, may have been dropped since. What cannot be told to the store is owed: while it is, this
    process serves nothing that is kept, and it tries again until the store has taken it. A write
    that was interrupted while it was being told is owed too. A write is announced to the store
    before it begins: if this process dies before it is told, the epoch ends without it.
    """

    def __init__(
        self,
        settings: CacheSettings,
        store: GuardedStore,
        encoder: Encoder,
        local: LocalTier,
    ) -> None:
        self._settings = settings
        self._store = store
        self._encoder = encoder
        self._local = local
        self._owed = 0
        self._paid = 0
        self._paying = Background(1)  # of its own: a debt must not wait for room among the keeps

    @asynccontextmanager
    async def announced(self) -> AsyncIterator[None]:
        """Around a write and the telling of it. What stays owed stays announced, too."""
        if not self._store.store.shared:
            yield
            return
        name = secrets.token_hex(8)
        await self._announce(name)
        ended = asyncio.Event()
        renewing = asyncio.create_task(self._renew(name, ended))
        try:
            yield
        finally:
            ended.set()
            await renewing  # not cancelled: what is on its way could arrive after the withdrawal
            if not self.owes():
                await self._note(lambda store: store.withdraw(name))

    async def _renew(self, name: str, ended: asyncio.Event) -> None:
        while True:
            try:
                async with asyncio.timeout(_ANNOUNCE_EVERY_S):
                    await ended.wait()
            except TimeoutError:
                await self._announce(name)
            else:
                return

    async def _announce(self, name: str) -> None:
        await self._note(lambda store: store.announce(name, ttl_s=_ANNOUNCED_S))

    async def _note(self, note: Callable[[Store], Awaitable[None]]) -> None:
        try:
            await self._store.call(note, Budget(_PATIENCE_S))
        except StoreFault as fault:
            log.info("cache.write_not_noted", reason=fault.reason)

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
            self._owe(fault.reason)
        except BaseException as error:
            self._owe(type(error).__name__)
            raise

    async def _targeted(self, upserted: Sequence[Document], deleted: Sequence[str]) -> None:
        await self._bump(invalidate=False)
        ids = [*deleted, *(document.id for document in upserted), *([ROOM] if upserted else [])]
        await self._store.call(lambda store: store.delete_documents(ids), Budget(_PATIENCE_S))
        complete = not upserted or await self._reverse_search(upserted)
        await self._bump(invalidate=not complete)

    async def _reverse_search(self, upserted: Sequence[Document]) -> bool:
        """Drop the entries whose query a new document might answer; False if that is too much.

        Every cached query at ``insert_floor`` or nearer to any part of the document counts: an
        answer that is dropped in vain costs one run of the stages, one that is kept wrongly is
        wrong.
        """
        texts = [f"{document.title}\n{document.text}".strip() for document in upserted]
        try:
            windows = await asyncio.to_thread(_windows, self._encoder, texts)
            if len(windows) > _WINDOWS:
                return False
            vectors = await self._encoder.aencode(windows, side="document")
        except Exception as error:
            log.warning("cache.reverse_search_failed", error=type(error).__name__)
            return False
        for vector in vectors:
            if not await self._drop_near(vector):
                return False  # everything goes: the rest need not be found
        return True

    async def _drop_near(self, vector: "Vector") -> bool:
        floor = self._settings.insert_floor
        found = await self._store.call(
            lambda store: store.nearest_anywhere(vector, limit=_AFFECTED, floor=floor),
            Budget(_PATIENCE_S),
        )
        if len(found) >= _AFFECTED:
            return False
        for start in range(0, len(found), _AT_ONCE):
            some = found[start : start + _AT_ONCE]
            await asyncio.gather(*(self._drop(stored.partition, stored.key) for stored in some))
        return True

    async def _drop(self, partition: str, key: str) -> bool:
        return await self._store.call(
            lambda store: store.delete(partition, key), Budget(_PATIENCE_S)
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
        """Drop one entry, here and for every replica; of an alias also the entry it leads to.

        Without that the wording would be answered from the same entry again. The epoch rises
        before and after, as with a write: a run in flight cannot put back what it has computed.

        Raises:
            StoreFault: the store did not answer.
        """
        await self._bump(invalidate=False)
        reading = await self._store.call(
            lambda store: store.get(partition, key), Budget(_PATIENCE_S)
        )
        found = await self._drop(partition, key)
        if isinstance(reading.found, Stored) and reading.found.key != key:
            found = await self._drop(partition, reading.found.key) or found
        await self._bump(invalidate=False)
        return found

    async def _bump(self, *, invalidate: bool) -> Epoch:
        epoch = await self._store.call(
            lambda store: store.bump(invalidate=invalidate), Budget(_PATIENCE_S)
        )
        self._local.saw(epoch)
        return epoch

    def owes(self) -> bool:
        """Whether the store has not heard of a write yet; sees to it that somebody tells it."""
        owing = self._owed > self._paid
        if owing:
            self._paying.start(self._pay, "invalidation")
        return owing

    @property
    def owed(self) -> int:
        """How many writes the store did not hear of at once, so far."""
        return self._owed

    async def settled(self, within_s: float) -> bool:
        """Whether nothing is owed, after waiting for that a while."""
        if self.owes():
            await self._paying.finish(within_s)
        return self._owed <= self._paid

    async def aclose(self, within_s: float) -> None:
        """Wait a while for what is owed, and say so if it stays unpaid."""
        if not await self.settled(within_s):
            log.error(
                "cache.closed_owing",
                effect="kept answers may hold documents as they were before the last write",
                mend="funnel cache purge, when the store can be reached",
            )
        await self._paying.aclose()

    def _owe(self, reason: str) -> None:
        if self._owed == self._paid:  # of the writes that follow nothing new is to be said
            log.warning("cache.invalidation_owed", reason=reason)
        self._owed += 1
        self.owes()

    async def _pay(self) -> None:
        attempt = 0
        while self._owed > self._paid:
            await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
            attempt += 1
            owed = self._owed  # what is owed from here on may be of a write that this one misses
            try:
                await self._bump(invalidate=True)
            except StoreFault:
                continue
            self._paid = owed
            log.info("cache.invalidation_paid", attempts=attempt)


def _windows(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """The texts, halved until the encoder reads every part to its end.

    More than ``_WINDOWS`` of them if that is too much to do.
    """
    whole: list[str] = []
    waiting = list(texts)
    while waiting and len(whole) + len(waiting) <= _WINDOWS:
        fits = _fits(encoder, waiting)
        whole += [text for text in waiting if text in fits]
        waiting = [half for text in waiting if text not in fits for half in _halves(text)]
    return whole + waiting


def _fits(encoder: Encoder, texts: Sequence[str]) -> set[str]:
    """Those that the encoder reads whole; what is far longer is not even tokenised."""
    short = [text for text in texts if len(text) <= _LONGEST_TOKEN * encoder.max_tokens]
    counts = encoder.count_tokens(short, side="document")
    return {
        text
        for text, count in zip(short, counts, strict=True)
        if count <= encoder.max_tokens or len(text) < 2
    }


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    space = text.find(" ", middle)
    cut = middle if space < 0 else space
    return text[:cut], text[cut:]
