"""Figures agree with an independent implementation and keep their invariants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from funnel.training import figures

scored = st.lists(
    st.tuples(st.integers(-8, 8).map(lambda n: n / 2), st.booleans()), min_size=2, max_size=60
).filter(lambda rows: len({label for _, label in rows}) == 2)


@given(scored)
def test_areas_agree_with_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    """AUC and AP, ties included, to 1e-9."""
    scores, labels = zip(*rows, strict=True)
    assert figures.roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    expected = average_precision_score(labels, scores)
    assert figures.average_precision(scores, labels) == pytest.approx(expected)


@given(scored)
def test_log_loss_agrees_with_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    """Binary cross-entropy of the logits."""
    scores, labels = zip(*rows, strict=True)
    expected = log_loss(labels, figures.sigmoid(scores))
    assert figures.log_loss(scores, labels) == pytest.approx(expected)


@given(scored)
def test_looser_demands_never_recall_less(rows: list[tuple[float, bool]]) -> None:
    """Recall falls with precision asked and rises with false positives allowed."""
    scores, labels = zip(*rows, strict=True)
    by_precision = [figures.recall_at_precision(scores, labels, p) for p in (0.5, 0.9, 0.95, 0.99)]
    by_alarms = [figures.recall_at_fpr(scores, labels, rate) for rate in (0.0, 0.01, 0.1, 0.5)]
    assert by_precision == sorted(by_precision, reverse=True)
    assert by_alarms == sorted(by_alarms)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=40))
def test_spearman_agrees_with_scipy(rows: list[tuple[int, int]]) -> None:
    """Ties at their mean rank; 0 where one side is constant."""
    left, right = zip(*rows, strict=True)
    constant = len(set(left)) == 1 or len(set(right)) == 1
    expected = 0.0 if constant else spearmanr(left, right).statistic
    assert figures.spearman(left, right) == pytest.approx(expected)


def test_recall_counts_tied_scores_together() -> None:
    """A threshold cannot pass between two equal scores."""
    scores, labels = [3.0, 2.0, 2.0, 1.0], [1, 1, 0, 0]
    assert figures.recall_at_precision(scores, labels, 0.95) == 0.5
    assert figures.recall_at_fpr(scores, labels, 0.0) == 0.5


def test_sigmoid_does_not_overflow() -> None:
    """Extreme logits give 0 and 1 without a warning."""
    assert np.array_equal(figures.sigmoid([-1e4, 0.0, 1e4]), [0.0, 0.5, 1.0])
