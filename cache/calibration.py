"""Thresholds with a certificate: learn-then-test on labelled pairs (Angelopoulos et al. 2021).

The hypothesis of each threshold, "its hits are less precise than the target", is tested with an
exact binomial bound. Thresholds are tested from strict to loose in an order that the labels have
no part in, each of a few starting points with its share of the error, and each walk ends at the
first threshold that cannot be certified. The loosest certified one holds, with the stated
confidence, for traffic that the pairs represent.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from funnel.cache.binomial import lower_limit, upper_limit

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.95
_STARTS = (1, 2, 4, 8)
_GRID = 120


@dataclass(frozen=True, slots=True)
class Certificate:
    """A threshold and the evidence for it.

    ``accepted`` pairs of the calibration set score at least ``threshold`` and ``wrong`` of them
    are no duplicates; ``precision_low`` is the exact lower limit of the precision (at the stated
    prevalence, if one was given), ``recall`` the share of duplicates accepted.
    """

    target: float
    threshold: float
    accepted: int
    wrong: int
    precision_low: float
    recall: float


@dataclass(frozen=True, slots=True)
class ScoredLabels:
    """The calibration set: what each pair scored (margins taken off) and whether it is a duplicate.

    ``scores`` has shape (n,), -inf for what floor or guards refused; ``labels`` is boolean, (n,).
    """

    scores: "NDArray[np.float64]"
    labels: "NDArray[np.bool_]"

    @property
    def duplicates(self) -> int:
        """How many pairs are duplicates."""
        return int(self.labels.sum())


def least_accepted(target: float, confidence: float = CONFIDENCE) -> int:
    """How many accepted pairs without one error certify ``target``, at the pairs' own prevalence.

    >>> least_accepted(0.99)
    437
    """
    return int(np.ceil(np.log((1 - confidence) / len(_STARTS)) / np.log(target)))


def least_of(data: ScoredLabels, target: float, prevalence: float | None) -> int | None:
    """How many of these pairs, accepted without one error, certify ``target``.

    None: not even all of them would.
    """
    least = _least(data.duplicates, target, _test_of(data, prevalence, CONFIDENCE))
    return least if least <= data.duplicates else None


def certify(
    data: ScoredLabels,
    target: float,
    *,
    prevalence: float | None = None,
    confidence: float = CONFIDENCE,
) -> Certificate | None:
    """The loosest threshold whose hits are certified at ``target`` precision, or None.

    ``prevalence`` is the share of duplicates among the candidates of the real traffic, where it
    differs from that of the pairs.
    """
    order = np.argsort(-data.scores, kind="stable")
    scores, labels = data.scores[order], data.labels[order]
    usable = int(np.isfinite(scores).sum())
    test = _test_of(data, prevalence, confidence)
    grid = _accept_counts(scores[:usable], _least(usable, target, test))
    right = np.concatenate([[0], np.cumsum(labels)])
    low = [test.precision_low(int(right[n]), n - int(right[n])) for n in grid]
    best = max((_walk(grid, low, target, start) for start in _starts(grid)), default=0)
    if best == 0:
        return None
    exact = _Test(test.totals, prevalence, confidence)
    return _certificate(scores, labels, best, target, exact)


@dataclass(frozen=True, slots=True)
class _Test:
    """The exact bound that every threshold is put to; ``totals`` are duplicates and others."""

    totals: tuple[int, int]
    prevalence: float | None
    confidence: float

    def precision_low(self, right: int, wrong: int) -> float:
        if self.prevalence is None:
            return lower_limit(right, right + wrong, confidence=self.confidence)
        half = (1 + self.confidence) / 2  # two limits, so each has half of the error
        kept = self.prevalence * lower_limit(right, self.totals[0], confidence=half)
        lost = (1 - self.prevalence) * upper_limit(wrong, self.totals[1], confidence=half)
        return kept / (kept + lost) if kept else 0.0


def _test_of(data: ScoredLabels, prevalence: float | None, confidence: float) -> _Test:
    """The bound with one walk's share of the error."""
    totals = (data.duplicates, len(data.labels) - data.duplicates)
    return _Test(totals, prevalence, 1 - (1 - confidence) / len(_STARTS))


def _least(usable: int, target: float, test: _Test) -> int:
    """The fewest accepted pairs that could certify the target if all of them were right."""
    low, high = 1, min(usable, test.totals[0])
    if high < 1 or test.precision_low(high, 0) < target:
        return usable + 1
    while low < high:
        middle = (low + high) // 2
        if test.precision_low(middle, 0) >= target:
            high = middle
        else:
            low = middle + 1
    return low


def _accept_counts(scores: "NDArray[np.float64]", least: int) -> list[int]:
    """How many pairs each threshold of the grid accepts: rising, whole groups of equal scores."""
    if least > len(scores):
        return []
    wanted = np.unique(np.geomspace(least, len(scores), _GRID).astype(int))
    return sorted({int(np.searchsorted(-scores, -scores[n - 1], "right")) for n in wanted})


def _starts(grid: list[int]) -> list[int]:
    """Where the walks begin: at the least count and at two, four and eight times it."""
    wanted = [grid[0] * times for times in _STARTS] if grid else []
    return [next((i for i, n in enumerate(grid) if n >= count), 0) for count in wanted]


def _walk(grid: list[int], low: list[float], target: float, start: int) -> int:
    """The largest accept count reached from ``start`` without a failed test; 0 if none."""
    reached = 0
    for count, limit in zip(grid[start:], low[start:], strict=True):
        if limit < target:
            break
        reached = count
    return reached


def _certificate(
    scores: "NDArray[np.float64]",
    labels: "NDArray[np.bool_]",
    count: int,
    target: float,
    test: _Test,
) -> Certificate:
    right = int(labels[:count].sum())
    return Certificate(
        target=target,
        threshold=float(scores[count - 1]),
        accepted=count,
        wrong=count - right,
        precision_low=test.precision_low(right, count - right),
        recall=right / max(1, test.totals[0]),
    )
