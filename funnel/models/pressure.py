"""Whether more work is asked for, lastingly, than can be done."""

import math
import threading
import time

BURST = 12.0
"""Jobs' worth of waiting work that counts as a burst: more, and less is done of each.

By simulation random arrivals at 80% of capacity queue up longer in one run of 110 jobs in 75 (in
one of 25 where it is 10, in none of 150 where it is 14); at 136% this much waits after about 33
jobs. A smaller number cuts depth where nothing is wrong, a larger one later.
"""
AIM = 0.3
"""The work waiting, as a share of the target, up to which nothing is cut.

At the share of ``s`` that an overload needs in the long run, ``AIM / s**2`` of the target waits:
0.55 at 136%, so that most of the target is left for chance and for the job itself.
"""
MEMORY = 1.5
"""The excess that is remembered, in bursts: how long depth stays cut after a long overload."""
_RECENT = 0.98


def fitting_share(target_s: float, left_s: float, waiting_s: float, needed_s: float) -> float:
    """The share of a job to do under overload, when its turn comes.

    The square root of ``AIM * target / waiting``: even cuts lose least, for each further candidate
    is worth less than the one before, and with the root the depth follows the queue's ups and downs
    half as much. By simulation at 136% (60 runs of 40 s) a cut in proportion, at the same 99th
    percentile, loses 1.7 times as much of nDCG@10. A job whose own time is nearly up is cut
    further.

    Args:
        target_s: seconds from its arrival within which it should be done.
        left_s: what remains of them.
        waiting_s: all work that waits, at full depth, this job's included.
        needed_s: this job's.
    """
    even = math.sqrt(AIM * target_s / waiting_s) if waiting_s > 0 else 1.0
    fitting = left_s / needed_s if needed_s > 0 else 1.0
    return min(1.0, even, max(0.0, fitting))


class Pressure:
    """Tells a burst, which drains by itself, from an overload, which never does.

    An overload begins when more than a burst waits. From then on the queue is kept short because
    less is done of each job, so it says nothing any more: a second queue is kept by arithmetic, of
    the work as it would be at full depth. The overload ends when that one has run dry. Sizes are
    relative to a typical job, so a fast model and a slow one behave alike. Safe to share between
    threads; times are seconds on the monotonic clock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = self.now()
        self._excess = 0.0
        self._sum = 0.0
        self._squares = 0.0
        self._on = False

    @staticmethod
    def now() -> float:
        """The clock that times are given on."""
        return time.monotonic()

    def offer(self, work_s: float, now: float | None = None) -> None:
        """Seconds of work were asked for by one caller, done or not."""
        with self._lock:
            self._pass(now)
            self._sum = _RECENT * self._sum + work_s
            self._squares = _RECENT * self._squares + work_s * work_s
            self._excess = min(self._excess + work_s, MEMORY * BURST * self._typical())

    def overloaded(self, waiting_s: float, now: float | None = None) -> bool:
        """Whether less should be done of each job, when so much work waits."""
        with self._lock:
            self._pass(now)
            self._excess = max(self._excess, waiting_s) if self._on else waiting_s
            if 0 < BURST * self._typical() < waiting_s:
                self._on = True
            return self._on

    def _typical(self) -> float:
        """The size of a job, weighted by size: many small jobs beside large ones do not count."""
        return self._squares / self._sum if self._sum else 0.0

    def _pass(self, now: float | None) -> None:
        now = self.now() if now is None else now
        self._excess = max(0.0, self._excess - max(0.0, now - self._at))
        self._at = max(self._at, now)
        if not self._excess:
            self._on = False
