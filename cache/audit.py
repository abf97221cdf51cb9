"""Shadow audits: were the hits right? A share of them is computed again and compared.

An audit needs no judge: the stages' own answer to the new wording is the label. When the audits
say that precision is below the target, traffic has drifted from what the threshold was calibrated
on, and the threshold rises, in this process and until it ends: other replicas, and the next start,
have the configured one. So the alarm tells what to configure.

The alarm is a test that may be read after every audit: a true precision at the target raises it
once in 20 processes at most, however long they run, and one above the target hardly ever.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from funnel.cache.binomial import beta_cdf, interval
from funnel.cache.counters import Counters
from funnel.cache.matcher import Matcher
from funnel.cache.settings import CacheSettings
from funnel.log import get_logger

log = get_logger(__name__)
_WINDOW = 2_000
_LEAST_AUDITS = 50  # before an alarm
_LEAST_KEPT = 20  # audits at or above a threshold that is said to meet the target
_FALSE_ALARMS = 0.05
_NEW_RUN_EVERY = 50
_OVERWHELMING = 10_000.0
_STEPS = 3
_LARGEST_LOG = 700.0  # of which a float has the exponential


def overlap(served: Sequence[str], fresh: Sequence[str]) -> float:
    """The share of the longer list that both have; 1 for two empty ones."""
    longest = max(len(served), len(fresh))
    return len(set(served) & set(fresh)) / longest if longest else 1.0


def evidence_below(right: int, count: int, target: float) -> float:
    """How many times likelier ``right`` of ``count`` audits are below ``target`` than at it.

    Below: with any rate from 0 to the target, all equally likely beforehand. Under a true rate at
    or above the target, this is over x once in x series at most, at whatever audit one looks:
    a mixture supermartingale (Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-
    uniform, nonparametric, nonasymptotic confidence sequences") with Ville's inequality.

    >>> round(evidence_below(50, 50, 0.95), 2), round(evidence_below(40, 50, 0.95), 1)
    (0.02, 160.1)
    """
    right_, wrong_ = right + 1, count - right + 1
    below = beta_cdf(target, right_, wrong_)
    if below <= 0:
        return 0.0
    area = (
        math.lgamma(right_) + math.lgamma(wrong_) - math.lgamma(right_ + wrong_) + math.log(below)
    )
    at = right_ * math.log(target) + (wrong_ - 1) * math.log1p(-target)
    return math.exp(min(area - at, _LARGEST_LOG))


@dataclass(slots=True)
class _Run:
    """Audits from one of them on. ``weight`` is this run's share of the evidence."""

    weight: float
    right: int = 0
    count: int = 0


class Evidence:
    """Evidence against a target precision, from audits one by one.

    A new run starts every 50 audits, so that many good ones of long ago cannot hide a drift. Their
    weights 1/2, 1/6, 1/12 … add up to 1, so the sum of the runs keeps the guarantee of one
    (Shin, Ramdas and Rinaldo 2023, "E-detectors").
    """

    def __init__(self, target: float) -> None:
        self.count = 0
        self._target = target
        self._runs: deque[_Run] = deque(maxlen=_WINDOW // _NEW_RUN_EVERY)

    def add(self, agreed: bool) -> None:
        """One more audit."""
        if self.count % _NEW_RUN_EVERY == 0:
            number = self.count // _NEW_RUN_EVERY + 1
            self._runs.append(_Run(1 / (number * (number + 1))))
        self.count += 1
        for run in self._runs:
            run.right += agreed
            run.count += 1

    def below(self) -> float:
        """How strongly the precision seems below the target; over x once in x series by chance."""
        return sum(
            run.weight * evidence_below(run.right, run.count, self._target) for run in self._runs
        )


class Auditor:
    """Remembers recent audits as (score above margins, agreed) and acts on drift."""

    def __init__(self, settings: CacheSettings, matcher: Matcher, counters: Counters) -> None:
        self._settings = settings
        self._target = settings.target_precision
        self._matcher = matcher
        self._counters = counters
        self._window: deque[tuple[float, bool]] = deque(maxlen=_WINDOW)
        self._evidence = Evidence(self._target)
        self._steps = 0
        self._last_alarm: Mapping[str, Any] | None = None
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
        self._evidence.add(agreed)
        self._counters.event("audit_agreed" if agreed else "audit_disagreed")
        if agreed or self._evidence.count < _LEAST_AUDITS:  # what agrees is evidence of no drift
            return
        if self._evidence.below() >= 1 / _FALSE_ALARMS:
            self._tighten()

    def _tighten(self) -> None:
        self.alarms += 1
        before = self._matcher.policy.threshold
        after = self._better_threshold(before)
        self._matcher.tighten(after)
        self._last_alarm = {
            **_precision(self._window),
            "threshold_before": before,
            "threshold_after": after if math.isfinite(after) else None,
        }
        self._window = deque((pair for pair in self._window if pair[0] >= after), maxlen=_WINDOW)
        self._evidence = Evidence(self._target)
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
        """The lowest score from which up recent hits met the target, else that of the better half.

        Infinite when nothing speaks for any: the third such half in a row, each refuted by audits
        of its own, or the best hits of all refuted beyond doubt.
        """
        scores = sorted({score for score, _ in self._window if score > before})
        supported = next((score for score in scores if self._supports(score)), None)
        if supported is not None:
            self._steps = 0
            return supported
        self._steps += 1
        if self._steps >= _STEPS or self._best_refuted():
            return math.inf
        return self._better_half()

    def _supports(self, threshold: float) -> bool:
        kept = [agreed for score, agreed in self._window if score >= threshold]
        return len(kept) >= _LEAST_KEPT and sum(kept) >= self._target * len(kept)

    def _best_refuted(self) -> bool:
        """Whether even the hits of the highest scores are nearly all wrong."""
        best = sorted(self._window, key=lambda pair: -pair[0])[:_LEAST_KEPT]
        right = sum(agreed for _, agreed in best)
        return evidence_below(right, len(best), self._target) >= _OVERWHELMING

    def _better_half(self) -> float:
        """The score that half of the recent hits are above; just above all if they are alike."""
        scores = sorted(score for score, _ in self._window)
        median = scores[len(scores) // 2]
        above = next((score for score in scores if score > median), None)
        return math.nextafter(scores[-1], math.inf) if above is None else above

    def report(self) -> Mapping[str, Any]:
        """Audited hit precision with its two-sided 95% interval, JSON-ready.

        Of the threshold in force; what spoke against the one before is in ``last_alarm``.
        """
        return {
            **_precision(self._window),
            "drift_alarms": self.alarms,
            "last_alarm": self._last_alarm,
        }


def _precision(window: Collection[tuple[float, bool]]) -> dict[str, Any]:
    count, right = len(window), sum(agreed for _, agreed in window)
    low, high = interval(right, count)
    return {
        "audited": count,
        "agreed": right,
        "hit_precision": right / count if count else None,
        "hit_precision_low": low,
        "hit_precision_high": high,
    }
