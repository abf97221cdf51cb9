"""How a query that is not kept verbatim finds its answer: a kept paraphrase, or one in flight."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from funnel.cache.decision import Candidate, Decision, Verdict
from funnel.cache.flights import Flight, Flights
from funnel.cache.lookup import Found, Looking, Lookup, Near
from funnel.cache.matcher import Matcher
from funnel.deadline import Deadline
from funnel.log import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Joined:
    """A query in flight that asks the same, and what the verifier said of the two."""

    flight: Flight
    verdict: Verdict


class Approach:
    """Looks among kept and computing questions until one matches or none is left."""

    def __init__(
        self, lookup: Lookup, matcher: Matcher, flights: Flights, max_wait_s: float
    ) -> None:
        self._lookup = lookup
        self._matcher = matcher
        self._flights = flights
        self._max_wait_s = max_wait_s

    async def match(self, looking: Looking, flight: Flight) -> Found | Joined | None:
        """A kept paraphrase, one in flight, or None: then this query has to lead.

        None is returned without a wait after the last look at the others, so the caller can
        decide to lead before any of them looks again.
        """
        refusal = self._matcher.refuses(flight.text)
        if refusal:
            looking.reason = refusal if looking.reason == "no_candidates" else looking.reason
            return None
        if not await self._embed(looking, flight):
            return None
        assert flight.vector is not None  # noqa: S101 - for the type checker
        near = await self._lookup.nearest(looking, flight.vector)
        patience = self._patience(looking)
        tried: set[Flight] = set()
        while True:
            leaders = self._untried_leaders(looking, flight, tried)
            if near or leaders:
                match = await self._judge(looking, flight, near, leaders, patience)
                if match is not None:
                    return match
                near, tried = [], tried | {leader for leader, _ in leaders}
                continue
            if not await self._wait_for_others(looking, flight, patience):
                return None

    async def _embed(self, looking: Looking, flight: Flight) -> bool:
        """Wait for the query's vector, but not longer than for the verifier.

        Who gives up does not stop it: a stage may need it too, and what is kept is found by it.
        """
        limit = self._matcher.time_limit(looking.request.deadline)
        try:
            async with asyncio.timeout(limit.remaining_s()):
                flight.embed(await looking.request.query.vector())
        except TimeoutError:
            looking.reason = "embedding_timeout"
            return False
        except Exception as error:
            log.warning("cache.embedding_failed", error=type(error).__name__)
            looking.reason = "embedding_failed"
            return False
        return True

    def _patience(self, looking: Looking) -> Deadline:
        """How long to look at others in flight: at most half of what the query has left."""
        left = looking.request.deadline.remaining_s()
        limit = self._max_wait_s if left is None else min(self._max_wait_s, left / 2)
        return Deadline(time.monotonic() + limit)

    def _untried_leaders(
        self, looking: Looking, flight: Flight, tried: set[Flight]
    ) -> list[tuple[Flight, float]]:
        policy = self._matcher.policy
        leaders = self._flights.leaders(looking.place, flight, policy.floor)
        fresh = [(leader, cosine) for leader, cosine in leaders if leader not in tried]
        return sorted(fresh, key=lambda pair: -pair[1])[: policy.limit]

    async def _judge(
        self,
        looking: Looking,
        flight: Flight,
        near: Sequence[Near],
        leaders: Sequence[tuple[Flight, float]],
        patience: Deadline,
    ) -> Found | Joined | None:
        kept = {entry.key: entry for entry in near}
        flying = {f"flight-{leader.number}": leader for leader, _ in leaders}
        candidates = [entry.candidate for entry in near] + [
            Candidate(f"flight-{leader.number}", leader.text, cosine) for leader, cosine in leaders
        ]
        # Waiting for the verifier is cheaper than a second run of the stages beside the first.
        limit = patience if leaders else self._matcher.time_limit(looking.request.deadline)
        decision = await self._matcher.judge(flight.text, candidates, limit)
        self._note(looking, decision)
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
        scored = [verdict for verdict in decision.verdicts if verdict.score is not None]
        looking.refused = max(scored, key=lambda v: (v.score or 0.0) - v.needed, default=None)

    async def _wait_for_others(self, looking: Looking, flight: Flight, patience: Deadline) -> bool:
        """Wait for the first similar query that does not know yet; False if there is none."""
        waiting = self._flights.undecided_before(looking.place, flight, self._matcher.policy.floor)
        if not waiting or patience.expired:
            return False
        try:
            async with asyncio.timeout(patience.remaining_s()):
                await waiting[0].settled()
        except TimeoutError:
            return False
        return True
