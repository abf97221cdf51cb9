"""Whether more work is asked for, lastingly, than can be done."""

import threading
import time

BURST = 12.0
"""Jobs' worth of waiting work that counts as a burst: more, and callers should ask for less.

Random arrivals at 80% of capacity queue up longer for under 1% of the requests; at 136% this much
waits after about 33 jobs. A smaller number cuts depth where nothing is wrong, a larger one later.
"""
MEMORY = 1.5
"""The excess that is remembered, in bursts: how long depth stays cut after a long overload."""
_RECENT = 0.98


class Pressure:
    """Tells a burst, which drains by itself, from an overload, which never does.

    An overload begins when more than a burst waits. From then on the queue is kept short because
    callers ask for less, so it says nothing any more: a second queue is kept by arithmetic, of the
    work as it would be at full depth. The overload ends when that one has run dry. Sizes are
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
        """Whether callers should ask for less, when so much work waits."""
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
