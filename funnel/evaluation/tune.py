"""From one deep run to the Pareto set of stage sizes, and to the one to use.

Plans are chosen on half of the queries and reported on the other half, so that the figures beside
the recommendation were not fitted. The recommended plan is then really run on that other half.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.errors import InputError
from funnel.evaluation.beir import Dataset
from funnel.evaluation.deep import DeepQuery, DeepRun, deep_run, held, shallower_runs
from funnel.evaluation.evaluate import Evaluation, percentile
from funnel.evaluation.metrics import Qrels, mean, per_query
from funnel.evaluation.simulate import (
    Line,
    Outcome,
    Plan,
    Policy,
    all_plans,
    current_plan,
    fit_line,
    policies,
    simulate,
)
from funnel.settings import has_idle_tail

if TYPE_CHECKING:
    from funnel.engine import Funnel
    from funnel.settings import FunnelSettings
    from funnel.stages.base import StageSettings

METRIC = "ndcg@10"
GOOD_ENOUGH = 0.005
"""Without a target: the fastest plan whose METRIC is at most this much below the best."""
_TIMED_QUERIES = 12


@dataclass(frozen=True, slots=True)
class Target:
    """What the recommended plan must meet: a limit of time, a level of quality, or both."""

    max_p95_ms: float | None = None
    min_ndcg: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether nothing is asked for."""
        return self.max_p95_ms is None and self.min_ndcg is None

    def allows(self, point: "Point") -> bool:
        """Whether a plan meets it, by the tuning half and the estimated time."""
        fast = self.max_p95_ms is None or point.p95_ms <= self.max_p95_ms
        return fast and (self.min_ndcg is None or point.tuned >= self.min_ndcg)


@dataclass(frozen=True, slots=True)
class Point:
    """A plan with its simulated quality on both halves and its estimated time and cost.

    ``tuned`` and ``held_out`` are means of METRIC; times are for a whole query, summed over the
    stages; ``cost_usd`` is the mean for a query.
    """

    plan: Plan
    tuned: float
    held_out: float
    p50_ms: float
    p95_ms: float
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """What ``funnel tune`` found. ``recommended`` is None if no plan meets the target."""

    dataset: str
    config_hash: str
    metric: str
    stages: tuple[str, ...]
    tuned_on: int
    held_out: tuple[str, ...]
    failed: int
    depth: int
    target: Target
    current: Point
    pareto: tuple[Point, ...]
    recommended: Point | None
    estimated_stages: tuple[str, ...]
    """Stages that rank lists as a whole, whose order of a shorter list is only estimated."""
    held: Mapping[str, Mapping[str, Any]]
    """Settings by stage name that would follow ``k``; all figures are with these instead."""
    verified: Evaluation | None = None

    def named(self, plan: Plan) -> dict[str, int | None]:
        """A plan as sizes by stage name; None for a stage that is left out."""
        return dict(zip(self.stages, plan, strict=True))


def tune(
    funnel: "Funnel",
    dataset: Dataset,
    *,
    target: Target | None = None,
    depth: int = 100,
    config_hash: str | None = None,
    progress: bool = False,
) -> Tuning:
    """Run deep once, simulate all plans, and choose.

    Args:
        funnel: made from ``evaluation_settings`` and indexed by ``index_dataset``.
        dataset: the judged queries, at least two.
        target: what to meet; without one the fastest plan close to the best is recommended.
        depth: the largest size of any stage; at least the first stage's own.
        config_hash: of the operator's own settings.
        progress: draw bars on a terminal.

    Raises:
        InputError: there are too few queries.
        StageError: retrieval failed, or fewer than two queries went through all stages.
    """
    if len(dataset.queries) < 2:
        raise InputError(
            f"tune: got {len(dataset.queries)} judged queries, expected at least 2: one half "
            "chooses, the other reports"
        )
    depth = max(depth, funnel.settings.stages[0].k)
    run = deep_run(funnel, dataset.queries, depth, progress=progress)
    lines = _lines(funnel, dataset, run, depth, progress=progress)
    whole_lists = tuple(stage.score_kind == "rank" for stage in funnel.stages)
    rules = policies(funnel.settings, whole_lists)
    tuned, held_out = halves(list(run.queries))
    points = _points(funnel.settings, run, depth, rules, lines, dataset.qrels, tuned, held_out)
    wanted = target or Target()
    own = current_plan(funnel.settings)
    return Tuning(
        dataset=dataset.name,
        config_hash=config_hash or funnel.config_hash,
        metric=METRIC,
        stages=tuple(rule.name for rule in rules),
        tuned_on=len(tuned),
        held_out=tuple(held_out),
        failed=run.failed,
        depth=depth,
        target=wanted,
        current=next(point for point in points if point.plan == own),
        pareto=pareto(points),
        recommended=recommend(points, wanted),
        estimated_stages=tuple(
            rule.name for rule, whole in zip(rules, whole_lists, strict=True) if whole
        ),
        held={stage.name: kept for stage in funnel.settings.stages if (kept := held(stage, depth))},
    )


def halves(query_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Two halves by a hash of the id: the same for any order, without drift between runs."""
    ordered = sorted(query_ids, key=lambda name: hashlib.blake2b(name.encode()).digest())
    middle = (len(ordered) + 1) // 2
    return ordered[:middle], ordered[middle:]


def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other beats in time, quality and cost at once; fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.p95_ms, -p.tuned, p.cost_usd)):
        if not any(_beats(other, point) for other in best):
            best.append(point)
    return tuple(best)


def recommend(points: Sequence[Point], target: Target) -> Point | None:
    """The plan to use, or None if none meets the target.

    With a limit of time, the best within it (the faster of equals); with a level of quality only,
    the fastest that reaches it; without a target, the fastest within GOOD_ENOUGH of the best.
    """
    allowed = [point for point in points if target.allows(point)]
    if target.is_open:
        best = max(point.tuned for point in points)
        allowed = [point for point in points if point.tuned >= best - GOOD_ENOUGH]
    if target.max_p95_ms is not None:
        return min(allowed, key=lambda p: (-p.tuned, p.p95_ms, p.cost_usd), default=None)
    return min(allowed, key=lambda p: (p.p95_ms, p.cost_usd, -p.tuned), default=None)


def plan_changes(
    base: "FunnelSettings", plan: Plan, depth: int
) -> tuple[dict[str, Any] | None, ...]:
    """What a plan of a tuning up to ``depth`` sets in each stage, None where it is left out."""
    last = max(place for place, size in enumerate(plan) if size is not None)
    return tuple(
        None
        if size is None
        else {"k": size, **held(stage, depth), **_tail(stage, is_last=place == last)}
        for place, (stage, size) in enumerate(zip(base.stages, plan, strict=True))
    )


def planned_settings(base: "FunnelSettings", plan: Plan, depth: int) -> "FunnelSettings":
    """The operator's settings with a plan's stages and sizes."""
    changes = plan_changes(base, plan, depth)
    stages = [
        stage.model_copy(update=change)
        for stage, change in zip(base.stages, changes, strict=True)
        if change is not None
    ]
    return base.model_copy(update={"stages": tuple(stages)})


def _tail(stage: "StageSettings", *, is_last: bool) -> dict[str, str]:
    """Without the stages after it a stage may keep a tail that settings refuse at the end."""
    return {"tail": "drop"} if is_last and has_idle_tail(stage) else {}


def _beats(other: Point, point: Point) -> bool:
    return (
        other.p95_ms <= point.p95_ms
        and other.tuned >= point.tuned
        and other.cost_usd <= point.cost_usd
    )


@dataclass(frozen=True, slots=True)
class _Lines:
    """How each stage's time and cost grow with the number of candidates."""

    time: tuple[Line, ...]
    cost: tuple[Line, ...]


def _lines(
    funnel: "Funnel", dataset: Dataset, run: DeepRun, depth: int, *, progress: bool
) -> _Lines:
    """Fit them to the first queries, in the deep run and with shorter lists.

    To the same queries in the same order, as what is known of documents then is the same, too.
    """
    final = funnel.settings.stages[-1].k
    sizes = sorted({final, round(math.sqrt(final * depth))} - {depth})
    timed = {name: dataset.queries[name] for name in list(run.queries)[:_TIMED_QUERIES]}
    measured = [run.queries[name] for name in timed]
    measured += shallower_runs(funnel, timed, sizes, depth, progress=progress)
    places = range(len(funnel.stages))
    return _Lines(
        tuple(fit_line((query[i].read, query[i].ms) for query in measured) for i in places),
        tuple(fit_line((query[i].read, query[i].cost_usd) for query in measured) for i in places),
    )


def _points(
    settings: "FunnelSettings",
    run: DeepRun,
    depth: int,
    rules: Sequence[Policy],
    lines: _Lines,
    qrels: Qrels,
    tuned: Sequence[str],
    held_out: Sequence[str],
) -> list[Point]:
    points = []
    for plan in all_plans(settings, depth):
        outcomes = {name: simulate(query, plan, rules) for name, query in run.queries.items()}
        totals = [_total(run.queries[name], outcomes[name], lines) for name in outcomes]
        points.append(
            Point(
                plan,
                tuned=_quality(outcomes, qrels, tuned),
                held_out=_quality(outcomes, qrels, held_out),
                p50_ms=percentile([ms for ms, _ in totals], 50),
                p95_ms=percentile([ms for ms, _ in totals], 95),
                cost_usd=float(np.mean([cost for _, cost in totals])),
            )
        )
    return points


def _quality(outcomes: Mapping[str, Outcome], qrels: Qrels, names: Sequence[str]) -> float:
    rankings = {name: outcomes[name].ranking for name in names}
    return mean(per_query(METRIC, rankings, {name: qrels[name] for name in names}))


def _total(query: DeepQuery, outcome: Outcome, lines: _Lines) -> tuple[float, float]:
    """Milliseconds and dollars of a query under a plan, scaled from its own deep run."""
    ms = cost = 0.0
    for place, read in outcome.read.items():
        stage = query[place]
        ms += lines.time[place].scaled(stage.ms, stage.read, read)
        cost += lines.cost[place].scaled(stage.cost_usd, stage.read, read)
    return ms, cost
