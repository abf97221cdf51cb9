"""Differences between runs come with how far to trust them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.errors import InputError
from funnel.evaluation.significance import bootstrap_interval, compare, randomisation_p

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_exact_for_few_queries() -> None:
    """Five equal gains: 2 of 32 sign patterns are as extreme."""
    assert randomisation_p(np.full(5, 0.1)) == pytest.approx(2 / 32)


def test_random_signs_agree_with_the_exact_value() -> None:
    """Beyond enumeration the estimate stays near the truth, which symmetry gives here."""
    differences = np.array([1.0] * 10 + [-1.0] * 10)
    assert randomisation_p(differences) == pytest.approx(1.0)
    clear = np.linspace(0.1, 1, 30)
    assert randomisation_p(clear) < 0.001


@given(VALUES, VALUES)
def test_comparison_is_antisymmetric(a: list[float], b: list[float]) -> None:
    """Swapping the runs flips the sign and leaves the p-value."""
    size = min(len(a), len(b))
    first = {str(n): a[n] for n in range(size)}
    second = {str(n): b[n] for n in range(size)}
    there = compare(first, second, samples=200)
    back = compare(second, first, samples=200)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value == pytest.approx(back.p_value)
    assert (there.wins, there.losses, there.ties) == (back.losses, back.wins, back.ties)
    assert 0 < there.p_value <= 1


@given(VALUES)
def test_interval_holds_the_mean_of_constant_and_spread_values(values: list[float]) -> None:
    """The interval lies within the values, and is a point for equal ones."""
    found = bootstrap_interval(np.array(values), samples=200)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_interval_covers_as_often_as_it_says() -> None:
    """Of many samples from a known distribution, about 95 % of intervals hold its mean."""
    rng = np.random.default_rng(5)
    intervals = [bootstrap_interval(rng.random(60), samples=300, seed=n) for n in range(200)]
    covered = sum(interval.low <= 0.5 <= interval.high for interval in intervals)
    assert 180 <= covered <= 199


def test_runs_over_other_queries_are_refused() -> None:
    """A paired test needs pairs."""
    with pytest.raises(InputError, match="same"):
        compare({"q1": 1.0}, {"q2": 1.0})
    with pytest.raises(InputError, match="at least one"):
        compare({}, {})
