"""What the cards report: each model beside the cheap baselines, on parts it was not trained on."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from funnel.evaluation.metrics import ndcg
from funnel.models.adapters import Combination
from funnel.training.figures import classification_figures, roc_auc, rounded
from recipes import relevance
from recipes.duplicate import WINDOWS
from recipes.logistic import logistic_regression
from recipes.network import Base, Floats, Words, predict
from recipes.passages import Passages, Ranking, first_stage, read_reranking
from recipes.questions import Pair, Questions, paraphrase_tests

Figures = dict[str, dict[str, float]]
_CONTRASTS = Path(__file__).with_name("contrasts.tsv")


def both_orders(network: Any, words: Words, pairs: Sequence[Pair]) -> Floats:
    """Cross-encoder logits of shape (2, n): the pairs as given, and turned."""
    given = [(pair.first, pair.second) for pair in pairs]
    turned = [(second, first) for first, second in given]
    return np.stack([predict(network, words, each, WINDOWS) for each in (given, turned)])


def calibrated(network: Any, words: Words, base: Base, dev: Sequence[Pair]) -> Combination:
    """Weights of logit and cosine whose sum is the log-odds on the development part."""
    cross = both_orders(network, words, dev).mean(axis=0)
    inputs = np.stack([cross, base.cosines([pair[:2] for pair in dev])], axis=1)
    (weight, cosine), bias = logistic_regression(inputs, np.array([pair.label for pair in dev]))
    return Combination(cross=weight, cosine=cosine, bias=bias, order="both_mean")


def duplicate_figures(
    network: Any,
    words: Words,
    base: Base,
    combine: Combination,
    questions: Questions,
    data: Path,
) -> Figures:
    """AUC, AP and recalls of the model and of the cosine alone, for each test set."""
    sets: dict[str, Sequence[Pair]] = {
        "Quora, question-disjoint": questions.test,
        "edited Quora questions": questions.adversaries,
        "hand-written contrasts": read_contrasts(),
        **paraphrase_tests(data / "paraphrase"),
    }
    figures: Figures = {}
    for name, pairs in sets.items():
        cosines = base.cosines([pair[:2] for pair in pairs])
        scores = combine.logits(both_orders(network, words, pairs), cosine=cosines)
        labels = [pair.label for pair in pairs]
        figures[f"{name}: cosine"] = rounded(classification_figures(cosines, labels))
        figures[name] = rounded(classification_figures(scores, labels))
    return figures | {"auc by kind of edit": _by_kind(network, words, base, combine, questions)}


def _by_kind(
    network: Any, words: Words, base: Base, combine: Combination, questions: Questions
) -> dict[str, float]:
    """AUC of each breaking edit against all keeping edits."""
    pairs = questions.adversaries
    cosines = base.cosines([pair[:2] for pair in pairs])
    scores = combine.logits(both_orders(network, words, pairs), cosine=cosines)
    labels = np.array([pair.label for pair in pairs])
    kinds = np.array([pair.kind for pair in pairs])
    breaking = sorted({pair.kind for pair in pairs if not pair.label})
    return {
        kind: round(roc_auc(scores[chosen], labels[chosen]), 4)
        for kind in breaking
        for chosen in [(kinds == kind) | (labels == 1)]
    }


def read_contrasts() -> list[Pair]:
    """The hand-written pairs that lie beside this file."""
    with _CONTRASTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Pair(r["first"], r["second"], float(r["label"]), r["kind"]) for r in rows]


def relevance_figures(
    network: Any, words: Words, base: Base, passages: Passages, data: Path
) -> Figures:
    """nDCG@10 after reranking a first stage, by the model and by the cheap rerankers."""
    sets: dict[str, Sequence[Ranking]] = {
        "TREC DL20, BM25's 100": read_reranking(data / "trec-dl20"),
        "TREC DL21, 15 held-out queries, BM25's 100": passages.held_out["dl21"],
        "SciFact test, BM25's 50": first_stage(data / "scifact", depth=50),
        "Cranfield, BM25's 50": first_stage(data / "cranfield", depth=50),
    }
    return {name: _rerankers(network, words, base, rankings) for name, rankings in sets.items()}


def _rerankers(
    network: Any, words: Words, base: Base, rankings: Sequence[Ranking]
) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for ranking in rankings:
        for name, scores in _scores(network, words, base, ranking).items():
            order = [ranking.ids[i] for i in np.argsort(-scores, kind="stable")]
            found.setdefault(name, []).append(ndcg(order, ranking.judged, 10))
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


def _scores(network: Any, words: Words, base: Base, ranking: Ranking) -> Mapping[str, Floats]:
    cosines, matches = relevance.similarities(base, ranking.query, ranking.passages)
    pairs = [(ranking.query, passage) for passage in ranking.passages]
    cross = predict(network, words, pairs, relevance.READING)
    dense = relevance.COSINE * cosines + relevance.MAXSIM * matches
    return {
        "BM25": -np.arange(len(pairs), dtype=np.float32),
        "cosine": cosines,
        "MaxSim": matches,
        "z-score sum of cosine and MaxSim": _standard(cosines) + _standard(matches),
        "cosine and MaxSim, fixed weights": dense,
        "embedded:relevance": dense + cross,
    }


def _standard(values: Floats) -> Floats:
    return (values - values.mean()) / max(float(values.std()), 1e-6)
