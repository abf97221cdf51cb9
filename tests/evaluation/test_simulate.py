"""Shallower funnels follow from one deep run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.evaluation.beir import load_beir
from funnel.evaluation.deep import DeepStage, deep_run
from funnel.evaluation.evaluate import evaluate, evaluation_settings, index_dataset
from funnel.evaluation.simulate import (
    Line,
    Plan,
    Policy,
    all_plans,
    fit_line,
    policies,
    simulate,
)
from funnel.evaluation.tune import planned_settings
from funnel.models.base import ScoredPairs
from funnel.settings import FunnelSettings
from funnel.stages.hybrid import HybridSettings
from tests.evaluation import folders
from tests.evaluation.folders import FakeModels, beir_folder, funnel_over

STAGES = [
    {"kind": "hybrid", "k": 12},
    {"kind": "callable", "name": "words", "function": "words", "k": 8, "min_score": 0.2},
    {"kind": "callable", "name": "short", "function": "short", "k": 3},
]
WORDS = ["red", "green", "apple", "pear", "tree", "road", "sea", "boat"]


def shortest(query: str, found: Sequence[object]) -> list[float]:
    return [-float(len(candidate.document.text)) for candidate in found]  # type: ignore[attr-defined]


def many_documents() -> list[dict[str, str]]:
    """Sixty documents that share words in changing company."""
    return [
        {
            "_id": f"d{n:02}",
            "title": "",
            "text": " ".join(WORDS[(n * step) % 8] for step in range(1, 3 + n % 4))
            + " x" * (n % 7),
        }
        for n in range(60)
    ]


@pytest.mark.parametrize("tail", ["drop", "keep"])
def test_simulation_returns_what_a_real_run_returns(tmp_path: Path, tail: str) -> None:
    """Every plan's simulated ranking is that of a funnel really run at these sizes."""
    queries = [{"_id": f"q{n}", "text": f"{WORDS[n]} {WORDS[(n + 3) % 8]}"} for n in range(4)]
    judged = [(f"q{n}", "d00", 1) for n in range(4)]
    data = load_beir(beir_folder(tmp_path / "many", many_documents(), queries, judged))
    base = folders.settings(stages=[STAGES[0], {**STAGES[1], "tail": tail}, STAGES[2]])
    with funnel_over(data, base, short=shortest) as funnel:
        index_dataset(funnel, data)
        run = deep_run(funnel, data.queries, 30)
        rules = policies(base, (False, False, False))
    for plan in [(12, 8, 3), (20, 5, 3), (30, None, 3), (10, 3, None), (3, None, None)]:
        planned = planned_settings(base, plan, 30)
        with funnel_over(data, planned, short=shortest) as funnel:
            index_dataset(funnel, data)
            real = evaluate(funnel, data).stages[-1].rankings
        final = next(size for size in reversed(plan) if size is not None)
        for name, query in run.queries.items():
            assert simulate(query, plan, rules).ranking == tuple(real[name][:final]), plan


def test_equal_scores_fall_to_the_order_that_comes_in(tmp_path: Path) -> None:
    """As in the engine, and not to the order that came in when all stages ran deep."""
    data = load_beir(beir_folder(tmp_path / "few"))
    last = {"kind": "callable", "name": "same", "function": "same", "k": 3}
    base = folders.settings(stages=[{"kind": "hybrid", "k": 5}, {**STAGES[2], "k": 5}, last])
    functions: dict[str, Any] = {"short": shortest, "same": lambda _, found: [1.0] * len(found)}
    with funnel_over(data, base, **functions) as funnel:
        index_dataset(funnel, data)
        run = deep_run(funnel, data.queries, 5)
    for plan in [(5, None, 3), (4, 4, 3)]:
        with funnel_over(data, planned_settings(base, plan, 5), **functions) as funnel:
            index_dataset(funnel, data)
            real = evaluate(funnel, data).stages[-1].rankings
        for name, query in run.queries.items():
            outcome = simulate(query, plan, policies(base, (False, False, False)))
            assert outcome.ranking == tuple(real[name]), plan


@pytest.mark.parametrize("prefetch", [None, 120, 20])
def test_a_hybrid_order_is_that_of_the_real_run(tmp_path: Path, prefetch: int | None) -> None:
    """More from each source would fuse to another order; the plan says how many."""
    documents = [
        {**each, "_id": f"{letter}-{each['_id']}", "text": f"{each['text']} {letter * 3}"}
        for letter in "abcdefgh"
        for each in many_documents()
    ]
    queries = [{"_id": f"q{n}", "text": f"{WORDS[n]} {WORDS[(n + 3) % 8]}"} for n in range(4)]
    judged = [(f"q{n}", "a-d00", 1) for n in range(4)]
    data = load_beir(beir_folder(tmp_path / "many", documents, queries, judged))
    base = folders.settings(
        stages=[{"kind": "hybrid", "k": 12, "prefetch": prefetch}, {**STAGES[2], "k": 10}]
    )
    plan = (90, None)
    with funnel_over(data, base, short=shortest) as funnel:
        index_dataset(funnel, data)
        run = deep_run(funnel, data.queries, 300)
    planned = planned_settings(base, plan, 300)
    with funnel_over(data, planned) as funnel:
        index_dataset(funnel, data)
        real = evaluate(funnel, data).stages[-1].rankings
    for name, query in run.queries.items():
        assert simulate(query, plan, policies(base, (False, False))).ranking == tuple(real[name])
    assert [s.prefetch for s in planned.stages if isinstance(s, HybridSettings)] == [300]


class FallingScores(FakeModels):
    """Its cross-encoder scores texts as the table says."""

    score_kind = "logit"
    revision = "1"

    def __init__(self, scores: Mapping[tuple[str, str], float]) -> None:
        super().__init__()
        self._scores = scores

    def scorer(self, name: str, **_: object) -> "FallingScores":
        return self

    def load(self) -> None:
        """Nothing to load."""

    async def ascore(self, pairs: Sequence[tuple[str, str]], **_: object) -> ScoredPairs:
        return ScoredPairs(np.array([self._scores[pair] for pair in pairs]), 0, len(pairs))


def test_a_stage_that_stops_early_is_simulated_so(tmp_path: Path) -> None:
    """Plans lose what it would not have scored, and take no time for it."""
    data = load_beir(
        beir_folder(
            tmp_path / "many",
            many_documents(),
            [{"_id": f"q{n}", "text": f"{WORDS[n]} {WORDS[n + 1]}"} for n in range(3)],
            [(f"q{n}", "d00", 1) for n in range(3)],
        )
    )
    reads = {"kind": "cross_encoder", "model": "m", "k": 3, "early_stop": 0.9, "block": 8}
    base = folders.settings(stages=[{"kind": "hybrid", "k": 12}, reads])
    with funnel_over(data, folders.settings(stages=[{"kind": "hybrid", "k": 60}])) as funnel:
        index_dataset(funnel, data)
        found = {text: funnel.run(text).hits for text in data.queries.values()}
    noise = np.random.default_rng(5).normal(0, 0.4, 60)
    models = FallingScores(
        {
            # The very last is the best: only who stops early misses it.
            (text, hit.text): -3 * math.log(hit.rank) + noise[hit.rank - 1] + (hit.rank > 57) * 99
            for text, hits in found.items()
            for hit in hits
        }
    )
    with funnel_over(data, base, pool=models) as funnel:
        index_dataset(funnel, data)
        run = deep_run(funnel, data.queries, 60)
    plan = (60, 3)
    with funnel_over(data, planned_settings(base, plan, 60), pool=models) as funnel:
        index_dataset(funnel, data)
        real = {name: funnel.run(text) for name, text in data.queries.items()}
    for name, query in run.queries.items():
        outcome = simulate(query, plan, policies(base, (False, False)))
        assert outcome.ranking == tuple(real[name].ids)
        assert outcome.read[1] == len(real[name].trace[1].ranking) < len(query[1].ranking) == 60


def stage(*ranking: str, **scores: float) -> DeepStage:
    return DeepStage(ranking, scores, len(ranking), 10.0, 0.0)


def policy(**changes: object) -> Policy:
    plain = {"name": "s", "min_score": None, "tail": "drop", "limit": None}
    return Policy(**{**plain, **changes})  # type: ignore[arg-type]


def test_a_document_cut_early_does_not_come_back() -> None:
    """What retrieval would not have kept no later stage can rank."""
    query = (stage("a", "b", "c"), stage("c", "b", "a"))
    outcome = simulate(query, (2, 1), [policy(), policy()])
    assert (outcome.ranking, outcome.read) == (("b",), {0: 2, 1: 2})


def test_a_stage_left_out_reads_nothing() -> None:
    """Without it the order before it stands, and it takes no time."""
    query = (stage("a", "b", "c"), stage("c", "b", "a"))
    outcome = simulate(query, (2, None), [policy(), policy()])
    assert (outcome.ranking, outcome.read) == (("a", "b"), {0: 2})


def test_thresholds_cut_and_tails_stay() -> None:
    """min_score removes from the head; a kept tail follows in the previous order."""
    query = (stage("a", "b", "c"), stage("c", "b", "a", c=0.9, b=0.5, a=0.1))
    strict = policy(min_score=0.5)
    assert simulate(query, (3, 3), [policy(), strict]).ranking == ("c", "b")
    kept = policy(min_score=0.5, tail="keep")
    third = (*query, stage("a", "b", "c"))
    assert simulate(third, (3, 1, 3), [policy(), kept, policy()]).ranking == ("b", "c")


def test_a_limited_stage_reads_no_more_and_keeps_the_unread_behind() -> None:
    """Candidates that a list-wise stage did not read in the deep run follow in prior order."""
    query = (stage("a", "b", "c", "d"), stage("b", "a"))
    outcome = simulate(query, (4, 3), [policy(), policy(limit=3)])
    assert (outcome.ranking, outcome.read) == (("b", "a", "c"), {0: 4, 1: 3})


@settings(max_examples=30)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(1, 100))
def test_plans_are_funnels_that_return_as_many_hits(ks: list[int], depth: int) -> None:
    """Sizes never grow, the last used stage keeps the final k, retrieval is never left out."""
    sizes = sorted(ks, reverse=True)
    kinds = ["hybrid", *["callable"] * (len(sizes) - 1)]
    stages = [
        {"kind": kind, "k": k, "name": f"s{n}", **({"function": "words"} if n else {})}
        for n, (kind, k) in enumerate(zip(kinds, sizes, strict=True))
    ]
    base = folders.settings(stages=stages)
    plans = all_plans(base, max(depth, sizes[0]))
    assert tuple(sizes) in plans
    assert len(set(plans)) == len(plans)
    for plan in plans:
        used = [size for size in plan if size is not None]
        assert plan[0] is not None
        assert used == sorted(used, reverse=True)
        assert used[-1] == sizes[-1]


def test_planned_settings_pass_validation(tmp_path: Path) -> None:
    """Every plan gives settings that the loader accepts."""
    base = folders.settings(stages=STAGES)
    data = load_beir(beir_folder(tmp_path / "tiny"))
    plans: list[Plan] = [(12, None, 3), (5, 4, 3), (3, None, None)]
    for plan in plans:
        planned = evaluation_settings(planned_settings(base, plan, 30), data)
        plain = planned.model_dump(mode="json", exclude_none=True)
        assert FunnelSettings.from_mapping(plain).stages == planned.stages


@given(st.floats(0, 100), st.floats(0, 10), st.sets(st.integers(1, 500), min_size=2, max_size=6))
def test_a_line_is_recovered(fixed: float, each: float, sizes: set[int]) -> None:
    """From exact points the fit finds the amounts again."""
    line = fit_line((size, fixed + each * size) for size in sizes)
    for size in sizes:
        assert line.at(size) == pytest.approx(fixed + each * size, rel=1e-6, abs=1e-6)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.floats(0, 1e4)), max_size=30),
)
def test_a_line_never_falls_below_zero(points: list[tuple[int, float]]) -> None:
    """Neither part is negative, whatever was measured."""
    line = fit_line(points)
    assert line.fixed >= 0
    assert line.each >= 0


def test_amounts_scale_from_the_querys_own() -> None:
    """A slow query stays slow in proportion; a free stage stays free."""
    assert Line(10.0, 1.0).scaled(40.0, measured_at=10, wanted_at=0) == pytest.approx(20.0)
    assert Line(0.0, 0.0).scaled(5.0, 10, 5) == 0.0
