"""Figures of scored pairs: how well scores separate, rank and follow a teacher. Pure numpy.

A cache lives at the top of the ranking, so recall at a fixed false-positive rate and at a fixed
precision are reported beside the areas under the curves.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def classification_figures(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """AUC, AP, recall at 1% false positives and at 95% and 99% precision, and log loss.

    ``scores`` are logits; labels from 0.5 up are positive. Both arguments have shape (n,).
    """
    return {
        "auc": roc_auc(scores, labels),
        "ap": average_precision(scores, labels),
        "recall@fpr1%": recall_at_fpr(scores, labels, 0.01),
        "recall@p95": recall_at_precision(scores, labels, 0.95),
        "recall@p99": recall_at_precision(scores, labels, 0.99),
        "log_loss": log_loss(scores, labels),
    }


def regression_figures(scores: ArrayLike, targets: ArrayLike) -> dict[str, float]:
    """Spearman's rank correlation and mean squared error against a teacher's scores."""
    predicted, wanted = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    return {
        "spearman": spearman(predicted, wanted),
        "mse": float(np.mean((predicted - wanted) ** 2)),
    }


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a positive outscores a negative; ties count half (Mann-Whitney)."""
    ranks, positive = _ranks(np.asarray(scores, np.float64)), np.asarray(labels) >= 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return 0.0
    u_statistic = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u_statistic / (n_positive * n_negative))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the precision-recall curve in steps; tied scores enter together."""
    hits, alarms = _cumulative(scores, labels)
    if not hits[-1]:
        return 0.0
    precision = hits / np.maximum(hits + alarms, 1.0)
    return float(np.sum(np.diff(hits, prepend=0.0) * precision) / hits[-1])


def recall_at_fpr(scores: ArrayLike, labels: ArrayLike, rate: float) -> float:
    """Share of positives above a threshold that lets at most ``rate`` of the negatives pass."""
    hits, alarms = _cumulative(scores, labels)
    allowed = alarms <= rate * alarms[-1]
    return _best(hits, allowed)


def recall_at_precision(scores: ArrayLike, labels: ArrayLike, precision: float) -> float:
    """Largest share of positives that any threshold of at least this precision accepts."""
    hits, alarms = _cumulative(scores, labels)
    allowed = hits >= precision * (hits + alarms)
    return _best(hits, allowed)


def log_loss(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean binary cross-entropy of the logits' probabilities, in nats."""
    values, wanted = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    return float(np.mean(np.logaddexp(0.0, values) - wanted * values))


def spearman(left: ArrayLike, right: ArrayLike) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 if one side is constant."""
    first, second = (_ranks(np.asarray(side, np.float64)) for side in (left, right))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def sigmoid(logits: ArrayLike) -> Floats:
    """Logits to probabilities without overflow."""
    values = np.asarray(logits, np.float64)
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1.0, small) / (1.0 + small))


def mean_or_zero(values: Sequence[float]) -> float:
    """Mean of the values, 0 for none."""
    return float(np.mean(values)) if len(values) else 0.0


def _best(hits: Floats, allowed: NDArray[np.bool_]) -> float:
    if not hits[-1] or not allowed.any():
        return 0.0
    return float(hits[allowed].max() / hits[-1])


def _cumulative(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """True and false positives accepted at each distinct threshold, strictest first."""
    values, positive = np.asarray(scores, np.float64), np.asarray(labels) >= 0.5
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    accepted = np.cumsum(positive[order])[ends].astype(np.float64)
    return accepted, (ends + 1) - accepted


def _ranks(values: Floats) -> Floats:
    """1-based ranks, ties at their mean."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], np.float64)
