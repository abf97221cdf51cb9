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
_GRID = 400


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
    """How many accepted pairs without one error certify ``target``.

    >>> least_accepted(0.99)
    299
    """
    return int(np.ceil(np.log(1 - confidence) / np.log(target)))


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
    certain = 1 - (1 - confidence) / len(_STARTS)
    grid = _accept_counts(scores[:usable], least_accepted(target, certain))
    low = _limits(grid, labels, prevalence, certain)
    best = max((_walk(grid, low, target, start) for start in _starts(grid)), default=0)
    if best == 0:
        return None
    return _certificate(scores, labels, best, target, prevalence, confidence)


def _accept_counts(scores: "NDArray[np.float64]", least: int) -> list[int]:
    """How many pairs each threshold of the grid accepts: rising, whole groups of equal scores."""
    wanted = np.unique(np.geomspace(max(1, least), max(1, len(scores)), _GRID).astype(int))
    counts = {
        int(np.searchsorted(-scores, -scores[n - 1], "right")) for n in wanted if n <= len(scores)
    }
    return sorted(counts)


def _starts(grid: list[int]) -> list[int]:
    return (
        []
        if not grid
        else [next((i for i, n in enumerate(grid) if n >= grid[0] * s), 0) for s in _STARTS]
    )


def _limits(
    grid: list[int], labels: "NDArray[np.bool_]", prevalence: float | None, confidence: float
) -> list[float]:
    right = np.concatenate([[0], np.cumsum(labels)])
    totals = (int(labels.sum()), int((~labels).sum()))
    return [
        _precision_low(int(right[n]), n - int(right[n]), totals, prevalence, confidence)
        for n in grid
    ]


def _precision_low(
    right: int, wrong: int, totals: tuple[int, int], prevalence: float | None, confidence: float
) -> float:
    if prevalence is None:
        return lower_limit(right, right + wrong, confidence=confidence)
    half = (1 + confidence) / 2  # two limits, so each has half of the error
    true_rate = lower_limit(right, totals[0], confidence=half)
    false_rate = upper_limit(wrong, totals[1], confidence=half)
    kept = prevalence * true_rate
    return kept / (kept + (1 - prevalence) * false_rate) if kept else 0.0


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
    prevalence: float | None,
    confidence: float,
) -> Certificate:
    right = int(labels[:count].sum())
    totals = (int(labels.sum()), int((~labels).sum()))
    low = _precision_low(right, count - right, totals, prevalence, confidence)
    return Certificate(
        target=target,
        threshold=float(scores[count - 1]),
        accepted=count,
        wrong=count - right,
        precision_low=low,
        recall=right / max(1, totals[0]),
    )
