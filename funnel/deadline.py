"""A point in time that everything within one query respects."""

import time
from dataclasses import dataclass

RESERVE_SHARE = 0.05
"""Of the time left, kept back so that what was done in time is also handed over in time."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A monotonic end time in seconds; ``None`` means no end.

    >>> Deadline.after_ms(None).remaining_s() is None
    True
    """

    end: float | None = None

    @classmethod
    def after_ms(cls, ms: float | None) -> "Deadline":
        """The deadline ``ms`` milliseconds from now, or none."""
        return cls(None if ms is None else time.monotonic() + ms / 1000)

    def remaining_s(self) -> float | None:
        """Seconds left, never below 0; None without an end."""
        return None if self.end is None else max(0.0, self.end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the end has passed."""
        return self.end is not None and time.monotonic() >= self.end

    def within(self, seconds: float | None) -> "Deadline":
        """The earlier of this deadline and ``seconds`` from now."""
        if seconds is None:
            return self
        end = time.monotonic() + max(0.0, seconds)
        return Deadline(end if self.end is None else min(end, self.end))

    def earlier(self) -> "Deadline":
        """When to stop working, so that the result is there before this deadline cancels it."""
        remaining = self.remaining_s()
        return self if remaining is None else self.within(remaining * (1 - RESERVE_SHARE))


NO_DEADLINE = Deadline()
