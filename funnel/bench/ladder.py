"""The ladder of rates: a funnel of hybrid search and cross-encoder under rising load."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from funnel.bench.load import (
    Answered,
    Ask,
    LoadPoint,
    Quality,
    capacity,
    finite,
    half_depth,
    idle,
    open_loop,
    poisson,
    stretched,
    summarise,
    zipf_queries,
)
from funnel.bench.rerank import device
from funnel.engine import Funnel
from funnel.errors import ConfigError
from funnel.evaluation.beir import Dataset
from funnel.evaluation.evaluate import index_dataset
from funnel.evaluation.metrics import ndcg
from funnel.progress import bar
from funnel.settings import FunnelSettings

CALLERS = 8
HITS = 10
TARGET_FACTOR = 3.0
"""The target of adaptation, in idle 99th percentiles."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What is run: shares of capacity, seconds at each, with and without cache and adaptation.

    ``warm_up`` seconds come before and do not count: an overload is noticed when about twelve
    queries wait, which takes some thirty-three queries at 136%, with bad luck twice that.
    ``trace``: due times from 0 on, stretched to each rate; ``seconds`` then mean nothing.
    """

    shares: Sequence[float] = (0.5, 0.8, 1.0, 1.36)
    seconds: float = 30.0
    warm_up: float = 15.0
    caches: Sequence[bool] = (False, True)
    adaptations: Sequence[bool] = (False, True)
    depth: int = 100
    seed: int = 0
    trace: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """``profile_ms`` are the idle times query by query: what ``simulate`` needs."""

    dataset: str
    device: str
    model: str
    plan: LoadPlan
    capacity: float
    target_ms: float
    profile_ms: Sequence[float]
    half_depth_ms: float
    hit_ms: float
    full_ndcg: float
    points: Sequence[LoadPoint]

    def to_dict(self) -> dict[str, Any]:
        """As ``funnel bench load --json`` prints it."""
        idle_p99 = float(np.percentile(self.profile_ms, 99))
        return {
            "dataset": self.dataset,
            "device": self.device,
            "model": self.model,
            "depth": self.plan.depth,
            "seconds": self.plan.seconds,
            "warm_up_s": self.plan.warm_up,
            "seed": self.plan.seed,
            "trace_s": self.plan.trace and list(self.plan.trace),
            "capacity_per_s": self.capacity,
            "target_ms": self.target_ms,
            "idle_p50_ms": float(np.percentile(self.profile_ms, 50)),
            "idle_p99_ms": idle_p99,
            "half_depth_p50_ms": self.half_depth_ms,
            "hit_p50_ms": self.hit_ms,
            "profile_ms": list(self.profile_ms),
            "ndcg@10": self.full_ndcg,
            "points": [
                {**point.to_dict(), "p99_over_idle": finite(point.p99_ms / idle_p99)}
                for point in self.points
            ],
        }


def bench_load(
    dataset: Dataset,
    model: str,
    embedder: str,
    plan: LoadPlan,
    *,
    on_bad: Literal["skip", "fail"] = "fail",
    progress: bool = False,
) -> LoadReport:
    """Measure capacity and idle latency, then climb the ladder.

    Raises:
        FunnelError: the model or the dataset cannot be used.
    """
    with Funnel(_settings(dataset, model, embedder, plan.depth)) as funnel:
        index_dataset(funnel, dataset, on_bad=on_bad, progress=progress)
        return asyncio.run(_climb(funnel, dataset, model, plan, progress=progress))


def _settings(dataset: Dataset, model: str, embedder: str, depth: int) -> FunnelSettings:
    return FunnelSettings.from_mapping(
        {
            "collection": f"bench-{dataset.fingerprint[:12]}",
            "models": {"embedder": embedder},
            "qdrant": ":memory:",
            "stages": [
                {"kind": "hybrid", "k": depth},
                {"kind": "cross_encoder", "model": model, "k": min(HITS, depth)},
            ],
            "cache": {"store": "memory"},
        }
    )


async def _climb(
    funnel: Funnel, dataset: Dataset, model: str, plan: LoadPlan, *, progress: bool
) -> LoadReport:
    ids = list(dataset.queries)
    numbers = list(range(len(ids)))
    ask = _asker(funnel, dataset, cache=False)
    await idle(ask, numbers)  # as later: kernels made, texts' own vectors known
    full = await idle(ask, numbers)
    half = await idle(_asker(funnel, dataset, cache=False, depth=half_depth(plan.depth)), numbers)
    top = await capacity(ask, numbers * max(1, 80 // len(numbers)), callers=CALLERS)
    for share in plan.shares:  # said now, not when its turn comes
        _arrivals(plan, share * top)
    hits = await idle(_asker(funnel, dataset, cache=True), [0] * 21)
    target = TARGET_FACTOR * 1000 * float(np.percentile([a.latency_s for a in full], 99))
    quality = _quality(dataset)
    by_number = {answer.query: answer for answer in full}
    points = []
    runs = list(product(plan.shares, plan.caches, plan.adaptations))
    with bar("load", len(runs), enabled=progress) as advance:
        for share, cache, adapt in runs:
            asker = _asker(funnel, dataset, cache=cache, target_ms=target if adapt else None)
            answers = await _run(funnel, asker, plan, share * top, len(ids))
            point = summarise(
                answers,
                quality,
                share=share,
                rate=share * top,
                cache=cache,
                adapt=adapt,
                warm_up=plan.warm_up,
                full_quality=lambda good: quality([by_number[each.query] for each in good]),
            )
            points.append(point)
            advance(1)
    return LoadReport(
        dataset=dataset.name,
        device=device(),
        model=model,
        plan=plan,
        capacity=top,
        target_ms=target,
        profile_ms=[1000 * each.latency_s for each in full],
        half_depth_ms=_median_ms(half),
        hit_ms=_median_ms(hits[1:]),
        full_ndcg=quality(full),
        points=points,
    )


async def _run(
    funnel: Funnel, ask: Ask, plan: LoadPlan, rate: float, queries: int
) -> list[Answered]:
    await asyncio.to_thread(funnel.purge_cache)
    due = _arrivals(plan, rate)
    return await open_loop(ask, due, zipf_queries(len(due), queries, plan.seed))


def _arrivals(plan: LoadPlan, rate: float) -> list[float]:
    """Due times at a rate.

    Raises:
        ConfigError: all of them are in the warm-up, so nothing would count.
    """
    if plan.trace is None:
        due = poisson(rate, plan.seconds, plan.seed, warm_up=plan.warm_up)
        mend = "raise --seconds"
    else:
        due = stretched(plan.trace, rate)
        mend = f"the trace then lasts {due[-1]:.1f} s: take a longer one or lower --warm-up"
    if not due or due[-1] < plan.warm_up:
        raise ConfigError(
            f"no request is due after the {plan.warm_up:g} s of warm-up at {rate:.2f} per second, "
            f"expected at least one; {mend}"
        )
    return due


def _median_ms(answers: Sequence[Answered]) -> float:
    return 1000 * float(np.median([answer.latency_s for answer in answers]))


def _asker(
    funnel: Funnel,
    dataset: Dataset,
    *,
    cache: bool,
    target_ms: float | None = None,
    depth: int | None = None,
) -> Ask:
    texts = list(dataset.queries.values())
    changes = {"target_ms": target_ms, "depth": depth}
    overrides = {"cross_encoder": {key: value for key, value in changes.items() if value}}

    async def ask(number: int) -> Answered:
        result = await funnel.arun(texts[number], cache=cache, overrides=overrides)
        return Answered(
            0.0,
            0.0,
            number,
            tuple(result.ids),
            degraded=bool(result.degraded),
            cached=result.cache.status == "hit",
        )

    return ask


def _quality(dataset: Dataset) -> Quality:
    """nDCG@10, every query that was asked counting once, however often it was.

    Some are asked much more often than others, by chance of the seed, and one query's loss must not
    stand for that of all.
    """
    qrels: list[Mapping[str, int]] = list(dataset.qrels.values())

    def mean_ndcg(answers: Sequence[Answered]) -> float:
        values: dict[int, list[float]] = {}
        for answer in answers:
            value = ndcg(answer.ids, qrels[answer.query], 10)
            values.setdefault(answer.query, []).append(value)
        return float(np.mean([np.mean(each) for each in values.values()])) if values else 0.0

    return mean_ndcg
