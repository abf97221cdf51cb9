"""Jobs of the model worker, and how their items are put together into batches."""

import itertools
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from funnel.deadline import Deadline
from funnel.models.base import Shortening

Item = TypeVar("Item")
Row = TypeVar("Row")

_LENGTH_RATIO = 1.5
_ENOUGH_BATCHES = 5
"""Before an estimate of a lane's pace that began as a guess counts as measured."""
_BATCH_SHARE = 0.25
"""A batch may take this share of the time left before its most urgent job's deadline."""
_GUESS_MAY_BE_OFF = 4.0
"""By how much slower a model may be than what a lane begins with, until it is measured."""


class Lane(Generic[Item, Row]):
    """One model's way of running a batch, and how long its tokens take.

    Args:
        name: for messages.
        run: items of one batch to their rows, in their order.
        budget: most padded tokens of a batch.
    """

    def __init__(
        self, name: str, run: Callable[[Sequence[Item]], Sequence[Row]], *, budget: int
    ) -> None:
        self.name = name
        self.run = run
        self.budget = budget
        self.seconds_per_token = 1e-4
        self._learnt = 0

    @property
    def is_measured(self) -> bool:
        """Whether the estimate rests on batches, not on what it began with."""
        return self._learnt >= _ENOUGH_BATCHES

    @property
    def cautious_pace(self) -> float:
        """Seconds per token for what is lost if a deadline comes first: batches and windows."""
        return self.seconds_per_token * (1.0 if self.is_measured else _GUESS_MAY_BE_OFF)

    def learn(self, tokens: int, seconds: float) -> None:
        """Take one batch's time into the running estimate."""
        self._learnt += 1
        self.seconds_per_token += 0.2 * (seconds / max(1, tokens) - self.seconds_per_token)


@dataclass(frozen=True, slots=True)
class JobResult(Generic[Row]):
    """Rows in the items' order. Only the first ``done`` are there if a deadline passed.

    ``left_out`` counts the last items that were not even tried, for the load there was.
    """

    rows: list[Row | None]
    done: int
    left_out: int = 0


@dataclass(eq=False)
class Job:
    """One caller's items, and how far the worker is with them.

    ``windows`` hold the positions not yet taken, ``running`` counts those in a batch now, ``key``
    is the job's place in the queue. Guarded by the worker's lock.
    """

    lane: Lane[Any, Any]
    items: Sequence[Any]
    costs: Sequence[int]
    deadline: Deadline
    key: float
    windows: deque[list[int]]
    rows: list[Any]
    shortening: Shortening | None = None
    target_s: float = math.inf
    future: "Future[JobResult[Any]]" = field(default_factory=Future)
    running: int = 0
    left: int = 0
    tokens_left: int = 0
    left_out: int = 0

    @property
    def over(self) -> bool:
        """Whether the caller has a result, an error, or went away."""
        return self.future.done()

    def urgency(self, streams: int) -> float:
        """Arrival plus cost, or the latest moment it could still start: smaller goes first."""
        if self.deadline.end is None:
            return self.key
        need = self.tokens_left * self.lane.seconds_per_token / streams
        return min(self.key, self.deadline.end - need)

    def batch_budget(self) -> int:
        """Tokens of a batch: the lane's, or what fits well into the time that is left."""
        left = self.deadline.remaining_s()
        if left is None:
            return self.lane.budget
        return min(self.lane.budget, int(_BATCH_SHARE * left / self.lane.cautious_pace))

    def keep(self, share: float, least: int) -> None:
        """Leave out the last items, to this share of the tokens, before any of them is run."""
        room = share * sum(self.costs)
        total = list(itertools.accumulate(self.costs))
        kept = min(len(self.items), max(1, least, bisect_right(total, room)))
        self.left_out = len(self.items) - kept
        self.windows = deque(
            left for window in self.windows if (left := [i for i in window if i < kept])
        )
        self.left = kept
        self.tokens_left = sum(self.costs[:kept])

    def finish(self) -> None:
        """Give the caller what is done."""
        done = next((i for i, row in enumerate(self.rows) if row is None), len(self.rows))
        with suppress(InvalidStateError):  # the caller gave up meanwhile
            self.future.set_result(JobResult(self.rows, done, self.left_out))

    def fail(self, error: BaseException) -> None:
        """Give the caller an error."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


def fill(taken: list[tuple[Job, int]], job: Job, longest: int, budget: int) -> int:
    """Move a job's next items into the batch while the padded size allows."""
    while job.windows and fits(taken, job, longest, budget):
        window = job.windows[0]
        longest = max(longest, job.costs[window[0]])
        taken.append((job, window.pop(0)))
        job.running += 1
        if not window:
            job.windows.popleft()
    return longest


def fits(taken: list[tuple[Job, int]], job: Job, longest: int, budget: int) -> bool:
    """Whether the job's next item may join a batch: by its padded size, and by its own length."""
    if not taken:
        return True
    cost = job.costs[job.windows[0][0]]
    full = (len(taken) + 1) * max(longest, cost) > budget
    uneven = job is not taken[0][0] and longest > _LENGTH_RATIO * cost
    return not (full or uneven)


def windows_of(costs: Sequence[int], room: float) -> deque[list[int]]:
    """Positions in windows of about ``room`` tokens, each sorted by length.

    Longest first and shortest first in turn, so that the end of one and the beginning of the next
    suit each other in a batch.
    """
    before = itertools.accumulate(costs, initial=0)
    number = [start // room for start, _ in zip(before, costs, strict=False)]
    parts = itertools.groupby(range(len(costs)), key=lambda i: number[i])
    return deque(
        sorted(part, key=lambda i: (costs[i] if turn % 2 else -costs[i], i))
        for turn, (_, part) in enumerate(parts)
    )
