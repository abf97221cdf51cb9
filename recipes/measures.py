"""What the duplicate card reports: the model beside the cosine, on pairs it was not trained on."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from funnel.models.adapters import Combination
from funnel.training.figures import classification_figures, roc_auc
from recipes.cross import CrossEncoder
from recipes.duplicate import WINDOWS
from recipes.logistic import logistic_regression
from recipes.network import Base, Floats, Words, predict
from recipes.pairs import Pair
from recipes.questions import Questions, paraphrase_tests

Figures = dict[str, dict[str, float]]
_CONTRASTS = Path(__file__).with_name("contrasts.tsv")


def both_orders(network: CrossEncoder, words: Words, pairs: Sequence[Pair]) -> Floats:
    """Cross-encoder logits of shape (2, n): the pairs as given, and turned."""
    given = [(pair.first, pair.second) for pair in pairs]
    turned = [(second, first) for first, second in given]
    return np.stack([predict(network, words, each, WINDOWS) for each in (given, turned)])


def calibrated(network: CrossEncoder, words: Words, base: Base, dev: Sequence[Pair]) -> Combination:
    """Weights of logit and cosine whose sum is the log-odds on the development part."""
    cross = both_orders(network, words, dev).mean(axis=0)
    inputs = np.stack([cross, base.cosines([pair[:2] for pair in dev])], axis=1)
    (weight, cosine), bias = logistic_regression(inputs, np.array([pair.label for pair in dev]))
    return Combination(cross=weight, cosine=cosine, bias=bias, order="both_mean")


def duplicate_figures(
    network: CrossEncoder,
    words: Words,
    base: Base,
    combine: Combination,
    questions: Questions,
    data: Path,
) -> Figures:
    """AUC, AP and recalls of the model and of the cosine alone, for each test set."""
    sets: dict[str, Sequence[Pair]] = {
        "Quora, question-disjoint": questions.test,
        "Quora at 26% duplicates": thinned(questions.test, 0.26),
        "qqp/dev": questions.shared,
        "edited Quora questions": questions.adversaries,
        "hand-written contrasts": read_contrasts(),
        **paraphrase_tests(data / "paraphrase"),
    }
    figures: Figures = {}
    for name, pairs in sets.items():
        cosines = base.cosines([pair[:2] for pair in pairs])
        scores = combine.logits(both_orders(network, words, pairs), cosine=cosines)
        labels = [pair.label for pair in pairs]
        figures[f"{name}: cosine"] = _rounded(classification_figures(cosines, labels))
        figures[name] = _rounded(classification_figures(scores, labels))
    return figures | {"auc by kind of edit": _by_kind(network, words, base, combine, questions)}


def thinned(pairs: Sequence[Pair], share: float) -> list[Pair]:
    """All negatives, and so many of the duplicates, evenly spread, that they are this share."""
    same = [pair for pair in pairs if pair.label]
    other = [pair for pair in pairs if not pair.label]
    wanted = round(share / (1 - share) * len(other))
    return other + same[:: max(1, len(same) // max(1, wanted))][:wanted]


def _by_kind(
    network: CrossEncoder, words: Words, base: Base, combine: Combination, questions: Questions
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


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
