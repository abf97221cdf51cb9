"""A circuit breaker: stop asking a store that does not answer, and try again gently.

Closed, it lets everything through and counts failures in a row. Open, it refuses until a pause is
over; the pause doubles with every failed trial. Half open, one caller at a time may try.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When to open and for how long.

    ``failures`` in a row open the breaker; the first pause lasts ``pause_s``, each failed trial
    doubles it up to ``max_pause_s``. ``jitter`` spreads a pause by that share, so that the
    processes of a fleet do not all try at once. A trial whose outcome is never reported (its
    caller was cancelled) is forgotten after ``trial_s``.
    """

    failures: int = 5
    pause_s: float = 0.5
    max_pause_s: float = 10.0
    jitter: float = 0.2
    trial_s: float = 5.0


class CircuitBreaker:
    """Asked before a call, told its outcome. Safe to share between threads.

    >>> breaker = CircuitBreaker(BreakerSettings(failures=1))
    >>> breaker.failed()
    >>> breaker.allows()
    False
    """

    def __init__(
        self,
        settings: BreakerSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._settings = settings or BreakerSettings()
        self._clock = clock
        self._spread = spread
        self._lock = threading.Lock()
        self._failures = 0
        self._trips = 0
        self._opened = 0
        self._until = 0.0
        self._trial_ends: float | None = None

    @property
    def state(self) -> BreakerState:
        """Where it stands now; reading it admits nobody."""
        with self._lock:
            return self._state()

    @property
    def opened(self) -> int:
        """How often it has gone from closed to open."""
        return self._opened

    def allows(self) -> bool:
        """Whether to make the call now; a caller told yes must report how it ended.

        Half open, only the first caller is told yes, until it reports.
        """
        with self._lock:
            state = self._state()
            if state != "half_open":
                return state == "closed"
            now = self._clock()
            if self._trial_ends is not None and now < self._trial_ends:
                return False
            self._trial_ends = now + self._settings.trial_s
            return True

    def succeeded(self) -> None:
        """A call worked: close."""
        with self._lock:
            self._failures = self._trips = 0
            self._trial_ends = None

    def failed(self) -> None:
        """A call failed or timed out: count it, and open once there are too many in a row."""
        with self._lock:
            state = self._state()
            if state == "open":
                return  # a straggler from before: the pause is running already
            self._failures += 1
            if self._failures >= self._settings.failures or state == "half_open":
                self._open(newly=state == "closed")

    def proved_nothing(self) -> None:
        """A call ended in a way that says nothing of the store: half open, the next one may try."""
        with self._lock:
            self._trial_ends = None

    def _state(self) -> BreakerState:
        if self._trips == 0:
            return "closed"
        return "open" if self._clock() < self._until else "half_open"

    def _open(self, *, newly: bool) -> None:
        settings = self._settings
        pause = min(settings.pause_s * 2.0**self._trips, settings.max_pause_s)
        self._until = self._clock() + pause * self._spread(1 - settings.jitter, 1 + settings.jitter)
        self._trips = min(self._trips + 1, 32)  # 2**32 pauses is beyond any cap
        self._opened += newly
        self._trial_ends = None
