"""One scheduler per process for all model work.

Callers hand over jobs of many small items; a few threads, each with one torch thread, take batches
from the most urgent job and fill them up with items of other jobs for the same model. So N callers
never start N×cores threads, short jobs pass long ones, and a deadline is honoured between batches.
"""

import asyncio
import atexit
import math
import os
import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from funnel.deadline import Deadline
from funnel.errors import FunnelError, ModelError, Overloaded
from funnel.log import Seldom, get_logger
from funnel.models.base import Shortening
from funnel.models.hardware import available_cores, set_torch_threads
from funnel.models.jobs import Item, Job, JobResult, Lane, Row, fill, fits, windows_of
from funnel.models.pressure import Pressure, fitting_share

if TYPE_CHECKING:
    from concurrent.futures import Future

log = get_logger(__name__)

BACKGROUND_DELAY_S = 30.0
"""Background jobs queue as if they had arrived this much later: behind, but never for ever."""
SHORT_S = 0.05
"""A job of less than this, such as the embedding of a query, makes nobody wait to speak of."""
HEAD_START_S = 5.0
"""Short jobs queue as if they had arrived this much sooner.

Otherwise a query waits twice under load: to be embedded, and again to be reranked.
"""
MAX_PENDING_TOKENS = 4_000_000
"""More than this waiting (minutes of work on two cores) and new jobs are refused."""
_WINDOW_SHARE, _WINDOW_BATCHES = 0.1, (0.25, 2.0)
"""A window takes about this share of the time left, and so many batches of each stream.

What is scored of the last, unfinished one is lost; windows of one batch cost a quarter more time
than sorting the whole job, of two 7% (embedded:relevance, 300 pairs, 2 threads).
"""
_PLENTY = 8
"""A job that is believed to need less than this part of the time left, once what waits before it is
done, is sorted whole."""
_CLOSE_S = 60.0
"""How long to wait for a running batch: a thread inside torch at exit aborts the process."""


class ModelWorker:
    """The scheduler. Use :func:`model_worker`; make one yourself only in tests.

    Args:
        streams: batches that run at once, each in its own thread.
        threads_per_stream: torch threads of each.
        max_pending_tokens: bound of the queue.
    """

    def __init__(
        self,
        *,
        streams: int | None = None,
        threads_per_stream: int | None = None,
        max_pending_tokens: int = MAX_PENDING_TOKENS,
    ) -> None:
        cores = available_cores()
        self.streams = streams or min(cores, 8)
        self.threads_per_stream = threads_per_stream or max(1, cores // self.streams)
        self.pressure = Pressure()
        self._max_pending = max_pending_tokens
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._pid = os.getpid()
        self._seldom = Seldom(log)

    def submit(
        self,
        lane: Lane[Item, Row],
        items: Sequence[Item],
        costs: Sequence[int],
        *,
        deadline: Deadline | None = None,
        shortening: Shortening | None = None,
        background: bool = False,
    ) -> "Future[JobResult[Row]]":
        """Queue a job; its items are independent and may run in any order and batch.

        With a deadline, items are run in their order (best first), so that what is done when it
        passes is a beginning of the list. With a ``shortening``, the last
        items are left out if more is asked of this process, lastingly, than it can do; how many
        is decided when the job's turn comes, so that an overload that was noticed meanwhile counts.

        Raises:
            Overloaded: too much is waiting already.
        """
        job = self._job(lane, items, costs, deadline or Deadline(), background)
        if shortening is not None:
            left = shortening.target.remaining_s()
            job.shortening, job.target_s = shortening, math.inf if left is None else left
        if not items:
            job.finish()
            return job.future
        if not background:
            self.pressure.offer(self.expected_s(lane, job.tokens_left))
        with self._changed:
            self._admit(job)
            self._jobs.append(job)
            self._start_threads()
            self._changed.notify_all()
        return job.future

    def settle(self, future: "Future[Any]") -> None:
        """Give a job's caller what is done, now, although a batch of it may still be running."""
        with self._changed:
            for job in self._jobs:
                if job.future is future:
                    job.windows.clear()
                    job.finish()

    def queue_s(self) -> float:
        """Seconds until what waits now (background work aside) would be done."""
        return self._before_s(time.monotonic() + BACKGROUND_DELAY_S / 2)

    def _before_s(self, key: float) -> float:
        """Seconds until what goes before a place in the queue would be done."""
        with self._changed:
            waiting = [job for job in self._jobs if job.key < key]
            work = sum(job.tokens_left * job.lane.seconds_per_token for job in waiting)
        return work / self.streams

    def overloaded(self) -> bool:
        """Whether more is asked of this process, lastingly, than it can do."""
        return self.pressure.overloaded(self.queue_s())

    def expected_s(self, lane: Lane[Any, Any], tokens: int) -> float:
        """Seconds that a job of so many tokens takes on an idle worker."""
        return tokens * lane.seconds_per_token / self.streams

    def close(self) -> None:
        """Stop the threads after their current batch; waiting jobs fail."""
        with self._changed:
            self._closed = True
            jobs, self._jobs = self._jobs, []
            self._changed.notify_all()
        for job in jobs:
            job.fail(ModelError("the model worker was closed before this job was done"))
        for thread in self._threads:
            thread.join(timeout=_CLOSE_S)

    def begin_anew(self) -> None:
        """In a fork, where neither the threads are nor whoever held the lock."""
        self._pid = os.getpid()
        self._jobs, self._threads = [], []
        self._changed = threading.Condition()
        self._seldom = Seldom(log)

    def _job(
        self,
        lane: Lane[Any, Any],
        items: Sequence[Any],
        costs: Sequence[int],
        deadline: Deadline,
        background: bool,
    ) -> Job:
        need = sum(costs) * lane.seconds_per_token / self.streams
        key = time.monotonic() + need + (BACKGROUND_DELAY_S if background else 0.0)
        if need < SHORT_S and not background:
            key -= HEAD_START_S
        windows = windows_of(costs, self._window(lane, need, deadline, key))
        job = Job(lane, items, costs, deadline, key, windows, [None] * len(items))
        job.left, job.tokens_left = len(items), sum(costs)
        return job

    def _window(self, lane: Lane[Any, Any], need: float, deadline: Deadline, key: float) -> float:
        """Tokens sorted together: all where time is plenty, else little beside the time left."""
        left = deadline.remaining_s()
        if left is None:
            return math.inf
        if lane.is_measured and need * _PLENTY < left - self._before_s(key):
            return math.inf
        # Whether a deadline is missed shows only on the way, so there is a bound in any case.
        batches = _WINDOW_SHARE * left / (lane.cautious_pace * lane.budget)
        least, most = _WINDOW_BATCHES
        return self.streams * lane.budget * min(max(batches, least), most)

    def _admit(self, job: Job) -> None:
        if self._closed:
            raise ModelError("the model worker is closed; make a new funnel")
        self._jobs = [waiting for waiting in self._jobs if not waiting.over]
        pending = sum(waiting.tokens_left for waiting in self._jobs)
        if pending and pending + job.tokens_left > self._max_pending:
            raise Overloaded(
                f"model {job.lane.name!r}: {pending} tokens are waiting and {job.tokens_left} more "
                f"were asked for; the bound is {self._max_pending}. Try again later, or send less"
            )

    def _start_threads(self) -> None:
        if self._pid != os.getpid():  # after a fork the threads are gone
            self._pid, self._threads = os.getpid(), []
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for number in range(len(self._threads), self.streams):
            thread = threading.Thread(
                target=self._serve, name=f"funnel-model-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        if self.threads_per_stream:
            set_torch_threads(self.threads_per_stream)
        while True:
            batch = self._next()
            if batch is None:
                return
            self._execute(*batch)

    def _next(self) -> tuple[Lane[Any, Any], list[tuple[Job, int]]] | None:
        with self._changed:
            while True:
                if self._closed:
                    return None
                self._drop_finished()
                ready = [job for job in self._jobs if job.windows]
                if ready:
                    return self._take(ready)
                self._changed.wait(timeout=60)

    def _drop_finished(self) -> None:
        for job in self._jobs:
            if job.deadline.expired:
                job.windows.clear()
                if not job.running:
                    job.finish()
        self._jobs = [job for job in self._jobs if not job.over]

    def _take(self, ready: list[Job]) -> tuple[Lane[Any, Any], list[tuple[Job, int]]]:
        ready.sort(key=lambda job: job.urgency(self.streams))
        lane, budget = ready[0].lane, ready[0].batch_budget()
        taken: list[tuple[Job, int]] = []
        longest = 0
        for job in ready:
            if job.lane is lane and fits(taken, job, longest, budget):
                self._shorten(job)
                longest = fill(taken, job, longest, budget)
        return lane, taken

    def _shorten(self, job: Job) -> None:
        """Once, when its turn comes: leave out of a job what does not fit under overload."""
        rule, job.shortening = job.shortening, None
        left = None if rule is None else rule.target.remaining_s()
        if rule is None or left is None:
            return
        waiting = self.queue_s()
        if self.pressure.overloaded(waiting):
            needed = self.expected_s(job.lane, job.tokens_left)
            job.keep(fitting_share(job.target_s, left, waiting, needed), rule.least)

    def _execute(self, lane: Lane[Any, Any], taken: list[tuple[Job, int]]) -> None:
        began = time.perf_counter()
        try:
            rows = self._run_halving(lane, [job.items[position] for job, position in taken])
        except BaseException as error:
            self._fail(taken, lane, error)
            if not isinstance(error, Exception):
                raise
            return
        longest = max(job.costs[position] for job, position in taken)
        with self._changed:
            lane.learn(longest * len(taken), time.perf_counter() - began)
            for (job, position), row in zip(taken, rows, strict=True):
                job.rows[position] = row
                self._settle(job, position)

    def _run_halving(self, lane: Lane[Item, Row], items: Sequence[Item]) -> list[Row]:
        """Run a batch; when memory does not suffice, run its halves."""
        try:
            return list(lane.run(items))
        except Exception as error:
            if not _out_of_memory(error) or len(items) == 1:
                raise
            name = lane.name
            self._seldom.warning("model_batch_halved", about=name, model=name, rows=len(items))
        middle = len(items) // 2
        return self._run_halving(lane, items[:middle]) + self._run_halving(lane, items[middle:])

    def _settle(self, job: Job, position: int) -> None:
        job.running -= 1
        job.left -= 1
        job.tokens_left -= job.costs[position]
        if job.left == 0 or (not job.windows and not job.running):
            job.finish()

    def _fail(
        self, taken: list[tuple[Job, int]], lane: Lane[Any, Any], error: BaseException
    ) -> None:
        failure = error if isinstance(error, FunnelError) else _model_error(lane.name, error)
        name = lane.name
        self._seldom.error(
            "model_batch_failed", about=name, model=name, rows=len(taken), error=str(failure)
        )
        with self._changed:
            for job, _ in taken:
                job.windows.clear()
                job.fail(failure)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text


def _model_error(name: str, error: BaseException) -> ModelError:
    failure = ModelError(f"model {name!r}: a batch failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


async def awaited(future: "Future[Any]", worker: ModelWorker, deadline: Deadline) -> None:
    """Wait for a job until its deadline, then take what is done; a cancelled caller drops it."""
    waited = asyncio.wrap_future(future)
    waited.add_done_callback(_retrieve)
    try:
        await asyncio.wait({waited}, timeout=deadline.remaining_s())
    except asyncio.CancelledError:
        future.cancel()
        raise
    if not future.done():
        worker.settle(future)


def _retrieve(future: "asyncio.Future[Any]") -> None:
    """Take the exception, which the caller finds in the worker's own future."""
    if not future.cancelled():
        future.exception()


@cache
def model_worker() -> ModelWorker:
    """The process's one worker; it ends with the process.

    Its threads must not be inside torch when the interpreter is taken down around them.
    """
    worker = ModelWorker()
    atexit.register(worker.close)
    os.register_at_fork(after_in_child=worker.begin_anew)
    return worker
