"""What the duplicate card reports: the model beside the cosine, on pairs it was not trained on."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from funnel.models.adapters import Combination
from funnel.training.figures import classification_figures, roc_auc
from recipes.bert import CrossEncoder, TwinEncoder
from recipes.logistic import logistic_regression
from recipes.network import Base, Floats, Words, predict, twin_cosines
from recipes.pairs import Pair
from recipes.questions import HeldOut, paraphrase_tests

Figures = dict[str, dict[str, float]]
_CROSS_WINDOW, _TWIN_WINDOW = 48, 64
CEILING: float | None = 1.0
"""Of the cross-encoder's logit in ``embedded:duplicate``; the README has the figures of others."""
_CONTRASTS = Path(__file__).with_name("contrasts.tsv")


@dataclass(frozen=True)
class Model:
    """What a score is made of: the cross-encoder, the tuned encoder and the base."""

    cross: CrossEncoder
    encoder: TwinEncoder
    words: Words
    base: Base

    def both_orders(self, pairs: Sequence[Pair]) -> Floats:
        """Cross-encoder logits of shape (2, n): the pairs as given, and turned."""
        given = [(pair.first, pair.second) for pair in pairs]
        turned = [(second, first) for first, second in given]
        return np.stack(
            [predict(self.cross, self.words, each, _CROSS_WINDOW) for each in (given, turned)]
        )

    def cosines(self, pairs: Sequence[Pair]) -> Floats:
        """Of the base's vectors, shape (n,)."""
        return self.base.cosines([pair[:2] for pair in pairs])

    def tuned(self, pairs: Sequence[Pair]) -> Floats:
        """Cosines of the tuned encoder's vectors, shape (n,)."""
        texts = [pair[:2] for pair in pairs]
        return twin_cosines(self.encoder, self.words, texts, _TWIN_WINDOW)

    def scores(self, combine: Combination, pairs: Sequence[Pair]) -> Floats:
        """Logits as they are served, shape (n,)."""
        return combine.logits(
            self.both_orders(pairs), cosine=self.cosines(pairs), tuned=self.tuned(pairs)
        )


def calibrated(model: Model, dev: Sequence[Pair]) -> Combination:
    """Weights of the parts whose sum is the log-odds on the development part.

    The base's cosine is none of them. Beside the others Quora's labels give it a weight below zero,
    for they were drawn among questions that look alike; elsewhere that costs precision.
    """
    level = Combination(ceiling=CEILING)
    cross_part = level.capped(model.both_orders(dev).mean(axis=0))
    parts = np.stack([cross_part, model.tuned(dev)], axis=1)
    labels = np.array([pair.label for pair in dev])
    (cross, tuned), bias = logistic_regression(parts, labels)
    return replace(level, cross=cross, tuned=tuned, bias=bias, order="both_mean")


def duplicate_figures(
    model: Model, combine: Combination, questions: HeldOut, data: Path
) -> Figures:
    """AUC, AP and recalls of the model and of the cosines alone, for each test set."""
    sets: dict[str, Sequence[Pair]] = {
        "Quora, question-disjoint": questions.test,
        "Quora, questions of no other pair": questions.alone,
        "Quora at 26% duplicates": thinned(questions.test, 0.26),
        "qqp/dev": questions.shared,
        "edited Quora questions": questions.adversaries,
        "hand-written contrasts": read_contrasts(),
        "written groups, topics held out": questions.written,
        **paraphrase_tests(data / "paraphrase"),
    }
    figures: Figures = {}
    for name, pairs in sets.items():
        labels = [pair.label for pair in pairs]
        ways = {
            f"{name}: cosine": model.cosines(pairs),
            f"{name}: cosine of the tuned encoder": model.tuned(pairs),
            name: model.scores(combine, pairs),
        }
        for way, scores in ways.items():
            figures[way] = _rounded(classification_figures(scores, labels))
    return figures | {
        "auc by kind of edit": _by_kind(model, combine, questions.adversaries),
        "auc by kind of near miss": _by_kind(model, combine, questions.written),
    }


def thinned(pairs: Sequence[Pair], share: float) -> list[Pair]:
    """All negatives, and so many of the duplicates, evenly spread, that they are this share."""
    same = [pair for pair in pairs if pair.label]
    other = [pair for pair in pairs if not pair.label]
    wanted = round(share / (1 - share) * len(other))
    return other + same[:: max(1, len(same) // max(1, wanted))][:wanted]


def _by_kind(model: Model, combine: Combination, pairs: Sequence[Pair]) -> dict[str, float]:
    """AUC of all duplicates against the others of each kind."""
    scores = model.scores(combine, pairs)
    labels = np.array([pair.label for pair in pairs])
    kinds = np.array([pair.kind for pair in pairs])
    others = sorted({pair.kind for pair in pairs if not pair.label})
    return {
        kind: round(roc_auc(scores[chosen], labels[chosen]), 4)
        for kind in others
        for chosen in [(kinds == kind) | (labels == 1)]
    }


def read_contrasts() -> list[Pair]:
    """The hand-written pairs that lie beside this file."""
    with _CONTRASTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Pair(r["first"], r["second"], float(r["label"]), r["kind"]) for r in rows]


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
