"""The table of what each stage keeps."""

from hypothesis import given
from hypothesis import strategies as st

from funnel.demo.grading import Tally, climb, grade_stages, graded_share
from tests.demo.traces import trace

GRADES = {"answer": 3, "near": 1, "trap": 0}


def test_grades_are_counted_and_ungraded_documents_are_noise() -> None:
    """3 is relevant, 1 partly, 0 and no grade at all are noise."""
    tally = graded_share(["answer", "trap", "near", "unknown"], GRADES)
    assert tally == Tally(relevant=1, partial=1, noise=2)
    assert tally.share_not_noise == 0.5


def test_nothing_kept_has_no_share() -> None:
    """An empty list is not a division by zero."""
    assert graded_share([], GRADES).share_not_noise == 0.0


@given(st.lists(st.sampled_from(["answer", "near", "trap", "unknown"])))
def test_every_kept_document_is_counted_once(kept: list[str]) -> None:
    """The three columns add up, and the share is a share."""
    tally = graded_share(kept, GRADES)
    assert tally.total == len(kept)
    assert 0.0 <= tally.share_not_noise <= 1.0


def test_rows_sum_over_queries_and_take_the_median_time() -> None:
    """Two queries make one row per stage, in the order of the funnel."""
    traces = {
        "q1": [trace("find", "trap", "answer", ms=10), trace("rank", "answer", ms=30)],
        "q2": [trace("find", "near", "unknown", ms=20), trace("rank", "near", ms=50)],
    }
    find, rank = grade_stages(traces, {"q1": GRADES, "q2": GRADES})
    assert (find.name, find.kept, find.p50_ms) == ("find", Tally(1, 1, 2), 15)
    assert (find.found, find.first) == (1, 0)
    assert (rank.kept.share_not_noise, rank.found, rank.first) == (1.0, 1, 1)


def test_head_compares_stages_at_the_same_depth() -> None:
    """A stage that keeps many is judged by its first five too."""
    kept = ["answer", "near", "near2", "x1", "x2", "x3", "x4"]
    (row,) = grade_stages({"q": [trace("find", *kept)]}, {"q": {**GRADES, "near2": 1}})
    assert row.head == Tally(1, 2, 2)
    assert row.kept == Tally(1, 2, 4)


def test_skipped_stages_do_not_count() -> None:
    """A query whose stage was skipped leaves the row to the others."""
    traces = {
        "q1": [trace("llm", "answer", ms=9)],
        "q2": [trace("llm", ms=0, skipped="timeout")],
        "q3": [trace("never", skipped="no_budget")],
    }
    rows = grade_stages(traces, dict.fromkeys(traces, GRADES))
    assert [(row.name, row.queries, row.p50_ms) for row in rows] == [("llm", 1, 9)]


def test_climb_is_the_ranks_gained_by_the_best_answer() -> None:
    """From rank 3 to rank 1 is a climb of 2."""
    stages = [trace("find", "trap", "near", "answer"), trace("rank", "answer", "near")]
    assert climb(stages, GRADES) == 2


def test_climb_of_a_lost_or_absent_answer_is_zero() -> None:
    """An answer that one of the two stages does not hold did not climb."""
    assert climb([trace("find", "answer"), trace("rank", "near")], GRADES) == 0
    assert climb([trace("find", "near"), trace("rank", "answer")], GRADES) == 0
    assert climb([trace("find", skipped="x")], GRADES) == 0
