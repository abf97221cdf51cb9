"""The semantic cache: exact, alias and paraphrase tiers in front of one shared computation.

The way of one query: exact text (in process, then store, then aliases); the same text in flight;
nearest kept questions and paraphrases in flight, guarded and verified; else it leads, computes,
shares the answer with whoever joined, and keeps it. Every fault on the way is a reason in the
result, and the query is answered by the stages.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from funnel.cache.approach import Approach
from funnel.cache.audit import Auditor
from funnel.cache.background import Background
from funnel.cache.base import CacheRequest, Compute, QueryCache, Served
from funnel.cache.breaker import CircuitBreaker
from funnel.cache.codec import Codec
from funnel.cache.counters import Counters
from funnel.cache.flights import Flights
from funnel.cache.guarded_store import GuardedStore
from funnel.cache.invalidation import Invalidator
from funnel.cache.leases import Leases
from funnel.cache.local import LocalTier
from funnel.cache.lookup import Looking, Lookup
from funnel.cache.matcher import Matcher
from funnel.cache.place import Place, place_of, scope_of
from funnel.cache.report import explain_lookup, full_stats
from funnel.cache.reruns import Reruns
from funnel.cache.serving import Parts, Serving
from funnel.cache.settings import CacheSettings
from funnel.cache.store import Store
from funnel.cache.synonyms import Synonyms
from funnel.cache.verifier import Verifier
from funnel.cache.writer import Writer
from funnel.errors import FunnelError
from funnel.log import get_logger
from funnel.models.base import Encoder, Scorer
from funnel.types import CacheInfo, Document

log = get_logger(__name__)
_WRITES = 512
_CLOSE_S = 2.0


class SemanticCache(QueryCache):
    """A cache of answers that recognises paraphrases.

    Args:
        settings: the ``cache:`` block.
        store: where entries live; owned and closed by the cache.
        encoder: the encoder of the queries' shared embedding.
        scorer: the duplicate cross-encoder.
        codec: seals entries; by default with the key from the environment.
        clock: wall-clock seconds.
        spread: uniform random numbers from 0 to 1, for jitter and sampling.

    Raises:
        ConfigError: the calibrator file is missing or damaged.
    """

    def __init__(
        self,
        settings: CacheSettings,
        store: Store,
        encoder: Encoder,
        scorer: Scorer,
        *,
        codec: Codec | None = None,
        clock: Callable[[], float] = time.time,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self.counters = Counters()
        self._synonyms = Synonyms(settings.synonyms)
        self.guarded = GuardedStore(store, CircuitBreaker(), settings.timeout_ms / 1000)
        verifier = Verifier(scorer, settings.verifier.timeout_ms / 1000)
        self.matcher = Matcher(settings, encoder, verifier)
        self.flights = Flights()
        self.auditor = Auditor(settings, self.matcher, self.counters)
        self._preparing: asyncio.Task[None] | None = None
        self._writes = Background(_WRITES)
        self._local = LocalTier(settings.local_entries, settings.epoch_lag_ms / 1000)
        self._invalidator = Invalidator(settings, self.guarded, encoder, self._local)
        shared = (settings, self.guarded, codec or Codec(max_payload=settings.max_entry_bytes))
        self._lookup = Lookup(*shared, self._local, self.matcher, self.counters, clock)
        writer = Writer(*shared, self._local, self.counters, clock, spread)
        leases = Leases(settings, self.guarded, self._lookup, self._local)
        self._reruns = Reruns(
            self.guarded, writer, leases, self._local, self.auditor, self.counters
        )
        approach = Approach(self._lookup, self.matcher, self.flights, settings.flight_wait_s)
        parts = Parts(
            settings=settings,
            counters=self.counters,
            local=self._local,
            lookup=self._lookup,
            writer=writer,
            approach=approach,
            flights=self.flights,
            leases=leases,
            reruns=self._reruns,
            writes=self._writes,
        )
        self._serving = Serving(parts, clock=clock, spread=spread)
        self._at_close: list[Callable[[], None]] = []

    # -- life

    async def start(self) -> None:
        """Connect and load the models; whatever fails is logged and shows in every result."""
        await asyncio.gather(self.connect(), self._prepared())

    async def connect(self) -> None:
        """Connect to the store only: enough for telling it of writes."""
        try:
            await self.guarded.store.start()
        except FunnelError as error:
            log.warning("cache.store_not_reached", error=str(error))

    async def inspect(self) -> None:
        """Connect and find out what would be accepted, without a model: enough for ``stats``."""
        await asyncio.gather(self.connect(), self.matcher.prepare(load=False))

    async def _prepared(self) -> None:
        """The models are loaded, by whoever came first; later callers only look."""
        if self._preparing is None:
            self._preparing = asyncio.ensure_future(self.matcher.prepare())
        if not self._preparing.done():
            await asyncio.shield(self._preparing)

    async def aclose(self) -> None:
        """Let writes and what is owed finish, for two seconds at most; end the rest."""
        for act in self._at_close:
            act()
        await self._reruns.aclose()
        await asyncio.gather(self._writes.finish(_CLOSE_S), self._invalidator.aclose(_CLOSE_S))
        await self._writes.aclose()
        self.matcher.verifier.close()
        await self.guarded.store.aclose()

    def at_close(self, act: Callable[[], None]) -> None:
        """Have something done when this cache is closed, such as ending its reports."""
        self._at_close.append(act)

    # -- queries

    async def serve(self, request: CacheRequest, compute: Compute) -> Served:
        """Return a kept answer, join one in the making, or compute one and keep it."""
        await self._prepared()
        request, place = self._placed(request)
        if place is None or request.query.shortened:
            reason = "uncacheable_partition" if place is None else "query_shortened"
            served = Served(await compute(), CacheInfo(status="bypass", reason=reason))
        else:
            served = await self._cached(self._looking(request, place), compute)
        self.counters.served(served.info)
        return served

    def _placed(self, request: CacheRequest) -> tuple[CacheRequest, Place | None]:
        """The request as the cache reads it, and its place; what the stages are asked stays."""
        text = self._synonyms.applied(request.query.text)
        if text != request.query.text:
            request = replace(request, query=request.query.reworded(text))
        named = {"synonyms": self._synonyms.digest} if self._synonyms.digest else {}
        return request, place_of(request, {**self.matcher.identity, **named})

    def _looking(self, request: CacheRequest, place: Place) -> Looking:
        return Looking(request, place, self.guarded.budget(request.deadline))

    async def _cached(self, looking: Looking, compute: Compute) -> Served:
        if self._invalidator.owes():  # nothing kept, and no flight of before the latest write
            looking.fault = "invalidation_pending"
            apart = f"{looking.place.partition}-{self._invalidator.owed}"
            looking.place = replace(looking.place, partition=apart)
        return await self._serving.serve(looking, compute)

    # -- keeping it true

    async def documents_changed(
        self, *, upserted: Sequence[Document] = (), deleted: Sequence[str] = ()
    ) -> None:
        """Forget what the written documents may have changed; nothing named means everything."""
        await self._invalidator.changed(upserted, deleted)

    def documents_changing(self) -> AbstractAsyncContextManager[None]:
        """The store notices, in ten seconds, if this process dies before it has told of a write."""
        return self._invalidator.announced()

    async def settled(self, within_s: float) -> bool:
        """Whether the store knows of all writes, after waiting a while for it to answer."""
        return await self._invalidator.settled(within_s)

    async def purge(self, *, scope: str | None = None) -> int:
        """Drop all entries (of one scope), in all processes.

        Raises:
            CacheError: the store did not answer.
        """
        return await self._invalidator.purge(None if scope is None else scope_of(scope))

    async def forget(self, request: CacheRequest) -> bool:
        """Drop the entry of one query, in all processes; returns if there was one.

        Of a wording that was answered from another question's entry, that entry goes too, with
        all other wordings of it.

        Raises:
            CacheError: the store did not answer.
        """
        await self._prepared()
        request, place = self._placed(request)
        return place is not None and await self._invalidator.forget(place.partition, place.key)

    # -- telling

    async def stats(self) -> Mapping[str, Any]:
        """Counters and gauges, JSON-ready."""
        return await full_stats(self)

    async def explain(self, request: CacheRequest) -> Mapping[str, Any]:
        """Why a lookup would hit or miss, with every candidate's scores and findings."""
        await self._prepared()
        request, place = self._placed(request)
        if place is None or request.query.shortened:
            return {"status": "bypass", "reason": "the query or its options cannot be cached"}
        looking = self._looking(request, place)
        if self._invalidator.owes():
            looking.fault = "invalidation_pending"
        return await explain_lookup(looking, self._lookup, self.matcher)
