"""Ranking metrics that agree with trec_eval, including its order of equal scores.

A *ranking* is document ids, best first. *Judgements* map document ids to grades; a grade of at
least ``level`` counts as relevant (TREC Deep Learning: 2), nDCG uses the grades themselves with
linear gain. A relevant document that is not in the ranking stays missed.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from funnel.errors import InputError
from funnel.registry import suggestion

Judgements = Mapping[str, int]
Qrels = Mapping[str, Judgements]
Rankings = Mapping[str, Sequence[str]]
PerQuery = dict[str, float]


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """Document ids as trec_eval orders them: by score, equal scores by id, both descending.

    trec_eval keeps scores in single precision, so scores that differ by less are equal here too.
    """
    with np.errstate(over="ignore"):  # beyond single precision is infinite there, too
        single = {doc_id: float(np.float32(score)) for doc_id, score in scores.items()}
    return sorted(single, key=lambda doc_id: (single[doc_id], doc_id), reverse=True)


def ndcg(ranking: Sequence[str], judged: Judgements, k: int) -> float:
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen 2002) of the first ``k``."""
    ideal = _dcg(sorted(judged.values(), reverse=True)[:k])
    return _dcg(judged.get(doc_id, 0) for doc_id in ranking[:k]) / ideal if ideal else 0.0


def reciprocal_rank(ranking: Sequence[str], judged: Judgements, k: int, level: int = 1) -> float:
    """One over the rank of the first relevant document, 0 if none is among the first ``k``."""
    for rank, doc_id in enumerate(ranking[:k], start=1):
        if judged.get(doc_id, 0) >= level:
            return 1 / rank
    return 0.0


def recall(ranking: Sequence[str], judged: Judgements, k: int, level: int = 1) -> float:
    """The share of all relevant documents that is among the first ``k``."""
    relevant = _relevant(judged, level)
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def precision(ranking: Sequence[str], judged: Judgements, k: int, level: int = 1) -> float:
    """The share of ``k`` places that holds a relevant document; a short ranking is not excused."""
    return len(_relevant(judged, level).intersection(ranking[:k])) / k


def average_precision(ranking: Sequence[str], judged: Judgements, k: int, level: int = 1) -> float:
    """The mean, over all relevant documents, of the precision where each is found; else 0."""
    relevant = _relevant(judged, level)
    found, total = 0, 0.0
    for rank, doc_id in enumerate(ranking[:k], start=1):
        if doc_id in relevant:
            found += 1
            total += found / rank
    return total / len(relevant) if relevant else 0.0


_METRICS: dict[str, Callable[[Sequence[str], Judgements, int, int], float]] = {
    "map": average_precision,
    "mrr": reciprocal_rank,
    "ndcg": lambda ranking, judged, k, _: ndcg(ranking, judged, k),
    "p": precision,
    "recall": recall,
}
_EVERYTHING = 10**9


def per_query(metric: str, rankings: Rankings, qrels: Qrels, *, level: int = 1) -> PerQuery:
    """A metric for every judged query, by query id.

    Args:
        metric: ``ndcg@10``, ``mrr@10``, ``recall@100``, ``p@5``, ``map``, ``map@100``.
        rankings: document ids by query id; a judged query without one scores 0.
        qrels: judgements by query id; queries without any are left out.
        level: the grade from which on a document is relevant.

    Raises:
        InputError: there is no such metric.
    """
    function, k = _parsed(metric)
    return {
        query_id: function(rankings.get(query_id, ()), judged, k, level)
        for query_id, judged in qrels.items()
    }


def mean(values: PerQuery) -> float:
    """The mean over queries, 0 for none."""
    return math.fsum(values.values()) / len(values) if values else 0.0


def _parsed(metric: str) -> tuple[Callable[[Sequence[str], Judgements, int, int], float], int]:
    name, _, cut = metric.partition("@")
    known = tuple(_METRICS)
    if name not in _METRICS:
        raise InputError(
            f"unknown metric {metric!r}{suggestion(name, known)}; known: "
            f"{', '.join(f'{each}@K' for each in known)}"
        )
    if not cut and name == "map":
        return _METRICS[name], _EVERYTHING
    if not (cut.isascii() and cut.isdigit() and int(cut) > 0):
        raise InputError(f"metric {metric!r}: expected a depth from 1 up, such as {name}@10")
    return _METRICS[name], int(cut)


def _dcg(grades: Iterable[int]) -> float:
    return math.fsum(
        grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1) if grade > 0
    )


def _relevant(judged: Judgements, level: int) -> set[str]:
    return {doc_id for doc_id, grade in judged.items() if grade >= level}
