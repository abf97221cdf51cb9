"""How a query that is not kept verbatim finds its answer: a kept paraphrase, or one in flight."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from funnel.cache.decision import Candidate, Decision, Verdict
from funnel.cache.flights import Flight, Flights
from funnel.cache.lookup import Found, Looking, Lookup, Near
from funnel.cache.matcher import Matcher
from funnel.deadline import Deadline
from funnel.log import Seldom, get_logger

if TYPE_CHECKING:
    from funnel.cache.store import Vector

log = get_logger(__name__)
_MOST = 3  # times the policy's limit: how many flights one query is compared with at most
_STANDS_STILL = 8  # times a model's limit without a result for anybody: no queue, it hangs
_AT_ONCE = 8  # queries that compare in one turn of the event loop


@dataclass(frozen=True, slots=True)
class Joined:
    """A query in flight that asks the same, and what the verifier said of the two."""

    flight: Flight
    verdict: Verdict


@dataclass(slots=True)
class _Search:
    """One query among the others: ``near`` still to be judged, ``tried`` already compared with.

    ``reach`` is the cosine from which on others are candidates.
    """

    looking: Looking
    flight: Flight
    near: Sequence[Near]
    patience: Deadline
    reach: float
    tried: set[Flight] = field(default_factory=set)


class Approach:
    """Looks among kept and computing questions until one matches or enough were compared.

    Comparing takes a good part of a millisecond each and happens on the event loop. So a query is
    compared with a few flights only: the first ones that compute, then those among the nearest.
    And few queries compare in one turn of the loop.
    """

    def __init__(
        self, lookup: Lookup, matcher: Matcher, flights: Flights, max_wait_s: float
    ) -> None:
        self._lookup = lookup
        self._matcher = matcher
        self._flights = flights
        self._max_wait_s = max_wait_s
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._embedded_at = -math.inf
        self._seldom = Seldom(log)

    async def match(self, looking: Looking, flight: Flight) -> Found | Joined | None:
        """A kept paraphrase, one in flight, or None: then this query has to lead.

        Unless time is over, or enough flights were compared, None is returned without a wait after
        the last look at the others, so the caller can decide to lead before any of them looks
        again.
        """
        refusal = self._matcher.refuses(flight.text)
        if refusal:
            looking.reason = refusal if looking.reason == "no_candidates" else looking.reason
            return None
        reach = self._matcher.reach(flight.text)
        search = _Search(looking, flight, (), self._patience(looking), reach)
        if not await self._embed(search):
            return None
        assert flight.vector is not None  # noqa: S101 - for the type checker
        search.near = await self._lookup.nearest(looking, flight.vector, floor=reach)
        search.patience = self._patience(looking)  # the encoder's queue was not the others' fault
        while True:
            leaders = self._untried_leaders(search)
            if search.near or leaders:
                match = await self._compare(search, leaders)
                if match is not None or self._is_enough(search):
                    return match
            elif not await self._wait_for_others(search):
                return None

    async def if_stages_fail(self, looking: Looking) -> Found | None:
        """A paraphrase past its time, for want of anything better; verified only now.

        Nearly always the stages answer, and then nobody has to know.
        """
        kept, looking.late_near = {near.key: near for near in looking.late_near}, ()
        if not kept:
            return None
        limit = self._matcher.time_limit(looking.request.deadline)
        candidates = [near.candidate for near in kept.values()]
        chosen = (await self._matcher.judge(looking.request.query.text, candidates, limit)).chosen
        return self._lookup.found_by(chosen, kept[chosen.candidate.key]) if chosen else None

    async def _embed(self, search: _Search) -> bool:
        """Wait for the query's vector, but not longer than for the verifier, or than others do.

        Who gives up does not stop it: a stage may need it too, and what is kept is found by it.
        """
        looking = search.looking
        try:
            vector = await self._vector(search)
        except TimeoutError:
            looking.reason = "embedding_timeout"
            return False
        except Exception as error:
            self._seldom.warning("cache.embedding_failed", error=type(error).__name__)
            looking.reason = "embedding_failed"
            return False
        self._embedded_at = time.monotonic()
        self._flights.embed(looking.place, search.flight, vector)
        return True

    async def _vector(self, search: _Search) -> "Vector":
        """The vector; in company, waited for in turns while the encoder gives some to anybody."""
        query, limit = search.looking.request.query, self._short_limit(search)
        began, turn_s = time.monotonic(), limit.remaining_s() or 0.0
        while True:
            try:
                async with asyncio.timeout(limit.remaining_s()) as turn:
                    return await query.vector()
            except TimeoutError:
                still_s = time.monotonic() - max(began, self._embedded_at)
                if not turn.expired() or still_s > _STANDS_STILL * turn_s:
                    raise
                if search.patience.expired or not self._in_company(search):
                    raise
            limit = search.patience.within(turn_s)

    def _short_limit(self, search: _Search) -> Deadline:
        """How long a query that is alone waits for a model."""
        return self._matcher.time_limit(search.looking.request.deadline)

    def _in_company(self, search: _Search) -> bool:
        """Whether others are about that it may share a run with: then a wait is worth more."""
        return self._flights.has_company(search.looking.place, search.flight)

    def _patience(self, looking: Looking) -> Deadline:
        """How long to look at others in flight: at most half of what the query has left."""
        left = looking.request.deadline.remaining_s()
        limit = self._max_wait_s if left is None else min(self._max_wait_s, left / 2)
        return Deadline(time.monotonic() + limit)

    def _is_enough(self, search: _Search) -> bool:
        return search.patience.expired or self._room(search) <= 0

    def _in_reach(self, search: _Search) -> list[tuple[Flight, float]]:
        """Flights that still matter to it: any at first, then only the nearest.

        At first any, because a thousand paraphrases must not wait for their nearest ones when the
        one that computes is at hand.
        """
        limit = self._matcher.policy.limit
        others = self._flights.similar(search.looking.place, search.flight, search.reach)
        return others if len(search.tried) < limit else others[:limit]

    def _untried_leaders(self, search: _Search) -> list[tuple[Flight, float]]:
        if search.patience.expired:
            return []
        fresh = [
            (other, cosine)
            for other, cosine in self._in_reach(search)
            if other.joinable and other not in search.tried
        ]
        return fresh[: self._room(search)]

    def _room(self, search: _Search) -> int:
        """How many flights it may be compared with next."""
        limit = self._matcher.policy.limit
        return min(limit, _MOST * limit - len(search.tried))

    async def _compare(
        self, search: _Search, leaders: Sequence[tuple[Flight, float]]
    ) -> Found | Joined | None:
        near, search.near = search.near, ()
        # Waiting for the verifier is cheaper than a second run of the stages beside the first.
        limit = search.patience
        if not leaders and (self._matcher.verifier.stands_still or not self._in_company(search)):
            limit = self._short_limit(search)
        if not await self._my_turn(limit):
            return None
        return await self._judge(search, near, self._with_later(search, leaders), limit)

    async def _my_turn(self, limit: Deadline) -> bool:
        """Wait until few others compare in this turn of the loop; False if that takes too long."""
        try:
            async with asyncio.timeout(limit.remaining_s()), self._turns:
                await asyncio.sleep(0)
        except TimeoutError:
            return False
        return True

    def _with_later(
        self, search: _Search, leaders: Sequence[tuple[Flight, float]]
    ) -> list[tuple[Flight, float]]:
        """The leaders seen before the wait, also those who landed and left, and later ones."""
        seen = dict([*leaders, *self._untried_leaders(search)])
        joinable = [(leader, cosine) for leader, cosine in seen.items() if leader.joinable]
        return sorted(joinable, key=lambda pair: -pair[1])[: self._room(search)]

    async def _judge(
        self,
        search: _Search,
        near: Sequence[Near],
        leaders: Sequence[tuple[Flight, float]],
        limit: Deadline,
    ) -> Found | Joined | None:
        kept = {entry.key: entry for entry in near}
        flying = {f"flight-{leader.number}": leader for leader, _ in leaders}
        candidates = [entry.candidate for entry in near] + [
            Candidate(f"flight-{leader.number}", leader.text, cosine, leader.asked)
            for leader, cosine in leaders
        ]
        decision = await self._matcher.judge(search.flight.text, candidates, limit)
        self._note(search.looking, decision)
        search.tried |= {
            flying[verdict.candidate.key]
            for verdict in decision.verdicts
            if verdict.candidate.key in flying
        }
        chosen = decision.chosen
        if chosen is None:
            return None
        if chosen.candidate.key in kept:
            return self._lookup.found_by(chosen, kept[chosen.candidate.key])
        return Joined(flying[chosen.candidate.key], chosen)

    def _note(self, looking: Looking, decision: Decision) -> None:
        if decision.chosen is not None or looking.reason not in ("no_candidates", "expired"):
            return
        looking.reason = decision.reason
        refused = [v for v in decision.verdicts if v.reason == "below_threshold"]
        looking.refused = max(refused, key=_lacking, default=None)

    async def _wait_for_others(self, search: _Search) -> bool:
        """Wait for the first similar query that does not know yet; False if there is none."""
        waiting = [other for other, _ in self._in_reach(search) if other.state == "undecided"]
        if not waiting or search.patience.expired:
            return False
        try:
            async with asyncio.timeout(search.patience.remaining_s()):
                await min(waiting, key=lambda other: other.number).settled()
        except TimeoutError:
            return False
        return True


def _lacking(refused: Verdict) -> float:
    """How far it is from a hit, the nearer the higher; what has no score is furthest."""
    return -math.inf if refused.score is None else refused.score - refused.needed
