"""How much work is asked for, against how much can be done."""

import math
import threading
import time

WINDOW_S = 10.0
"""Bursts shorter than this are queued for; only lasting pressure makes callers ask for less."""


class Pressure:
    """An exponentially decaying mean of the seconds of work offered per second.

    1 is what the worker can just do. Starts at 0, so that the first burst does not look like
    overload. Safe to share between threads.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._level = 0.0
        self._at = self.now()
        self._lock = threading.Lock()

    @staticmethod
    def now() -> float:
        """The clock that times are given on."""
        return time.monotonic()

    def offer(self, work_s: float, now: float | None = None) -> None:
        """Work was asked for, done or not."""
        with self._lock:
            self._decay(self.now() if now is None else now)
            self._level += work_s / self._window_s

    def level(self, now: float | None = None) -> float:
        """Offered work per second, lately."""
        with self._lock:
            self._decay(self.now() if now is None else now)
            return self._level

    def _decay(self, now: float) -> None:
        self._level *= math.exp(-max(0.0, now - self._at) / self._window_s)
        self._at = max(self._at, now)
