"""The verifier's one queue: pairs of all waiting lookups go to the cross-encoder together."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from funnel.cache.breaker import BreakerSettings, CircuitBreaker
from funnel.deadline import Deadline
from funnel.errors import CacheError, FunnelError
from funnel.log import Seldom, get_logger
from funnel.models.base import Scorer, TextPair

log = get_logger(__name__)
_BATCH = 64
_STANDS_STILL = 20  # time-outs without a pass: it hangs rather than being busy


def is_symmetric(scorer: Scorer) -> bool:
    """Whether the scorer says that the order of a pair means nothing to it."""
    return bool(getattr(scorer, "symmetric", False))


class VerifierFault(CacheError):
    """The verifier did not answer. ``reason`` is one of a few words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"cache verifier: {reason}")


@dataclass(eq=False, slots=True)
class _Job:
    pairs: Sequence[TextPair]
    cosines: Sequence[float | None] | None
    needed: Sequence[float] | None
    deadline: Deadline
    answer: "asyncio.Future[list[float]]"
    began: float = field(default_factory=time.monotonic)


class Verifier:
    """Scores pairs for many concurrent lookups in few batches.

    While the model works on one batch, further lookups gather and form the next one; so a burst of
    paraphrases costs a few passes, not one pass each. Repeated failures open a breaker: a verifier
    that is too slow for this machine must not cost every query its timeout. One that answers within
    ``timeout_s`` is not, although a caller in a hurry has left by then.
    """

    def __init__(self, scorer: Scorer, timeout_s: float) -> None:
        self.scorer = scorer
        self._timeout_s = timeout_s
        self.breaker = CircuitBreaker(BreakerSettings(failures=5, pause_s=1.0, max_pause_s=30.0))
        self.passes = 0
        self.pairs = 0
        self._waiting: deque[_Job] = deque()
        self._scoring: Sequence[_Job] = ()
        self._moved_at = -math.inf
        self._worker: asyncio.Task[None] | None = None
        self._seldom = Seldom(log)

    async def score(
        self,
        pairs: Sequence[TextPair],
        deadline: Deadline,
        cosines: Sequence[float | None] | None = None,
        needed: Sequence[float] | None = None,
    ) -> list[float]:
        """Scores in the pairs' order; NaN for what the model could not read to its end.

        ``cosines`` of the pairs, for a scorer that says whose it can use (``cosine_of``). A scorer
        that ``has_ceiling`` may give minus infinity where it rules out that a pair has what is
        ``needed``.

        Raises:
            VerifierFault: too late, failed, or failing lately.
        """
        if not pairs:
            return []
        if not self.breaker.allows():
            raise VerifierFault("verifier_breaker_open")
        job = _Job(pairs, cosines, needed, deadline, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._ensure_worker()
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                scores = await job.answer
        except TimeoutError as error:
            self.breaker.failed()
            raise VerifierFault("verifier_timeout") from error
        except VerifierFault:
            self.breaker.failed()
            raise
        self.breaker.succeeded()
        return scores

    @property
    def stands_still(self) -> bool:
        """Whether somebody waits for it, and it has not scored for several time-outs."""
        since = max(self._moved_at, min((job.began for job in self._open()), default=math.inf))
        return time.monotonic() - since > _STANDS_STILL * self._timeout_s

    def _open(self) -> list[_Job]:
        return [job for job in (*self._scoring, *self._waiting) if not job.answer.done()]

    def close(self) -> None:
        """Stop the worker; whoever waits gets a fault."""
        if self._worker is not None:
            self._worker.cancel()
        self._refuse(list(self._waiting), "verifier_closed")
        self._waiting.clear()

    def _ensure_worker(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        while self._waiting:
            self._scoring = jobs = self._next_jobs()
            if not jobs:
                continue
            try:
                await self._run(jobs)
            except asyncio.CancelledError:
                self._refuse(jobs, "verifier_closed")
                raise
            except FunnelError as error:
                self._seldom.warning("cache.verifier_failed", error=str(error))
                self._refuse(jobs, "verifier_error")
            except Exception as error:
                self._seldom.error("cache.verifier_broken", error=type(error).__name__)
                self._refuse(jobs, "verifier_error")

    def _next_jobs(self) -> list[_Job]:
        """Jobs that somebody still waits for, up to a batch of pairs."""
        jobs: list[_Job] = []
        size = 0
        while self._waiting and (not jobs or size + len(self._waiting[0].pairs) <= _BATCH):
            job = self._waiting.popleft()
            if not job.answer.done():
                jobs.append(job)
                size += len(job.pairs)
        return jobs

    async def _run(self, jobs: Sequence[_Job]) -> None:
        pairs = [pair for job in jobs for pair in job.pairs]
        scored = await self.scorer.ascore(pairs, deadline=_latest(jobs), **self._known(jobs))
        self.passes += 1
        self._moved_at = time.monotonic()
        self.pairs += len(pairs)
        values = [float(value) for value in scored.values]
        if scored.truncated:
            values = await self._one_by_one(pairs, _latest(jobs))
        if time.monotonic() - min(job.began for job in jobs) <= self._timeout_s:
            self.breaker.succeeded()
        start = 0
        for job in jobs:
            end = start + len(job.pairs)
            if not job.answer.done():
                job.answer.set_result(values[start:end])
            start = end

    async def _one_by_one(self, pairs: Sequence[TextPair], deadline: Deadline) -> list[float]:
        """NaN for pairs that were cut: two questions may differ in what was not read."""
        values = []
        for pair in pairs:
            one = await self.scorer.ascore([pair], deadline=deadline)
            values.append(math.nan if one.truncated else float(one.values[0]))
        return values

    def _known(self, jobs: Sequence[_Job]) -> dict[str, Any]:
        """What the scorer can use of what is known: cosines only where all jobs have them."""
        known = {}
        if all(job.cosines is not None for job in jobs):
            known["cosines"] = [cosine for job in jobs for cosine in job.cosines or ()]
        if getattr(self.scorer, "has_ceiling", False):
            known["needed"] = [floor for job in jobs for floor in _floors(job)]
        return known

    def _refuse(self, jobs: Sequence[_Job], reason: str) -> None:
        for job in jobs:
            if not job.answer.done():
                job.answer.set_exception(VerifierFault(reason))


def _floors(job: _Job) -> Sequence[float]:
    return [-math.inf] * len(job.pairs) if job.needed is None else job.needed


def _latest(jobs: Sequence[_Job]) -> Deadline:
    ends = [job.deadline.end for job in jobs]
    return Deadline(None if None in ends else max(end for end in ends if end is not None))
