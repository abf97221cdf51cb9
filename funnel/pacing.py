"""How a query's deadline is divided among its stages.

Each stage may use all the time that is left, less what the later stages are expected to need and a
reserve for the fallback. Expected means an exponentially weighted mean of what a stage took lately,
so time that an early stage does not use flows on to the later ones.
"""

import math
from collections.abc import Sequence

from funnel.deadline import Deadline

SMOOTHING = 0.2
LATER_STAGES_SHARE = 0.5
"""At most this share of the time left is kept back for later stages, however slow they were."""


class Pace:
    """What each stage took lately, in seconds, by stage name."""

    def __init__(self, reserve_s: float) -> None:
        self._reserve_s = reserve_s
        self._typical: dict[str, float] = {}

    def observe(self, stage: str, seconds: float) -> None:
        """Remember how long a stage took."""
        before = self._typical.get(stage, seconds)
        self._typical[stage] = before + SMOOTHING * (seconds - before)

    def passed_over(self, stage: str) -> None:
        """A stage was left out for want of time: expect it a little faster, so it is tried again.

        Otherwise one slow spell would leave it out for ever.
        """
        self._typical[stage] = (1 - SMOOTHING) * self.typical_s(stage)

    def typical_s(self, stage: str) -> float:
        """What a stage takes lately, in seconds; 0 until it ran once."""
        return self._typical.get(stage, 0.0)

    def budget_s(
        self, deadline: Deadline, timeout_ms: float | None, later: Sequence[str]
    ) -> float | None:
        """Seconds that a stage may use now; None without any limit, 0 if nothing is left."""
        own = math.inf if timeout_ms is None else timeout_ms / 1000
        remaining = deadline.remaining_s()
        if remaining is None:
            return None if math.isinf(own) else own
        usable = max(0.0, remaining - self._reserve_s)
        needed_later = sum(self.typical_s(name) for name in later)
        return min(own, usable - min(needed_later, LATER_STAGES_SHARE * usable))
