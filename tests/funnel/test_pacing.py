"""How a deadline is divided among stages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.deadline import Deadline
from funnel.pacing import Pace


def test_no_limit_means_no_budget() -> None:
    """Without deadline and timeout a stage may take as long as it needs."""
    assert Pace(0.01).budget_s(Deadline(), None, []) is None


def test_a_stage_timeout_holds_without_a_deadline() -> None:
    """timeout_ms alone is the budget."""
    assert Pace(0.01).budget_s(Deadline(), 50, []) == pytest.approx(0.05)


def test_the_reserve_is_kept_back() -> None:
    """The last stage leaves time for the fallback."""
    budget = Pace(0.2).budget_s(Deadline.after_ms(1000), None, [])
    assert budget is not None
    assert 0.7 < budget <= 0.8


def test_later_stages_get_what_they_usually_need() -> None:
    """An early stage leaves the typical time of the later ones."""
    pace = Pace(0.0)
    pace.observe("late", 0.3)
    budget = pace.budget_s(Deadline.after_ms(1000), None, ["late"])
    assert budget == pytest.approx(0.7, abs=0.05)


def test_a_slow_later_stage_takes_half_at_most() -> None:
    """However slow the later stages were, half of the time stays here."""
    pace = Pace(0.0)
    pace.observe("late", 60)
    budget = pace.budget_s(Deadline.after_ms(1000), None, ["late"])
    assert budget == pytest.approx(0.5, abs=0.05)


def test_an_expired_deadline_leaves_nothing() -> None:
    """Nothing is left after the end."""
    assert Pace(0.01).budget_s(Deadline(end=0.0), 50, []) == 0


@given(
    st.floats(0.1, 10_000),
    st.none() | st.floats(1, 10_000),
    st.lists(st.floats(0, 100), max_size=5),
)
def test_a_budget_never_exceeds_deadline_or_timeout(
    ms: float, timeout: float | None, typical: list[float]
) -> None:
    """Inner limits are never larger than outer ones."""
    pace = Pace(0.01)
    for position, seconds in enumerate(typical):
        pace.observe(f"s{position}", seconds)
    later = [f"s{position}" for position in range(len(typical))]
    budget = pace.budget_s(Deadline.after_ms(ms), timeout, later)
    assert budget is not None
    assert 0 <= budget <= ms / 1000
    assert timeout is None or budget <= timeout / 1000
