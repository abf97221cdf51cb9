"""The hard-distractor protocol: counting, groups, ranks and the sign test."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from funnel.training import Case, compare, judge
from funnel.training.protocol import sign_test
from tests.training.terminal import stderr_terminal

CASES = (
    Case("q1", "r1", "d1", "law", seen=True),
    Case("q2", "r2", "d2", "law", seen=False),
    Case("q3", "r3", "d3", "law", seen=False),
)


def table(scores: dict[tuple[str, str], float], other: float = 0.0):  # type: ignore[no-untyped-def]
    """A model made of a table."""

    def score(pairs: Sequence[tuple[str, str]]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.array([scores.get(pair, other) for pair in pairs], np.float32)

    return score


BASE = judge(CASES, table({("q1", "r1"): 1, ("q2", "d2"): 1, ("q3", "r3"): 1}))
TUNED = judge(CASES, table({("q1", "r1"): 2, ("q2", "r2"): 1, ("q3", "d3"): 3}))


def test_fixed_and_broken_cases_are_listed() -> None:
    """Each by what changed sides between base and tuned."""
    found = compare(BASE, TUNED)
    assert [case.query for case in found.fixed] == ["q2"]
    assert [case.query for case in found.broken] == ["q3"]
    assert (found.base["all"].correct, found.tuned["all"].correct) == (2, 2)


def test_seen_and_unseen_topics_are_told_apart() -> None:
    """Groups appear only where the cases say which topic was seen."""
    found = compare(BASE, TUNED)
    assert found.tuned["seen topics"].correct == 1
    assert found.tuned["unseen topics"].cases == 2
    blank = [replace(case, seen=None) for case in CASES]
    assert list(compare(judge(blank, table({})), judge(blank, table({}))).base) == ["all"]


def test_the_mean_gap_is_relevant_minus_distractor() -> None:
    """In the model's unit, and in standard deviations of all its scores."""
    figures = compare(BASE, TUNED).tuned["all"]
    assert figures.gap == pytest.approx((2 + 1 - 3) / 3)
    assert compare(BASE, TUNED).base["all"].gap == pytest.approx(1 / 3)


def test_a_tie_is_not_right() -> None:
    """A model that gives every text the same score knows nothing."""
    found = judge(CASES, table({}, other=0.5)).figures(range(3))
    assert found.correct == 0
    assert found.gap_in_sd == 0.0


def test_the_rank_is_among_all_texts_of_the_file() -> None:
    """A model that only shuns the distractor but prefers strangers loses in MRR."""
    scores = {("q1", "r1"): 1.0, ("q1", "d1"): 0.0}
    scores |= {("q1", text): 2.0 for text in ("r2", "d2", "r3", "d3")}
    judged = judge(CASES, table(scores))
    assert judged.cases[0].correct
    assert judged.figures([0]).mrr == pytest.approx(1 / 5)


def test_another_right_answer_is_no_rival() -> None:
    """Two cases of one query do not push each other down."""
    cases = [Case("q", "r1", "d1"), Case("q", "r2", "d2")]
    judged = judge(cases, table({("q", "r1"): 2.0, ("q", "r2"): 1.0}))
    assert judged.figures([0, 1]).mrr == 1.0


def test_many_pairs_are_scored_block_by_block(capsys: pytest.CaptureFixture[str]) -> None:
    """Each pair once, in its place, in blocks of few texts; without a terminal nothing is shown."""
    cases = [Case(f"q{n}", f"r{n}", f"d{n}") for n in range(100)]
    scores = {(case.query, case.relevant): 2.0 + n for n, case in enumerate(cases)}
    asked: list[Sequence[tuple[str, str]]] = []

    def score(pairs: Sequence[tuple[str, str]]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        asked.append(pairs)
        return table(scores)(pairs)  # type: ignore[no-any-return]

    judged = judge(cases, score)
    assert [one.relevant for one in judged.cases] == [2.0 + n for n in range(100)]
    assert judged.figures(range(100)).mrr == 1.0
    assert len(asked) == 7 * 8
    every = [pair for pairs in asked for pair in pairs]
    assert len(every) == len(set(every)) == 100 * 200
    assert max(len({text for pair in pairs for text in pair}) for pairs in asked) == 16 + 25
    assert capsys.readouterr().err == ""


def test_a_bar_shows_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judging many cases with a cross-encoder takes minutes."""
    terminal = stderr_terminal(monkeypatch)
    judge(CASES, table({}))
    assert "judge" in terminal.getvalue()


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_sign_test_agrees_with_scipy(wins: int, losses: int) -> None:
    """Two-sided and exact; no change at all is no evidence."""
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected)
