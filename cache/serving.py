"""One query's way through the tiers and the flights, once it is known to be cacheable."""

import asyncio
import functools
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from funnel.cache.approach import Approach, Joined
from funnel.cache.background import Background
from funnel.cache.base import Answer, Compute, Served
from funnel.cache.codec import Entry
from funnel.cache.counters import Counters
from funnel.cache.decision import Verdict
from funnel.cache.flights import Flight, Flights, Outcome
from funnel.cache.freshness import refresh_now
from funnel.cache.leases import Leases
from funnel.cache.local import LocalTier
from funnel.cache.lookup import Found, Looking, Lookup
from funnel.cache.reruns import Reruns
from funnel.cache.settings import CacheSettings
from funnel.cache.store import Lease
from funnel.cache.writer import Writer, answer_of, copy_of
from funnel.deadline import RESERVE_SHARE
from funnel.errors import InputError, StageTimeout
from funnel.log import Seldom, get_logger
from funnel.types import CacheInfo, Usage

log = get_logger(__name__)
_SLACK = 1.25  # a run may take this much longer than runs do lately, and is still waited for
_LEAST_LEFT_S = 0.02  # with less until the deadline, a waiter computes whoever else does
_TOO_LITTLE_S = 0.05  # with less, it takes what others in the same hurry get, if there are any
_SAME_S = 0.05  # deadlines no further apart are the same hurry
_JOINABLE_S = 1.0  # how long an answer that is not kept yet is shared


@dataclass(frozen=True, slots=True)
class _Again:
    """What was waited for came to nothing; look again. ``attempt`` counts failures so far."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What serving is made of; all of it belongs to one cache."""

    settings: CacheSettings
    counters: Counters
    local: LocalTier
    lookup: Lookup
    writer: Writer
    approach: Approach
    flights: Flights
    leases: Leases
    reruns: Reruns
    writes: Background


class Serving:
    """Answers lookups; keeps no state but that of its parts."""

    def __init__(
        self,
        parts: Parts,
        *,
        clock: Callable[[], float] = time.time,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._settings = parts.settings
        self._counters = parts.counters
        self._local = parts.local
        self._lookup = parts.lookup
        self._writer = parts.writer
        self._approach = parts.approach
        self._flights = parts.flights
        self._leases = parts.leases
        self._reruns = parts.reruns
        self._writes = parts.writes
        self._clock = clock
        self._spread = spread
        self._seldom = Seldom(log)

    async def serve(self, looking: Looking, compute: Compute) -> Served:
        """The answer to one lookup, wherever it comes from."""
        attempt = 0
        while True:
            found = None if looking.fault else await self._kept(looking)
            if found is not None:
                return self._hit(found, looking, compute)
            result = await self._join_or_fly(looking, compute, attempt)
            if isinstance(result, Served):
                return result
            attempt = result.attempt

    async def _join_or_fly(
        self, looking: Looking, compute: Compute, attempt: int
    ) -> Served | _Again:
        same = self._flights.same(looking.place, self._epoch(looking))
        if same is not None:
            same.missed_at = looking.missed_at or same.missed_at
            return await self._join(same, None, looking, compute)
        return await self._fly(self._register(looking, attempt), looking, compute)

    async def _kept(self, looking: Looking) -> Found | None:
        """The answer to this very text as it is kept, here or in the store."""
        found = self._lookup.here(looking)
        if found is not None or self._is_being_computed(looking):
            return found
        return await self._lookup.in_store(looking)

    def _is_being_computed(self, looking: Looking) -> bool:
        """Whether the store lacked it a moment ago and somebody here computes it since.

        A moment is what a process's own entries are believed for without a look at the epoch.
        """
        epoch, now = self._local.epoch, time.monotonic()
        same = self._flights.same(looking.place, epoch.current) if epoch else None
        if epoch is None or same is None or same.missed_at is None:
            return False
        if not self._local.covers(same.missed_at, now):
            return False
        looking.epoch = epoch.current
        return True

    def _register(self, looking: Looking, attempt: int) -> Flight:
        flight = self._flights.register(
            looking.place,
            looking.request.query.text,
            self._epoch(looking),
            asked=looking.request.query.asked,
            attempt=attempt,
            deadline=looking.request.deadline,
        )
        flight.missed_at = looking.missed_at
        return flight

    def _epoch(self, looking: Looking) -> int:
        if looking.epoch is not None:
            return looking.epoch
        return self._local.epoch.current if self._local.epoch else 0

    def _hit(self, found: Found, looking: Looking, compute: Compute) -> Served:
        served = Served(answer_of(found.entry), replace(found.info(), lookup_ms=looking.ms))
        self._counters.saved(found.entry.elapsed_ms)
        if found.tier == "semantic":
            self._writes.start(lambda: self._writer.alias(looking.place, found), "alias")
        if found.stale or (found.tier == "exact" and self._ends_soon(found)):
            self._reruns.refresh(looking, compute)
        elif found.score is not None and self._to_be_audited():
            self._reruns.audit(found, served, looking, compute)
        return served

    def _to_be_audited(self) -> bool:
        return self._spread() < self._settings.audit_share

    def _ends_soon(self, found: Found) -> bool:
        eagerness = self._settings.early_refresh
        return refresh_now(found.entry, self._clock(), eagerness, spread=self._spread)

    # -- flights

    async def _fly(self, flight: Flight, looking: Looking, compute: Compute) -> Served | _Again:
        """Take a kept paraphrase, follow one in flight, or lead."""
        leads = False
        try:
            match = await self._approach.match(looking, flight)
            if isinstance(match, Found):
                served = self._hit(match, looking, compute)
                self._land(flight, served.answer, served.info)
                return served
            if isinstance(match, Joined):
                return await self._follow(flight, match, looking, compute)
            leads = True
        finally:
            if not leads:
                self._flights.leave(looking.place, flight)
        return await self._lead(flight, looking, compute)

    async def _follow(
        self, flight: Flight, match: Joined, looking: Looking, compute: Compute
    ) -> Served | _Again:
        self._flights.follow(flight)
        result = await self._join(match.flight, match.verdict, looking, compute)
        if isinstance(result, Served):
            self._land(flight, result.answer, result.info)
        return result

    def _land(self, flight: Flight, answer: Answer, info: CacheInfo | None = None) -> Answer:
        """Let those who wait have a copy that no caller holds, as a caller may alter its own.

        ``info`` is what the one who looked is told: whoever waits is told the same of a hit.
        """
        shared = copy_of(answer)
        told = info if info is not None and info.status == "hit" else None
        self._flights.land(flight, Outcome(shared, info=told))
        return shared

    async def _join(
        self, flight: Flight, verdict: Verdict | None, looking: Looking, compute: Compute
    ) -> Served | _Again:
        """Wait for a flight's outcome, for a while; then compute beside it."""
        lookup_ms = looking.ms
        outcome = await self._outcome(flight, looking)
        if outcome is None:
            return await self._relieve(flight, verdict, looking, compute)
        if outcome.error is not None and _only_ran_out_of_time(outcome.error, flight, looking):
            return _Again(flight.attempt)
        if outcome.error is not None:
            if verdict is None:
                looking.late = looking.late or outcome.late
            return await self._instead_of(outcome.error, looking)
        if outcome.answer is None or _worth_another_try(outcome.answer, flight, looking):
            return _Again(flight.attempt + outcome.failed)
        info = replace(_info_of(flight, verdict, outcome.info), lookup_ms=lookup_ms)
        served = self._joined(outcome.answer, info)
        if verdict is not None and not outcome.answer.degraded and self._to_be_audited():
            found = _found_in_flight(flight, verdict, outcome.answer)
            self._reruns.audit(found, served, looking, compute)
        return served

    def _joined(self, answer: Answer, info: CacheInfo) -> Served:
        """Another query's answer: nothing ran for this one."""
        self._counters.event("joined")
        self._counters.saved(answer.elapsed_ms)
        return Served(replace(copy_of(answer), trace=(), usage=Usage(), elapsed_ms=0.0), info)

    async def _outcome(self, flight: Flight, looking: Looking) -> Outcome | None:
        """How a flight ended; None if it takes too long and this waiter has to compute.

        Of all whose patience ends together the first computes; the others wait on, as what it
        computes may be theirs too. Without a deadline they do so once. Who has no time left to
        compute takes what there is then, also what somebody in a hurry got.
        """
        waited = False
        while True:
            began = time.monotonic()
            patience_s = self._patience_s(flight, looking)
            try:
                async with asyncio.timeout(patience_s):
                    return await asyncio.shield(flight.landing)
            except TimeoutError:
                left = looking.request.deadline.remaining_s()
                if left is not None and left < _TOO_LITTLE_S and _is_raced(flight, looking):
                    return await _first_answer(flight, left)
                last = waited if left is None else left < _LEAST_LEFT_S
                if last or patience_s <= 0 or flight.relieved_at < began:
                    flight.relieved_at = time.monotonic()
                    return None
            waited = True

    def _patience_s(self, flight: Flight, looking: Looking) -> float:
        """Half of what is left, or until the flight is likely to have landed if that is in time."""
        limit = self._settings.flight_wait_s
        left = looking.request.deadline.remaining_s()
        if left is None:
            return limit
        needed = self._flights.left_s(flight)
        likely = 0.0 if needed is None else needed * _SLACK
        return min(limit, max(left / 2, likely if likely <= left * (1 - RESERVE_SHARE) else 0.0))

    async def _relieve(
        self, flight: Flight, verdict: Verdict | None, looking: Looking, compute: Compute
    ) -> Served:
        """Compute beside a slow flight; whoever waits for the same text gets what is there first.

        A paraphrase computes for itself: its answer is verified for nobody else.
        """
        looking.reason = "flight_timeout"
        if verdict is None:
            own = self._register(looking, flight.attempt)
            self._flights.relieve(looking.place, flight, own)
            try:
                return await self._lead(own, looking, compute, alone=False)
            except StageTimeout:
                answer = own.answered.result().answer if own.answered.done() else None
                if answer is None:
                    raise
                info = _info_of(flight, None, own.answered.result().info)
                return self._joined(answer, replace(info, lookup_ms=looking.ms))
        try:
            answer = await compute()
        except Exception as error:
            return await self._instead_of(error, looking)
        return Served(answer, missed(looking))

    async def _lead(
        self, flight: Flight, looking: Looking, compute: Compute, *, alone: bool = True
    ) -> Served:
        """Compute, share and keep. Who is not ``alone`` needs no lease: one here may have it."""
        self._flights.lead(flight)
        lease: Lease | None = None
        try:
            granted = await self._leases.take(looking) if alone else None
            if isinstance(granted, Found):
                return self._landed_elsewhere(granted, flight, looking, compute)
            lease = granted
            lookup_ms = looking.ms
            answer = await compute()
            shared = self._land(flight, answer)
        except BaseException as error:
            try:
                await self._look_for_late(error, looking)
            finally:
                await self._failed(error, flight, looking, lease)
            if isinstance(error, Exception):
                return await self._instead_of(error, looking)
            raise
        await self._keep(flight, looking, shared, lease)
        return Served(answer, replace(missed(looking), lookup_ms=lookup_ms))

    def _landed_elsewhere(
        self, found: Found, flight: Flight, looking: Looking, compute: Compute
    ) -> Served:
        served = self._hit(found, looking, compute)
        self._land(flight, served.answer, served.info)
        self._flights.leave(looking.place, flight)
        return served

    async def _failed(
        self, error: BaseException, flight: Flight, looking: Looking, lease: Lease | None
    ) -> None:
        """The first failure lets a waiter try; the second is everybody's. Cancelled: try again."""
        if isinstance(error, Exception):
            shared = error if flight.attempt > 0 else None
            self._flights.land(flight, Outcome(error=shared, failed=True, late=looking.late))
        self._flights.leave(looking.place, flight)
        await self._give_back(lease)

    async def _give_back(self, lease: Lease | None) -> None:
        """Release in the background, or here if there is no room: others would wait for it."""
        if lease is None:
            return
        if self._writes.start(lambda: self._leases.release(lease), "release") is None:
            await self._leases.release(lease)

    async def _look_for_late(self, error: BaseException, looking: Looking) -> None:
        """Find what may be served now that the stages failed; a mistake of the caller stays one."""
        failed = isinstance(error, Exception) and not isinstance(error, InputError)
        if failed and looking.late is None:
            looking.late = await self._approach.if_stages_fail(looking)

    async def _instead_of(self, error: Exception, looking: Looking) -> Served:
        """A stale answer instead of an error, if one is at hand and allowed."""
        await self._look_for_late(error, looking)
        if looking.late is None or isinstance(error, InputError):
            raise error
        self._seldom.warning("cache.stale_on_error", error=type(error).__name__)
        info = replace(looking.late.info(), reason="stages_failed", lookup_ms=looking.ms)
        return Served(answer_of(looking.late.entry), info)

    async def _keep(
        self, flight: Flight, looking: Looking, answer: Answer, lease: Lease | None
    ) -> None:
        """Keep the answer in the background; wait for that only while the store is quick."""
        leave = functools.partial(self._flights.leave, looking.place, flight)
        # Kept or not, a landed flight must not be joined for long: it would never be stale.
        leaving = asyncio.get_running_loop().call_later(_JOINABLE_S, leave)

        async def keep() -> None:
            try:
                if looking.epoch is not None:
                    token = lease.token if lease else 0
                    await self._writer.keep(
                        looking.place, looking.request, answer, epoch=looking.epoch, token=token
                    )
            finally:
                leaving.cancel()
                leave()
                if lease is not None:
                    await self._leases.release(lease)

        if answer.degraded:  # nobody may join it from now on
            leave()
        task = self._writes.start(keep, "keep")
        if task is None:
            leaving.cancel()
            leave()
            self._counters.event("write_dropped")
            await self._give_back(lease)
        elif (left := _waiting_s(looking)) > 0:
            await asyncio.wait({task}, timeout=left)


def _waiting_s(looking: Looking) -> float:
    """How long an answer that is ready may wait for being kept."""
    left = looking.request.deadline.remaining_s()
    return looking.budget.left_s if left is None else min(looking.budget.left_s, left)


def missed(looking: Looking) -> CacheInfo:
    """What the result says of a query that the stages answered."""
    refused = looking.refused
    failed = looking.fault is not None or looking.reason == "verifier_error"
    return CacheInfo(
        status="error" if failed else "miss",
        reason=looking.fault or looking.reason,
        matched_query=(refused.candidate.asked or refused.candidate.query) if refused else None,
        score=refused.score if refused else None,
        # It may have been tightened to infinity meanwhile, which JSON does not know.
        threshold=refused.needed if refused and math.isfinite(refused.needed) else None,
        lookup_ms=looking.ms,
    )


def _is_raced(flight: Flight, looking: Looking) -> bool:
    """Whether somebody computes its answer who is in as much of a hurry as this one."""
    mine = looking.request.deadline.end
    ends = [one.deadline.end for one in flight.twins or [flight]]
    return mine is not None and any(end is not None and end <= mine + _SAME_S for end in ends)


async def _first_answer(flight: Flight, within_s: float) -> Outcome | None:
    """What was or is answered to its text by anybody in that time, degraded or not."""
    try:
        async with asyncio.timeout(max(0.0, within_s)):
            return await asyncio.shield(flight.answered)
    except TimeoutError:
        return flight.answered.result() if flight.answered.done() else None


def _info_of(flight: Flight, verdict: Verdict | None, landed: CacheInfo | None) -> CacheInfo:
    """What is told of another query's answer; ``landed`` if that one did not compute it either."""
    info = landed or CacheInfo(
        status="hit", tier="flight", matched_query=flight.asked or flight.text, age_s=0.0
    )
    if verdict is None:
        return info
    return replace(info, tier="flight", score=verdict.score, threshold=verdict.needed)


def _found_in_flight(flight: Flight, verdict: Verdict, answer: Answer) -> Found:
    """A joined paraphrase as an audit looks at it: its scores count, its hits are in the answer."""
    return Found(
        entry=Entry(flight.text, (), 0.0, 0.0, flight.epoch, answer.elapsed_ms),
        key=flight.key,
        tier="flight",
        age_s=0.0,
        stale=False,
        score=verdict.score,
        threshold=verdict.needed,
        margin=verdict.margin,
    )


def _worth_another_try(answer: Answer, flight: Flight, looking: Looking) -> bool:
    """A degraded answer of someone in more of a hurry is not everybody's."""
    return bool(answer.degraded) and _has_more_time(flight, looking)


def _only_ran_out_of_time(error: Exception, flight: Flight, looking: Looking) -> bool:
    """Nor is the error of someone who had no time left."""
    return isinstance(error, StageTimeout) and _has_more_time(flight, looking)


def _has_more_time(flight: Flight, looking: Looking) -> bool:
    """Whether this caller has time to try, and more than the flight's own had."""
    mine, left = looking.request.deadline.end, looking.request.deadline.remaining_s()
    if flight.deadline.end is None or (left is not None and left < _TOO_LITTLE_S):
        return False
    return mine is None or mine > flight.deadline.end + _SAME_S
