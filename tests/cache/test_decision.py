"""Screening and deciding: floor, guards, both orders, thresholds with margins."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.cache.decision import (
    Candidate,
    Policy,
    decide,
    in_orders,
    lower_of_orders,
    screen,
    to_score,
    unread,
)
from funnel.cache.guards import Margins
from funnel.cache.settings import GuardSettings

POLICY = Policy(threshold=2.0, floor=0.6, limit=3)


def _near(*cosines: float) -> list[Candidate]:
    return [Candidate(f"k{i}", f"word{i} of it", cosine) for i, cosine in enumerate(cosines)]


def test_best_candidates_up_to_the_limit() -> None:
    """Only the nearest ones are looked at, nearest first."""
    verdicts = screen("asked", _near(0.7, 0.9, 0.8, 0.95), POLICY)
    assert [verdict.candidate.cosine for verdict in verdicts] == [0.95, 0.9, 0.8]


def test_floor_comes_before_the_verifier() -> None:
    """What is too far away costs no verifier pass."""
    verdicts = screen("asked", _near(0.5, 0.7), POLICY)
    assert [verdict.reason for verdict in verdicts] == ["unscored", "below_floor"]
    assert len(to_score(verdicts)) == 1


def test_nearest_wins_if_it_is_accepted() -> None:
    """Then no other needs a score, and none that has one changes that."""
    verdicts = screen("asked", _near(0.9, 0.8), POLICY)
    for scores in ([3.0], [3.0, 5.0]):
        chosen = decide(verdicts, scores, POLICY).chosen
        assert chosen is not None and chosen.candidate.key == "k0"
    assert decide(verdicts, [3.0], POLICY).verdicts[1].reason == "nearer_one_taken"


def test_highest_score_wins_where_the_nearest_is_refused() -> None:
    """Among the others the verifier decides, not the cosine; a vetoed nearest one is no nearest."""
    verdicts = screen("asked", _near(0.9, 0.85, 0.8), POLICY)
    chosen = decide(verdicts, [1.0, 3.0, 5.0], POLICY).chosen
    assert chosen is not None and chosen.candidate.key == "k2"
    near = [Candidate("veto", "phones of 12", 0.95), Candidate("k0", "phones of it", 0.9)]
    verdicts = screen("phones of 13", near, POLICY)
    assert verdicts[0].reason == "guard_number"
    chosen = decide(verdicts, [3.0], POLICY).chosen
    assert chosen is not None and chosen.candidate.key == "k0"


def test_guard_margin_raises_what_is_needed() -> None:
    """A raising guard adds its margin to the threshold of that candidate."""
    policy = Policy(2.0, 0.0, margins=Margins(one_sided_number=1.5))
    verdicts = screen("phones of 2024", [Candidate("k", "phones", 0.9)], policy)
    assert decide(verdicts, [3.4], policy).reason == "below_threshold"
    chosen = decide(verdicts, [3.5], policy).chosen
    assert chosen is not None and chosen.needed == pytest.approx(3.5)


def test_unscored_candidates_are_refused() -> None:
    """A score that never came (NaN) accepts nothing."""
    verdicts = screen("asked", _near(0.9), POLICY)
    decision = decide(verdicts, [math.nan], POLICY)
    assert (decision.chosen, decision.reason) == (None, "not_scored")


def test_reason_is_that_of_the_candidate_that_came_furthest() -> None:
    """A refused score says more than a floor."""
    verdicts = screen("asked", _near(0.9, 0.1), POLICY)
    assert decide(verdicts, [0.0], POLICY).reason == "below_threshold"
    assert decide((), [], POLICY).reason == "no_candidates"


def test_both_orders_and_the_lower_score() -> None:
    """An asymmetric verifier is asked twice per candidate, and the worse answer counts."""
    pairs = in_orders([("asked", "kept"), ("asked", "other")], symmetric=False)
    assert pairs[:2] == [("asked", "kept"), ("kept", "asked")]
    assert lower_of_orders([1.0, 2.0, 4.0, 3.0], symmetric=False) == [1.0, 3.0]
    assert math.isnan(lower_of_orders([1.0, math.nan], symmetric=False)[0])


def test_symmetric_verifier_is_asked_once() -> None:
    """A verifier without an order is not paid twice."""
    pairs = [("asked", "kept"), ("asked", "other")]
    assert in_orders(pairs, symmetric=True) == pairs
    assert lower_of_orders([1.0, 2.0], symmetric=True) == [1.0, 2.0]


def test_slips_of_the_pen_are_read_as_the_word_meant() -> None:
    """Guards and verifier read both questions in one spelling, unless that is switched off."""
    kept = [Candidate("k", "Where is the Bangalore office?", 0.9)]
    (verdict,) = screen("where is the bangakore office", kept, POLICY)
    assert verdict.read == ("where is the Bangalore office", "Where is the Bangalore office?")
    assert verdict.slips == (("bangakore", "Bangalore"),)
    off = replace(POLICY, guards=GuardSettings(spelling=False))
    (plain,) = screen("where is the bangakore office", kept, off)
    assert (plain.read[0], plain.slips) == ("where is the bangakore office", ())


@pytest.mark.parametrize(
    ("query", "kept", "cosine", "reason"),
    [
        ("how do i reset my pasword", "How do I reset my password?", 0.59, "unscored"),
        ("how do i reset my pasword", "How do I reset my password?", 0.39, "below_floor"),
        ("how do i reset my pasword", "How do I reset my phone?", 0.59, "below_floor"),
        ("how do i reset my password", "How do I reset my pasword?", 0.59, "below_floor"),
    ],
)
def test_a_misspelt_query_reaches_below_the_floor(
    query: str, kept: str, cosine: float, reason: str
) -> None:
    """A slip takes a lot off a cosine; only what was respelt, and not from everywhere."""
    (verdict,) = screen(query, [Candidate("k", kept, cosine)], POLICY)
    assert verdict.reason == reason
    off = replace(POLICY, guards=GuardSettings(spelling=False))
    (plain,) = screen(query, [Candidate("k", kept, cosine)], off)
    assert plain.reason == "below_floor"


def test_scripts_outside_the_calibration_are_not_read() -> None:
    """A certificate for Latin letters says nothing of Cyrillic ones."""
    policy = Policy(2.0, 0.0, scripts=frozenset({"LATIN"}))
    assert unread("caffè latte", policy) == ""
    assert unread("где мой пароль", policy) == "script_not_calibrated"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-9, 9)), max_size=6), st.floats(-9, 9))
def test_nothing_below_its_threshold_is_accepted(
    near: list[tuple[float, float]], threshold: float
) -> None:
    """Whatever the scores: a chosen candidate met floor and threshold."""
    policy = Policy(threshold, 0.5)
    verdicts = screen("asked", _near(*(cosine for cosine, _ in near)), policy)
    scores = [near[int(v.candidate.key[1:])][1] for v in to_score(verdicts)]
    chosen = decide(verdicts, scores, policy).chosen
    if chosen is not None:
        assert chosen.score is not None and chosen.score >= threshold
        assert chosen.candidate.cosine >= 0.5
