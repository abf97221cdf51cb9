"""Early stop: a bound that holds on what it assumes, and a stage that says what it left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.models.base import ScoredPairs
from funnel.stages.early_stop import NOTHING_SCORED, expected_entrants, joined

_SCORES = st.lists(st.floats(-12, 12), min_size=0, max_size=80)


@settings(deadline=None)
@given(scores=_SCORES, k=st.integers(1, 30), more=st.integers(0, 80))
def test_never_more_entrants_than_candidates_left(scores: list[float], k: int, more: int) -> None:
    """Nor less than none; everything that is left while a line cannot be drawn."""
    expected = expected_entrants(scores, k, len(scores) + more)
    assert 0 <= expected <= more
    if len(scores) <= k:
        assert expected == more


@settings(deadline=None)
@given(scores=st.lists(st.floats(-12, 12), min_size=40, max_size=60))
def test_keeping_more_means_more_entrants(scores: list[float]) -> None:
    """The tenth best is easier to beat than the first."""
    assert expected_entrants(scores, 1, 100) <= expected_entrants(scores, 10, 100) + 1e-9


def _lists(slope: float, noise: float, *, lists: int, n: int) -> list[list[float]]:
    random = np.random.default_rng(7)
    scores = slope * np.log(np.arange(1, n + 1)) + random.normal(0, noise, (lists, n))
    return [[float(score) for score in row] for row in scores]


def test_the_expected_number_is_about_the_real_one() -> None:
    """Where scores fall as assumed, the prediction errs to the careful side."""
    predicted, real = [], []
    for scores in _lists(-2.0, 1.5, lists=300, n=100):
        predicted.append(expected_entrants(scores[:48], 10, 100))
        tenth = sorted(scores[:48])[-10]
        real.append(sum(score > tenth for score in scores[48:]))
    assert np.mean(real) <= np.mean(predicted) <= 3 * np.mean(real) + 0.5


@pytest.mark.parametrize(("slope", "noise", "stops"), [(-3.0, 0.5, True), (0.0, 1.0, False)])
def test_stops_only_where_the_previous_order_tells(slope: float, noise: float, stops: bool) -> None:
    """With steeply falling scores nearly always, with an order that tells nothing never."""
    lists = _lists(slope, noise, lists=50, n=100)
    share = np.mean([expected_entrants(each[:48], 10, 100) < 0.05 for each in lists])
    assert share > 0.95 if stops else share == 0


def test_scores_without_scatter_are_taken_at_their_word() -> None:
    """Where all are equal, none that is left scores above them."""
    assert expected_entrants([1.0] * 40, 10, 100) == 0


def test_blocks_are_joined() -> None:
    """What a deadline left of the second block is cut off."""
    first = ScoredPairs(np.array([1, 2], np.float32), 1, 2, 1)
    second = ScoredPairs(np.array([3, np.nan], np.float32), 1, 1)
    both = joined(joined(NOTHING_SCORED, first), second)
    assert both.values.tolist() == [1, 2, 3]
    assert (both.truncated, both.scored, both.remembered) == (2, 3, 1)
