"""Several cross-encoders on the same query: time, order, and how far they agree."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnel.models import CrossEncoderScorer

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model on one query's documents; ``order`` holds their ids, best first."""

    name: str
    backend: str
    seconds: float
    documents_per_s: float
    scores: FloatArray
    order: Sequence[str]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two models' orders: Kendall's tau-b, and the share of the first five in common."""

    first: str
    second: str
    kendall_tau: float
    top5_overlap: float


@dataclass(frozen=True, slots=True)
class ModelsReport:
    """All models on one query, and every two of them compared."""

    query: str
    documents: int
    rows: Sequence[ModelRow]
    agreements: Sequence[Agreement]

    def to_dict(self) -> dict[str, Any]:
        """As ``funnel bench models --json`` prints it."""
        return {
            "query": self.query,
            "documents": self.documents,
            "models": [
                {
                    "name": row.name,
                    "backend": row.backend,
                    "seconds": row.seconds,
                    "documents_per_s": row.documents_per_s,
                    "order": list(row.order),
                }
                for row in self.rows
            ],
            "agreement": [
                {
                    "models": [each.first, each.second],
                    "kendall_tau": each.kendall_tau,
                    "top5_overlap": each.top5_overlap,
                }
                for each in self.agreements
            ],
        }


def bench_models(
    names: Sequence[str], query: str, ids: Sequence[str], texts: Sequence[str], *, rounds: int = 5
) -> ModelsReport:
    """Score one query's documents with each model; the time is the median of ``rounds``.

    Raises:
        ModelError: a model is missing or no ranker.
    """
    rows = [_row(name, query, ids, texts, rounds) for name in names]
    pairs = combinations(rows, 2)
    return ModelsReport(query, len(ids), rows, [_agreement(one, other) for one, other in pairs])


def _row(name: str, query: str, ids: Sequence[str], texts: Sequence[str], rounds: int) -> ModelRow:
    scorer = CrossEncoderScorer(name)
    pairs = [(query, text) for text in texts]
    scores = scorer.score(pairs)
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        scorer.score(pairs)
        times.append(time.perf_counter() - began)
    seconds = float(np.median(times))
    order = [ids[i] for i in np.argsort(-scores, kind="stable")]
    return ModelRow(name, scorer.backend, seconds, len(ids) / seconds, scores, order)


def _agreement(one: ModelRow, other: ModelRow) -> Agreement:
    top = min(5, len(one.order))
    shared = len(set(one.order[:top]) & set(other.order[:top])) / top
    return Agreement(one.name, other.name, kendall_tau(one.scores, other.scores), shared)


def kendall_tau(first: FloatArray, second: FloatArray) -> float:
    """Kendall's tau-b of two score lists, 1 for equal orders, -1 for reversed ones.

    0 where one of them does not distinguish anything.
    """
    a = np.sign(first[:, None] - first[None, :])
    b = np.sign(second[:, None] - second[None, :])
    scale = np.sqrt(float(np.abs(a).sum()) * float(np.abs(b).sum()))
    return float((a * b).sum() / scale) if scale else 0.0
