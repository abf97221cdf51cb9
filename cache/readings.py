"""One reading of the store for all who ask one question at about the same time.

A thousand callers of one question would else be a thousand round trips, which queue for the
connections of one pool and for the turns of one loop until all of them are late.
"""

import asyncio
import math
import time
from dataclasses import dataclass

from funnel.cache.guarded_store import Budget, GuardedStore, StoreFault
from funnel.cache.local import LocalTier
from funnel.cache.patience import patient
from funnel.cache.place import Place
from funnel.cache.store import Epoch, Reading


@dataclass(frozen=True, slots=True)
class Asked:
    """A reading under way. ``began`` in monotonic seconds, ``epoch`` as it was known then."""

    began: float
    epoch: Epoch | None
    task: "asyncio.Task[Reading]"


class Readings:
    """Shares readings that are under way; used from one event loop.

    A reading counts for a caller who comes while it is under way if it began no longer before than
    the epoch may lag, and if this process has heard of no write since. Else the caller waits for
    it to end and shares the next one.
    """

    def __init__(self, store: GuardedStore, local: LocalTier) -> None:
        self._store = store
        self._local = local
        self._asked: dict[Place, Asked] = {}

    async def get(self, place: Place, budget: Budget) -> tuple[Reading, float]:
        """What the store has at a place, and since when that is known (monotonic seconds).

        Raises:
            StoreFault: the reading failed, or this caller's time is over.
        """
        arrived = time.monotonic()
        if not self._store.store.shared:  # it is in this process, and nothing is queued for
            return await self._read(place, budget), arrived
        while True:
            asked = self._asked.get(place) or self._ask(place)
            counts = self._local.covers(asked.began, arrived) and asked.epoch == self._local.epoch
            await self._end_of(asked, budget)
            if counts:
                return self._result(asked, budget), asked.began

    def _ask(self, place: Place) -> Asked:
        task = asyncio.create_task(self._read(place))
        self._asked[place] = asked = Asked(time.monotonic(), self._local.epoch, task)
        task.add_done_callback(lambda _: self._answered(place, asked))
        return asked

    async def _read(self, place: Place, budget: Budget | None = None) -> Reading:
        return await self._store.call(lambda store: store.get(place.partition, place.key), budget)

    def _answered(self, place: Place, asked: Asked) -> None:
        del self._asked[place]
        if not asked.task.cancelled():
            asked.task.exception()  # so that one nobody waits for any more is not reported as lost

    async def _end_of(self, asked: Asked, budget: Budget) -> None:
        """Wait for it; who leaves earlier says nothing of the store, and stops it for nobody.

        It has the store's whole limit, from its own first turn of the loop on. Who has as much time
        needs no limit beside it: of a thousand callers the first is late before it is even asked.
        """
        whole = budget.left_s >= self._store.timeout_s
        try:
            async with patient(math.inf if whole else budget.left_s) as wait:
                await asyncio.wait((asked.task,))
        except TimeoutError as error:
            budget.exhaust()
            detail = f"{self._store.store.where} gave no answer while this query could wait"
            raise StoreFault("store_timeout", detail, ours=wait.was_away) from error
        budget.spend(wait.seconds)

    def _result(self, asked: Asked, budget: Budget) -> Reading:
        if asked.task.cancelled():
            raise StoreFault("store_unavailable", f"{self._store.store.where} was closed")
        try:
            return asked.task.result()
        except StoreFault:
            budget.exhaust()
            raise
