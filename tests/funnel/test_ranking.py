"""What the engine does with a stage's output: order, threshold, cut and tail."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.errors import MalformedOutput
from funnel.ranking import select
from funnel.stages.base import Ranked, StageOutput, StageSettings
from funnel.types import Candidate, Document, ScoreKind

SCORES = st.floats(-1e6, 1e6, allow_nan=False)


def settings(**changes: object) -> StageSettings:
    return StageSettings.model_validate({"kind": "test", "k": 3, **changes})


def candidates(*ids: str) -> list[Candidate]:
    return [Candidate(Document(i, f"text {i}"), {"first": 1.0}, {"first": 1}) for i in ids]


def ranked(**scores: float | None) -> list[Ranked]:
    return [Ranked(Document(i, f"text {i}"), score) for i, score in scores.items()]


def chosen(
    rows: list[Ranked],
    before: list[Candidate],
    *,
    k: int = 3,
    kind: ScoreKind = "logit",
    degraded: str | None = None,
    **changes: object,
) -> list[str]:
    output = StageOutput(rows, degraded=degraded)
    return [
        c.id for c in select(output, before, settings(**changes), k, kind, retrieves=False).kept
    ]


def test_best_score_comes_first() -> None:
    """Whatever order a stage returns, scores decide."""
    assert chosen(ranked(a=1.0, b=3.0, c=2.0), candidates("a", "b", "c")) == ["b", "c", "a"]


def test_ties_fall_to_the_previous_rank() -> None:
    """Equal scores keep the order they came in."""
    assert chosen(ranked(a=1.0, b=1.0), candidates("b", "a")) == ["b", "a"]


def test_ties_of_new_documents_fall_to_the_id() -> None:
    """A retriever's equal scores are ordered by id."""
    selection = select(StageOutput(ranked(b=1.0, a=1.0)), [], settings(), 3, "bm25", retrieves=True)
    assert [c.id for c in selection.kept] == ["a", "b"]


def test_min_score_is_inclusive() -> None:
    """A score equal to min_score passes."""
    rows = ranked(a=1.0, b=0.5, c=0.4)
    assert chosen(rows, candidates("a", "b", "c"), min_score=0.5) == ["a", "b"]


def test_tail_keep_puts_the_rest_under_the_head() -> None:
    """With tail: keep the cut ones follow in their previous order."""
    before = candidates("a", "b", "c", "d")
    rows = ranked(a=1.0, b=2.0, c=3.0, d=4.0)
    assert chosen(rows, before, k=2, tail="keep") == ["d", "c", "a", "b"]


def test_tail_keep_leaves_out_what_failed_min_score() -> None:
    """The tail holds what was cut or unread, not what was refused."""
    before = candidates("a", "b", "c")
    assert chosen(ranked(a=1.0, b=-1.0), before, tail="keep", min_score=0) == ["a", "c"]


def test_a_degraded_ranking_is_filled_from_the_previous_order() -> None:
    """A stage that ran out of time loses no hits."""
    before = candidates("a", "b", "c", "d")
    assert chosen(ranked(b=2.0), before, degraded="deadline") == ["b", "a", "c"]


def test_a_full_ranking_that_is_short_is_not_filled() -> None:
    """What a stage left out on purpose stays out."""
    assert chosen(ranked(b=2.0), candidates("a", "b")) == ["b"]


def test_rank_only_order_is_kept() -> None:
    """A rank-only stage's order is its word."""
    assert chosen(ranked(c=None, a=None), candidates("a", "c"), kind="rank") == ["c", "a"]


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_scores_must_be_finite(score: float | None) -> None:
    """NaN, infinity and nothing are no scores."""
    with pytest.raises(MalformedOutput, match="finite"):
        chosen(ranked(a=score), candidates("a"))


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_beside_a_rank_must_be_finite(score: float) -> None:
    """A stage that orders may give scores, but no NaN reaches a hit."""
    with pytest.raises(MalformedOutput, match="finite"):
        chosen(ranked(a=score), candidates("a"), kind="rank")


def test_numbers_of_numpy_are_scores() -> None:
    """A stage need not unpack its arrays."""
    scores: list[Any] = [np.float32(1), np.int64(2)]
    rows = [Ranked(Document(i, ""), score) for i, score in zip("ab", scores, strict=True)]
    assert chosen(rows, candidates("a", "b")) == ["b", "a"]


def test_a_reranker_cannot_invent_documents() -> None:
    """Ids that did not come in cannot come out."""
    with pytest.raises(MalformedOutput, match="not among its candidates"):
        chosen(ranked(z=1.0), candidates("a"))


def test_a_document_cannot_be_ranked_twice() -> None:
    """A repeated id is malformed."""
    rows = [*ranked(a=1.0), *ranked(a=2.0)]
    with pytest.raises(MalformedOutput, match="twice"):
        chosen(rows, candidates("a"))


@given(st.lists(SCORES, min_size=1, max_size=30), st.integers(1, 40), st.booleans())
def test_a_selection_is_a_permutation_within_k(scores: list[float], k: int, keep: bool) -> None:
    """No document is lost but by the cut, none is doubled, and nothing is mutated."""
    before = candidates(*(f"d{i}" for i in range(len(scores))))
    rows = [Ranked(c.document, s) for c, s in zip(before, scores, strict=True)]
    snapshot = list(before), list(rows)
    ids = chosen(rows, before, k=k, tail="keep" if keep else "drop")
    assert len(ids) == len(set(ids)) == (len(scores) if keep else min(k, len(scores)))
    assert set(ids) <= {c.id for c in before}
    assert (before, rows) == snapshot
    assert all(c.stage_scores == {"first": 1.0} for c in before)
