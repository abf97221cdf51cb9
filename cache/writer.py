"""The write path: which answers are kept, for how long, and the aliases of what was matched."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from funnel.cache.admission import Doorkeeper
from funnel.cache.base import Answer, CacheRequest
from funnel.cache.codec import AliasNote, Codec, Entry, Sealed, copied_hit, pack_hit, unpack_hit
from funnel.cache.counters import Counters
from funnel.cache.freshness import lifetime_s, retention_s
from funnel.cache.guarded_store import GuardedStore, StoreFault
from funnel.cache.local import Kept, LocalTier
from funnel.cache.lookup import Found
from funnel.cache.place import Place
from funnel.cache.settings import CacheSettings
from funnel.cache.store import ROOM, Record
from funnel.log import Seldom, get_logger
from funnel.types import Hit

if TYPE_CHECKING:
    from funnel.cache.store import Vector

log = get_logger(__name__)
_LOOK_AT_SIZE_EVERY = 64
_VECTOR_S = 1.0  # how long keeping waits for the query's embedding
_DEEPEST = 100  # levels of metadata; copying takes stack for each, and readers may have less left


def answer_of(entry: Entry) -> Answer:
    """The kept answer, for one reader; nothing ran for it, so trace and usage are empty."""
    return Answer(tuple(unpack_hit(rank, hit) for rank, hit in enumerate(entry.hits, start=1)))


def copy_of(answer: Answer) -> Answer:
    """The same answer for another reader, who may alter what is in it."""
    return replace(answer, hits=tuple(_copied_or_shared(hit) for hit in answer.hits))


def _copied_or_shared(hit: Hit) -> Hit:
    """A copy, or the hit itself if its metadata is too deep: as what cannot be copied is shared."""
    return copied_hit(hit) if _is_within(hit.metadata, _DEEPEST) else hit


def _is_within(value: object, levels: int) -> bool:
    """Whether dicts and lists nest no deeper than this."""
    if not isinstance(value, Mapping | list):
        return True
    inner = value.values() if isinstance(value, Mapping) else value
    return levels > 0 and all(_is_within(one, levels - 1) for one in inner)


class Writer:
    """Puts answers into the store. Raises nothing but cancellation; every refusal is counted."""

    def __init__(
        self,
        settings: CacheSettings,
        store: GuardedStore,
        codec: Codec,
        local: LocalTier,
        counters: Counters,
        clock: Callable[[], float],
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._store = store
        self._codec = codec
        self._local = local
        self._counters = counters
        self._clock = clock
        self._spread = spread
        self._doorkeeper = Doorkeeper(4 * settings.max_entries)
        self._asked = 0
        self._seldom = Seldom(log)

    def cacheable(self, answer: Answer) -> bool:
        """Degraded answers never; empty ones only if they have a lifetime."""
        return not answer.degraded and bool(answer.hits or self._settings.empty_ttl_s > 0)

    async def keep(
        self, place: Place, request: CacheRequest, answer: Answer, *, epoch: int, token: int = 0
    ) -> bool:
        """Keep an answer that was computed under ``epoch``; returns whether it was kept."""
        if not self.cacheable(answer):
            return False
        if not all(_is_within(hit.metadata, _DEEPEST) for hit in answer.hits):
            self._counters.event("not_stored_too_deep")
            return False
        await self._look_at_size()
        if not self._doorkeeper.admits(place):
            self._counters.event("not_admitted")
            return False
        try:
            entry = self._entry(request, answer, epoch)
            payload = self._codec.seal(entry, place.partition, place.key)
            record = await self._record(place, request, entry, payload, token)
            kept = await self._store.call(lambda store: store.put(record))
        except Sealed as sealed:
            self._counters.event(f"not_stored_{sealed.reason}")
            return False
        except StoreFault as fault:
            self._counters.event(f"not_stored_{fault.reason}")
            return False
        self._counters.event("stored" if kept else "not_stored_refused")
        if kept:
            self._local.put(place, Kept(entry, place.key, size=len(payload)), epoch)
        return kept

    def _entry(self, request: CacheRequest, answer: Answer, epoch: int) -> Entry:
        return Entry(
            query=request.query.text,
            asked="" if request.query.asked == request.query.text else request.query.asked,
            hits=tuple(pack_hit(hit) for hit in answer.hits),
            created=self._clock() - answer.elapsed_ms / 1000,
            fresh_s=lifetime_s(self._settings, empty=not answer.hits, spread=self._spread),
            epoch=epoch,
            elapsed_ms=answer.elapsed_ms,
        )

    async def _record(
        self, place: Place, request: CacheRequest, entry: Entry, payload: bytes, token: int
    ) -> Record:
        vector = await self._vector(request)
        return Record(
            partition=place.partition,
            key=place.key,
            scope=place.scope,
            payload=payload,
            retain_s=retention_s(entry, self._settings),
            epoch=entry.epoch,
            token=token,
            vector=vector,
            documents=_held(request, entry, findable=vector is not None),
        )

    async def _vector(self, request: CacheRequest) -> "Vector | None":
        """The embedding; None when it failed or takes long, or only writes would ask for it.

        Then no paraphrase finds the entry, and no document near it: any new one has to drop it.
        """
        if not self._settings.semantic and not request.query.is_embedded:
            return None  # a model is not loaded for writes alone
        try:
            async with asyncio.timeout(_VECTOR_S):
                return await request.query.vector()
        except Exception as error:
            self._seldom.warning("cache.embedding_failed", error=type(error).__name__)
            return None

    async def alias(self, place: Place, found: Found) -> None:
        """Remember that this query is a verified paraphrase of a kept one, while that lives."""
        if found.score is None:
            return
        note = AliasNote(found.key, found.score, found.margin)
        left_s = found.entry.created + found.entry.fresh_s - self._clock()
        if left_s <= 0:
            return
        try:
            sealed = self._codec.seal(note, place.partition, place.key)
            await self._store.call(
                lambda store: store.alias(
                    place.partition, place.key, found.key, note=sealed, retain_s=left_s
                )
            )
        except (Sealed, StoreFault) as error:
            self._counters.event(f"not_aliased_{error.reason}")
            return
        kept = Kept(found.entry, found.key, note, found.size)
        self._local.put(place, kept, found.entry.epoch)
        self._counters.event("aliased")

    async def _look_at_size(self) -> None:
        """Now and then, ask the store how full it is."""
        self._asked += 1
        if self._asked % _LOOK_AT_SIZE_EVERY:
            return
        try:
            stats = await self._store.stats()
        except StoreFault:
            return
        self._doorkeeper.full = (
            stats.entries >= self._settings.max_entries
            or stats.bytes >= self._settings.max_bytes * 0.95
        )


def _held(request: CacheRequest, entry: Entry, *, findable: bool) -> tuple[str, ...]:
    """The documents of an answer, and a place that is free where any new one may enter it.

    So it is where it has fewer than were asked, and where nobody can tell which are near it.
    """
    ids, k = tuple(hit.id for hit in entry.hits), request.partition.get("k")
    open_to_any = not findable or (isinstance(k, int) and len(ids) < k)
    return (*ids, ROOM) if open_to_any else ids
