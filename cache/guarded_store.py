"""A store behind a time budget and a circuit breaker: it answers in time or not at all."""

import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from funnel.cache.breaker import CircuitBreaker
from funnel.cache.patience import Wait, patient
from funnel.cache.store import Store, StoreStats
from funnel.deadline import NO_DEADLINE, Deadline
from funnel.errors import CacheError
from funnel.log import Seldom, get_logger

log = get_logger(__name__)
T = TypeVar("T")
_LATELY_S = 5.0  # a store that answered since is taken for well when a hurried caller gave up


class StoreFault(CacheError):
    """The store did not do what it was asked. ``reason`` is one of a few words.

    ``ours``: because this process was too busy to hear of it, so it may well be asked again.
    """

    def __init__(self, reason: str, detail: str, *, ours: bool = False) -> None:
        self.reason = reason
        self.ours = ours
        super().__init__(f"cache store: {reason}: {detail}")


class Budget:
    """What one query may spend on waiting for the store, over all its calls together.

    After a fault nothing is left: a query meets a broken store once.
    """

    __slots__ = ("_left_s",)

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return self._left_s

    def spend(self, seconds: float) -> None:
        """Take away what a call took."""
        self._left_s = max(0.0, self._left_s - seconds)

    def exhaust(self) -> None:
        """No further call in this query."""
        self._left_s = 0.0


class GuardedStore:
    """Makes every call to a store bounded, counted and survivable."""

    def __init__(self, store: Store, breaker: CircuitBreaker, timeout_s: float) -> None:
        self.store = store
        self.breaker = breaker
        self.timeout_s = timeout_s
        self.faults: dict[str, int] = {}
        self.last_stats: StoreStats | None = None
        self._answered = -math.inf
        self._seldom = Seldom(log)

    def budget(self, deadline: Deadline = NO_DEADLINE) -> Budget:
        """A fresh budget for one query: half of what it has left, as the stages need time too."""
        left = deadline.remaining_s()
        return Budget(self.timeout_s if left is None else min(self.timeout_s, left / 2))

    async def stats(self) -> StoreStats:
        """The store's gauges, remembered as ``last_stats`` for whoever cannot wait for them.

        Raises:
            StoreFault: as of ``call``.
        """
        self.last_stats = await self.call(lambda store: store.stats())
        return self.last_stats

    def touch(self, partition: str, key: str) -> None:
        """Tell the store of a hit that was served without it; whatever fails is not the hit's."""
        try:
            self.store.touch(partition, key)
        except Exception as error:
            self._fault("store_error", type(error).__name__)
            log.debug("cache.touch_failed", error=type(error).__name__)

    async def call(self, work: Callable[[Store], Awaitable[T]], budget: Budget | None = None) -> T:
        """Run one store call.

        Raises:
            StoreFault: the breaker is open, the time is over, or the store failed.
        """
        budget = budget or self.budget()
        where = self.store.where
        if budget.left_s <= 0:
            raise StoreFault("store_timeout", f"{where} has used up its time")
        if not self.breaker.allows():
            budget.exhaust()
            raise self._fault("breaker_open", f"{where} kept failing; try again in a few seconds")
        patience_s = budget.left_s
        try:
            async with patient(patience_s) as wait:
                result = await work(self.store)
        except TimeoutError as error:
            detail = f"{where} gave no answer within {patience_s * 1000:.0f} ms; see that it runs"
            ours = self._was_our_queue(wait)
            blame = not (ours or self._was_hurried(patience_s))
            raise self._failed(budget, "store_timeout", detail, blame=blame, ours=ours) from error
        except CacheError as error:
            # A full disk refuses writes and lets read: no breaker opens.
            self._seldom.warning("cache.store_failed", error=str(error))
            ours = self._was_our_queue(wait)
            raise self._failed(
                budget, "store_unavailable", str(error), blame=not ours, ours=ours
            ) from error
        except Exception as error:
            name = type(error).__name__
            self._seldom.error("cache.store_broken", about=name, error=name)
            detail = f"{where} failed with {type(error).__name__}"
            raise self._failed(budget, "store_error", detail) from error
        self.breaker.succeeded()
        self._answered = time.monotonic()
        budget.spend(wait.seconds)
        return result

    def _was_hurried(self, patience_s: float) -> bool:
        """Whether a timeout says more of the caller's deadline than of the store."""
        lately = time.monotonic() - self._answered < _LATELY_S
        return lately and patience_s < self.timeout_s / 2 and self.breaker.state == "closed"

    def _was_our_queue(self, wait: Wait) -> bool:
        """Whether it was this process that was late: others had an answer, or the loop was away."""
        answered = max(self._answered, self.store.answered_at)
        return wait.was_away or time.monotonic() - answered <= wait.seconds

    def _failed(
        self, budget: Budget, reason: str, detail: str, *, blame: bool = True, ours: bool = False
    ) -> StoreFault:
        if blame:
            self.breaker.failed()
        else:
            self.breaker.proved_nothing()
        budget.exhaust()
        return self._fault(reason, detail, ours=ours)

    def _fault(self, reason: str, detail: str, *, ours: bool = False) -> StoreFault:
        self.faults[reason] = self.faults.get(reason, 0) + 1
        return StoreFault(reason, detail, ours=ours)
