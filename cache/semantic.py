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
from dataclasses import dataclass, replace
from typing import Any

from funnel.cache.approach import Approach, Joined
from funnel.cache.audit import Auditor
from funnel.cache.background import Background
from funnel.cache.base import Answer, CacheRequest, Compute, QueryCache, Served
from funnel.cache.breaker import CircuitBreaker
from funnel.cache.codec import Codec
from funnel.cache.counters import Counters
from funnel.cache.decision import Verdict
from funnel.cache.flights import Flight, Flights, Outcome
from funnel.cache.freshness import refresh_now
from funnel.cache.guarded_store import GuardedStore
from funnel.cache.invalidation import Invalidator
from funnel.cache.leases import Leases
from funnel.cache.local import LocalTier
from funnel.cache.lookup import Found, Looking, Lookup
from funnel.cache.matcher import Matcher
from funnel.cache.place import place_of, scope_of
from funnel.cache.report import explain_lookup, full_stats
from funnel.cache.reruns import Reruns
from funnel.cache.settings import CacheSettings
from funnel.cache.store import Lease, Store
from funnel.cache.verifier import Verifier
from funnel.cache.writer import Writer, answer_of
from funnel.errors import FunnelError, InputError
from funnel.log import get_logger
from funnel.models.base import Encoder, Scorer
from funnel.types import CacheInfo, Document, Usage

log = get_logger(__name__)
_WRITES = 512
_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class _Again:
    """What was waited for came to nothing; look again. ``attempt`` counts failures so far."""

    attempt: int


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
        self.guarded = GuardedStore(store, CircuitBreaker(), settings.timeout_ms / 1000)
        self.matcher = Matcher(settings, encoder, Verifier(scorer))
        self.flights = Flights()
        self.auditor = Auditor(settings, self.matcher, self.counters)
        codec = codec or Codec(max_payload=settings.max_entry_bytes)
        parts = (settings, self.guarded, codec)
        self._preparing: asyncio.Task[None] | None = None
        self._clock = clock
        self._spread = spread
        self._local = LocalTier(settings.local_entries, settings.epoch_lag_ms / 1000)
        self._lookup = Lookup(*parts, self._local, self.matcher, self.counters, clock)
        self._writer = Writer(*parts, self._local, self.counters, clock, spread)
        self._approach = Approach(self._lookup, self.matcher, self.flights, settings.flight_wait_s)
        self._leases = Leases(settings, self.guarded, self._lookup)
        self._writes = Background(_WRITES)
        self._reruns = Reruns(
            self.guarded, self._writer, self._leases, self._local, self.auditor, self.counters
        )
        self._invalidator = Invalidator(settings, self.guarded, encoder, self._local, self._writes)

    # -- life

    async def start(self) -> None:
        """Connect and load the models; whatever fails is logged and shows in every result."""
        await asyncio.gather(self._connect(), self._prepared())

    async def _connect(self) -> None:
        try:
            await self.guarded.store.start()
        except FunnelError as error:
            log.warning("cache.store_not_reached", error=str(error))

    async def _prepared(self) -> None:
        """The models are loaded, by whoever came first; later callers only look."""
        if self._preparing is None:
            self._preparing = asyncio.ensure_future(self.matcher.prepare())
        if not self._preparing.done():
            await asyncio.shield(self._preparing)

    async def aclose(self) -> None:
        """Let writes finish, for two seconds at most; end the rest."""
        await self._reruns.aclose()
        await self._writes.finish(_CLOSE_S)
        await self._writes.aclose()
        self.matcher.verifier.close()
        await self.guarded.store.aclose()

    # -- queries

    async def serve(self, request: CacheRequest, compute: Compute) -> Served:
        """Return a kept answer, join one in the making, or compute one and keep it."""
        await self._prepared()
        place = place_of(request, self.matcher.identity)
        if place is None or request.query.shortened:
            reason = "uncacheable_partition" if place is None else "query_shortened"
            served = Served(await compute(), CacheInfo(status="bypass", reason=reason))
        else:
            served = await self._serve(Looking(request, place, self.guarded.budget()), compute)
        self.counters.served(served.info)
        return served

    async def _serve(self, looking: Looking, compute: Compute) -> Served:
        if self._invalidator.owing:
            looking.fault = "invalidation_pending"
            return Served(await compute(), _missed(looking))
        attempt = 0
        while True:
            found = None if looking.fault else await self._lookup.exact(looking)
            if found is not None:
                return self._hit(found, looking, compute)
            result = await self._join_or_fly(looking, compute, attempt)
            if isinstance(result, Served):
                return result
            attempt = result.attempt

    async def _join_or_fly(
        self, looking: Looking, compute: Compute, attempt: int
    ) -> Served | _Again:
        epoch = self._epoch(looking)
        same = self.flights.same(looking.place, epoch)
        if same is not None:
            return await self._join(same, None, looking, compute)
        flight = self.flights.register(
            looking.place,
            looking.request.query.text,
            epoch,
            attempt=attempt,
            deadline=looking.request.deadline,
        )
        return await self._fly(flight, looking, compute)

    def _epoch(self, looking: Looking) -> int:
        if looking.epoch is not None:
            return looking.epoch
        return self._local.epoch.current if self._local.epoch else 0

    def _hit(self, found: Found, looking: Looking, compute: Compute) -> Served:
        served = Served(answer_of(found.entry), replace(found.info(), lookup_ms=looking.ms))
        self.counters.saved(found.entry.elapsed_ms)
        if found.tier == "semantic":
            self._writes.start(lambda: self._writer.alias(looking.place, found), "alias")
        if found.stale or (found.tier == "exact" and self._ends_soon(found)):
            self._reruns.refresh(looking, compute)
        elif found.score is not None and self._spread() < self.settings.audit_share:
            self._reruns.audit(found, served, looking, compute)
        return served

    def _ends_soon(self, found: Found) -> bool:
        eagerness = self.settings.early_refresh
        return refresh_now(found.entry, self._clock(), eagerness, spread=self._spread)

    # -- flights

    async def _fly(self, flight: Flight, looking: Looking, compute: Compute) -> Served | _Again:
        """Take a kept paraphrase, follow one in flight, or lead."""
        leads = False
        try:
            match = await self._approach.match(looking, flight)
            if isinstance(match, Found):
                served = self._hit(match, looking, compute)
                self.flights.land(flight, Outcome(served.answer))
                return served
            if isinstance(match, Joined):
                return await self._follow(flight, match, looking, compute)
            leads = True
        finally:
            if not leads:
                self.flights.leave(looking.place, flight)
        return await self._lead(flight, looking, compute)

    async def _follow(
        self, flight: Flight, match: Joined, looking: Looking, compute: Compute
    ) -> Served | _Again:
        self.flights.follow(flight)
        result = await self._join(match.flight, match.verdict, looking, compute)
        if isinstance(result, Served):
            self.flights.land(flight, Outcome(result.answer))
        return result

    async def _join(
        self, flight: Flight, verdict: Verdict | None, looking: Looking, compute: Compute
    ) -> Served | _Again:
        """Wait for a flight's outcome, for a while; then compute without it."""
        lookup_ms = looking.ms
        try:
            async with asyncio.timeout(self._patience_s(looking)):
                outcome = await asyncio.shield(flight.landing)
        except TimeoutError:
            looking.reason = "flight_timeout"
            return Served(await compute(), _missed(looking))
        if outcome.error is not None:
            return self._instead_of(outcome.error, looking)
        if outcome.answer is None or _worth_another_try(outcome.answer, flight, looking):
            return _Again(flight.attempt + outcome.failed)
        self.counters.event("joined")
        self.counters.saved(outcome.answer.elapsed_ms)
        return _shared(outcome.answer, flight, verdict, lookup_ms)

    def _patience_s(self, looking: Looking) -> float:
        left = looking.request.deadline.remaining_s()
        limit = self.settings.flight_wait_s
        return limit if left is None else min(limit, left / 2)

    async def _lead(self, flight: Flight, looking: Looking, compute: Compute) -> Served:
        self.flights.lead(flight)
        lease: Lease | None = None
        try:
            granted = await self._leases.take(looking)
            if isinstance(granted, Found):
                return self._landed_elsewhere(granted, flight, looking, compute)
            lease = granted
            lookup_ms = looking.ms
            answer = await compute()
        except BaseException as error:
            self._failed(error, flight, looking, lease)
            if isinstance(error, Exception):
                return self._instead_of(error, looking)
            raise
        self.flights.land(flight, Outcome(answer))
        await self._keep(flight, looking, answer, lease)
        return Served(answer, replace(_missed(looking), lookup_ms=lookup_ms))

    def _landed_elsewhere(
        self, found: Found, flight: Flight, looking: Looking, compute: Compute
    ) -> Served:
        served = self._hit(found, looking, compute)
        self.flights.land(flight, Outcome(served.answer))
        self.flights.leave(looking.place, flight)
        return served

    def _failed(
        self, error: BaseException, flight: Flight, looking: Looking, lease: Lease | None
    ) -> None:
        """The first failure lets a waiter try; the second is everybody's. Cancelled: try again."""
        if isinstance(error, Exception):
            shared = error if flight.attempt > 0 else None
            self.flights.land(flight, Outcome(error=shared, failed=True))
        self.flights.leave(looking.place, flight)
        if lease is not None:
            self._writes.start(lambda: self._leases.release(lease), "release")

    def _instead_of(self, error: Exception, looking: Looking) -> Served:
        """A stale answer instead of an error, if one is at hand and allowed."""
        if looking.late is None or isinstance(error, InputError):
            raise error
        log.warning("cache.stale_on_error", error=type(error).__name__)
        info = replace(looking.late.info(), reason="stages_failed", lookup_ms=looking.ms)
        return Served(answer_of(looking.late.entry), info)

    async def _keep(
        self, flight: Flight, looking: Looking, answer: Answer, lease: Lease | None
    ) -> None:
        """Keep the answer in the background; wait for that only while the store is quick."""

        async def keep() -> None:
            try:
                if looking.epoch is not None:
                    token = lease.token if lease else 0
                    await self._writer.keep(
                        looking.place, looking.request, answer, epoch=looking.epoch, token=token
                    )
                if lease is not None:
                    await self._leases.release(lease)
            finally:
                self.flights.leave(looking.place, flight)

        if answer.degraded:  # nobody may join it from now on
            self.flights.leave(looking.place, flight)
        task = self._writes.start(keep, "keep")
        if task is None:
            self.flights.leave(looking.place, flight)
            self.counters.event("write_dropped")
        elif looking.budget.left_s > 0:
            await asyncio.wait({task}, timeout=looking.budget.left_s)

    # -- keeping it true

    async def documents_changed(
        self, *, upserted: Sequence[Document] = (), deleted: Sequence[str] = ()
    ) -> None:
        """Forget what the written documents may have changed; nothing named means everything."""
        await self._invalidator.changed(upserted, deleted)

    async def purge(self, *, scope: str | None = None) -> int:
        """Drop all entries (of one scope), in all processes.

        Raises:
            CacheError: the store did not answer.
        """
        return await self._invalidator.purge(None if scope is None else scope_of(scope))

    async def forget(self, request: CacheRequest) -> bool:
        """Drop the entry (or alias) of one query, in all processes; returns if there was one.

        Raises:
            CacheError: the store did not answer.
        """
        await self._prepared()
        place = place_of(request, self.matcher.identity)
        return place is not None and await self._invalidator.forget(place.partition, place.key)

    # -- telling

    async def stats(self) -> Mapping[str, Any]:
        """Counters and gauges, JSON-ready."""
        return await full_stats(self)

    async def explain(self, request: CacheRequest) -> Mapping[str, Any]:
        """Why a lookup would hit or miss, with every candidate's scores and findings."""
        await self._prepared()
        place = place_of(request, self.matcher.identity)
        if place is None or request.query.shortened:
            return {"status": "bypass", "reason": "the query or its options cannot be cached"}
        looking = Looking(request, place, self.guarded.budget())
        return await explain_lookup(looking, self._lookup, self.matcher)


def _missed(looking: Looking) -> CacheInfo:
    """What the result says of a query that the stages answered."""
    refused = looking.refused
    failed = looking.fault is not None or looking.reason == "verifier_error"
    return CacheInfo(
        status="error" if failed else "miss",
        reason=looking.fault or looking.reason,
        matched_query=refused.candidate.query if refused else None,
        score=refused.score if refused else None,
        threshold=refused.needed if refused else None,
        lookup_ms=looking.ms,
    )


def _shared(answer: Answer, flight: Flight, verdict: Verdict | None, lookup_ms: float) -> Served:
    """Another query's answer as this one's: nothing ran for it."""
    info = CacheInfo(
        status="hit",
        tier="flight",
        matched_query=flight.text,
        score=verdict.score if verdict else None,
        threshold=verdict.needed if verdict else None,
        age_s=0.0,
        lookup_ms=lookup_ms,
    )
    return Served(replace(answer, trace=(), usage=Usage(), elapsed_ms=0.0), info)


def _worth_another_try(answer: Answer, flight: Flight, looking: Looking) -> bool:
    """A degraded answer of someone in more of a hurry is not everybody's."""
    if not answer.degraded or flight.deadline.end is None or flight.attempt > 0:
        return False
    mine = looking.request.deadline.end
    return mine is None or mine > flight.deadline.end + 0.05
