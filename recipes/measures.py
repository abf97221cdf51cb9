"""What the duplicate card reports: the model beside the cosine, on pairs it was not trained on."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from funnel.models.adapters import Combination
from funnel.models.base import TextPair
from funnel.models.pair_models import CombinedPairs, PairParts
from funnel.training.figures import classification_figures, roc_auc
from recipes.logistic import logistic_regression
from recipes.pairs import Pair
from recipes.questions import HeldOut, paraphrase_tests

Floats = NDArray[np.float32]
Figures = dict[str, dict[str, float]]
ALL_PARTS: Final = Combination(cross=1.0, cosine=1.0, tuned=1.0, order="both_mean")
"""A score in which every part of ``embedded:duplicate`` has a weight, so that each is computed."""
LEVELS: Final = replace(ALL_PARTS, ceiling=-4.6, slope=8.0, cosine=2.0)
"""Where its cross-encoder's logit levels off (at 3 for a tuned cosine of .95, at 1 for .7), and
the weight of the base's cosine; the README has the figures of others."""
_HERE = Path(__file__).parent
_AT_ONCE = 256


class Model:
    """What each part of a score says of pairs, read as it is when served; each pair once."""

    def __init__(self, pairs: CombinedPairs) -> None:
        self._pairs = pairs
        self._known: dict[TextPair, Floats] = {}

    def parts(self, pairs: Sequence[Pair]) -> PairParts:
        """Logits of shape (2, n), cosines of the base and of the tuned encoder of shape (n,)."""
        self._read({pair[:2] for pair in pairs} - self._known.keys())
        first, second, cosine, tuned = np.stack([self._known[pair[:2]] for pair in pairs], axis=1)
        return PairParts(np.stack([first, second]), cosine, None, tuned)

    def _read(self, new: Iterable[TextPair]) -> None:
        in_order = sorted(new, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        for start in range(0, len(in_order), _AT_ONCE):
            some = in_order[start:][:_AT_ONCE]
            parts = self._pairs.parts(self._pairs.prepare(some))
            both, cosine, tuned = map(np.asarray, (parts.cross, parts.cosine, parts.tuned))
            rows = np.stack([*both, cosine, tuned], axis=1)
            self._known |= dict(zip(some, rows.astype(np.float32), strict=True))


def scores(combine: Combination, parts: PairParts) -> Floats:
    """Logits as they are served, shape (n,)."""
    return combine.logits(parts.cross, cosine=parts.cosine, tuned=parts.tuned)


def calibrated(parts: PairParts, labels: Sequence[float]) -> Combination:
    """Weights of the parts whose sum is the log-odds on the development part.

    That of the base's cosine is given: the development part is too small for it (-1.0, with a
    standard error of .8), and Quora's other pairs disagree. Among a cache's candidates, the
    nearest earlier questions of a stream, it deserves one well above zero.
    """
    both, cosine, tuned = (np.asarray(part) for part in (parts.cross, parts.cosine, parts.tuned))
    levelled = LEVELS.levelled(both.mean(axis=0), tuned)
    known = LEVELS.cosine * cosine
    (cross, weight), bias = logistic_regression(np.stack([levelled, tuned], axis=1), labels, known)
    return replace(LEVELS, cross=cross, tuned=weight, bias=bias)


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
        "in the manner of PAWS-QQP, written": _read_written("word-order.tsv"),
        "medical questions, written": _read_written("medical.tsv"),
        "written groups, topics held out": questions.written,
        **paraphrase_tests(data / "paraphrase"),
    }
    figures: Figures = {}
    for name, pairs in sets.items():
        parts, labels = model.parts(pairs), [pair.label for pair in pairs]
        ways = {
            f"{name}: cosine": parts.cosine,
            f"{name}: cosine of the tuned encoder": parts.tuned,
            name: scores(combine, parts),
        }
        for way, values in ways.items():
            figures[way] = _rounded(classification_figures(np.asarray(values), labels))
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
    found = scores(combine, model.parts(pairs))
    labels = np.array([pair.label for pair in pairs])
    kinds = np.array([pair.kind for pair in pairs])
    others = sorted({pair.kind for pair in pairs if not pair.label})
    return {
        kind: round(roc_auc(found[chosen], labels[chosen]), 4)
        for kind in others
        for chosen in [(kinds == kind) | (labels == 1)]
    }


def read_contrasts() -> list[Pair]:
    """Hand-written pairs that differ in one thing."""
    return _read_written("contrasts.tsv")


def _read_written(name: str) -> list[Pair]:
    """Pairs that lie beside this file."""
    with (_HERE / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Pair(r["first"], r["second"], float(r["label"]), r["kind"]) for r in rows]


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
