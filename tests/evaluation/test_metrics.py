"""Metrics agree with trec_eval to 1e-9, ties and graded labels included."""

import math

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from funnel.errors import InputError
from funnel.evaluation.metrics import mean, ndcg, per_query, trec_order

IDS = st.sampled_from([f"d{n}" for n in range(12)] + ["D1", "d10", "é", "😀", "10", "9"])
SCORES = st.sampled_from([0.0, 1.0, -1.0, 0.5, 0.50000000001, 3.25]) | st.floats(-100, 100)
RUNS = st.dictionaries(IDS, SCORES, min_size=1, max_size=15)
JUDGED = st.dictionaries(IDS, st.integers(-1, 4), min_size=1, max_size=15)
CASES = st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), st.tuples(RUNS, JUDGED), min_size=1)

THEIRS = {
    "ndcg@10": "ndcg_cut_10",
    "ndcg@3": "ndcg_cut_3",
    "recall@10": "recall_10",
    "recall@2": "recall_2",
    "p@5": "P_5",
    "map": "map",
    "map@3": "map_cut_3",
}
MEASURES = {"ndcg_cut.3,10", "recall.2,10", "P.5", "map", "map_cut.3", "recip_rank"}


@given(CASES, st.integers(1, 3))
def test_metrics_agree_with_trec_eval(
    cases: dict[str, tuple[dict[str, float], dict[str, int]]], level: int
) -> None:
    """Same run, same judgements, same figures, for any ties, grades and relevance level."""
    run = {query: scores for query, (scores, _) in cases.items()}
    qrels = {query: judged for query, (_, judged) in cases.items()}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, MEASURES, relevance_level=level).evaluate(run)
    rankings = {query: trec_order(scores) for query, scores in run.items()}
    for ours, name in {**THEIRS, "mrr@100": "recip_rank"}.items():
        values = per_query(ours, rankings, qrels, level=level)
        for query, value in values.items():
            assert value == pytest.approx(theirs[query][name], abs=1e-9), ours


@given(CASES)
def test_mrr_at_a_depth_is_trec_evals_on_a_cut_run(
    cases: dict[str, tuple[dict[str, float], dict[str, int]]],
) -> None:
    """mrr@3 is the reciprocal rank of a run cut to three documents."""
    qrels = {query: judged for query, (_, judged) in cases.items()}
    rankings = {query: trec_order(scores)[:3] for query, (scores, _) in cases.items()}
    run = {
        query: {doc: float(-rank) for rank, doc in enumerate(ranking)}
        for query, ranking in rankings.items()
    }
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(run)
    full = {query: trec_order(scores) for query, (scores, _) in cases.items()}
    for query, value in per_query("mrr@3", full, qrels).items():
        assert value == pytest.approx(theirs[query]["recip_rank"], abs=1e-9)


@given(RUNS, JUDGED)
def test_metrics_are_shares(run: dict[str, float], judged: dict[str, int]) -> None:
    """Every metric lies between 0 and 1."""
    for name in ("ndcg@5", "mrr@5", "recall@5", "p@5", "map"):
        (value,) = per_query(name, {"q": trec_order(run)}, {"q": judged}).values()
        assert 0 <= value <= 1


def test_equal_scores_fall_in_descending_order_of_ids() -> None:
    """trec_eval breaks ties by the greater id, and compares in single precision."""
    assert trec_order({"a": 1.0, "b": 1.0, "c": 2.0}) == ["c", "b", "a"]
    assert trec_order({"a": 1.0 + 1e-12, "b": 1.0}) == ["b", "a"]
    assert trec_order({"a": 1e300, "b": 2e300}) == ["b", "a"]


def test_a_missed_query_counts_as_zero() -> None:
    """A judged query without a ranking lowers the mean; one without judgements is left out."""
    values = per_query("mrr@10", {"q1": ["a"], "other": ["a"]}, {"q1": {"a": 1}, "q2": {"a": 1}})
    assert values == {"q1": 1.0, "q2": 0.0}
    assert mean(values) == 0.5


def test_ndcg_of_a_known_case() -> None:
    """Grades 3 and 1 in the wrong order, by hand."""
    expected = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    assert ndcg(["low", "high"], {"high": 3, "low": 1}, 10) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["ndgc@10", "ndcg", "ndcg@0", "ndcg@x", "recall@-1", ""])
def test_unknown_metrics_are_refused(name: str) -> None:
    """A wrong name or depth says what there is."""
    with pytest.raises(InputError, match=r"ndcg|known|expected a depth"):
        per_query(name, {}, {})
