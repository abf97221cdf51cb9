"""Shadow audits: were the hits right? A share of them is computed again and compared.

An audit needs no judge: the stages' own answer to the new wording is the label. Over a window of
recent audits the hit precision and its exact interval are known; when even its upper limit is under
the target, traffic has drifted from what the threshold was calibrated on, and the threshold rises,
in this process and until it ends: other replicas, and the next start, have the configured one. So
the alarm tells what to configure.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from funnel.cache.binomial import interval, upper_limit
from funnel.cache.counters import Counters
from funnel.cache.matcher import Matcher
from funnel.cache.settings import CacheSettings
from funnel.log import get_logger

log = get_logger(__name__)
_WINDOW = 2_000
_LEAST = 20


def overlap(served: Sequence[str], fresh: Sequence[str]) -> float:
    """The share of the longer list that both have; 1 for two empty ones."""
    longest = max(len(served), len(fresh))
    return len(set(served) & set(fresh)) / longest if longest else 1.0


class Auditor:
    """Remembers recent audits as (score above margins, agreed) and acts on drift."""

    def __init__(self, settings: CacheSettings, matcher: Matcher, counters: Counters) -> None:
        self._settings = settings
        self._matcher = matcher
        self._counters = counters
        self._window: deque[tuple[float, bool]] = deque(maxlen=_WINDOW)
        self.alarms = 0

    def agrees(self, served: Sequence[str], fresh: Sequence[str]) -> bool:
        """Whether the lists share enough, and the fresh first is among the served."""
        shared = overlap(served, fresh) >= self._settings.audit_overlap
        return shared and (not fresh or fresh[0] in served)

    def record(self, score: float, agreed: bool) -> None:
        """One audited hit; tightens the threshold when precision has surely fallen below target.

        A hit from before the last tightening says nothing of the threshold in force.
        """
        if score < self._matcher.policy.threshold:
            return
        self._window.append((score, agreed))
        self._counters.event("audit_agreed" if agreed else "audit_disagreed")
        right = sum(agreed for _, agreed in self._window)
        if upper_limit(right, len(self._window)) < self._settings.target_precision:
            self._tighten()

    def _tighten(self) -> None:
        self.alarms += 1
        before = self._matcher.policy.threshold
        after = self._better_threshold(before)
        self._matcher.tighten(after)
        self._window = deque((pair for pair in self._window if pair[0] >= after), maxlen=_WINDOW)
        log.warning(
            "cache.precision_drift",
            threshold_before=before,
            threshold_after=after,
            effect="in this process, until it ends",
            mend="set cache.threshold to threshold_after"
            if math.isfinite(after)
            else "set cache.semantic to false until there is a new calibration",
        )

    def _better_threshold(self, before: float) -> float:
        """The lowest score from which up recent hits met the target; infinite if none did."""
        for score in sorted({score for score, _ in self._window if score > before}):
            kept = [agreed for other, agreed in self._window if other >= score]
            if len(kept) >= _LEAST and sum(kept) >= self._settings.target_precision * len(kept):
                return score
        return math.inf

    def report(self) -> Mapping[str, Any]:
        """Audited hit precision with its two-sided 95% interval, JSON-ready."""
        count = len(self._window)
        right = sum(agreed for _, agreed in self._window)
        low, high = interval(right, count)
        return {
            "audited": count,
            "agreed": right,
            "hit_precision": right / count if count else None,
            "hit_precision_low": low,
            "hit_precision_high": high,
            "drift_alarms": self.alarms,
        }
