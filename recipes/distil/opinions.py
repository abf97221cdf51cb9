"""What the teachers say of pairs, and what that makes the students learn.

A teacher's opinion is weighed with three cosines by logistic regression on the development part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.distil.batches import Ints
from recipes.distil.losses import smoothed
from recipes.distil.mining import Mined
from recipes.distil.networks import Cross
from recipes.distil.prepared import FOLDS, Flags, Floats, Part
from recipes.distil.reading import both_orders, cosines, cross_logits
from recipes.distil.report import Report
from recipes.distil.setting import Setting
from recipes.distil.teachers import taught_cross

Weights = NDArray[np.float64]
DEVELOPMENT: Final = "dev"
_NOISY = frozenset({
    "real", "extra", "transitive", "transitive negative", "overlap", "mrpc", "stsb", "intent",
    "intents", "one word apart",
})  # fmt: skip
"""Kinds of pairs whose labels may well be wrong: an opinion counts as much as the label there."""
_SHARE, _SHARE_NOISY = 0.15, 0.5
_SURE, _NOT_DENIED = 0.8, 0.3
_PLAIN, _KEPT_PLAIN = 0.02, 0.4
_MINED_SHARE = 1.3
_STEPS = 25
_RIDGE = 1e-4


@dataclass(frozen=True)
class Spaces:
    """Vectors of all texts: the large encoder tuned and as it was, and the student's base."""

    tuned: Tensor
    large: Tensor
    base: Tensor

    def cosines(self, first: Ints, second: Ints) -> list[Floats]:
        """By each of them, shape (n,)."""
        return [cosines(space, first, second) for space in (self.tuned, self.large, self.base)]


@dataclass(frozen=True)
class Opinions:
    """Logits of the cross-encoders.

    Attributes:
        train: of each training pair, by the one that did not see its first side's fold.
        mined: of each mined pair, means of the two that read it.
        held_out: of each part, (folds, pairs), means of both orders.
    """

    train: Floats
    mined: Floats
    held_out: dict[str, Floats]


@dataclass(frozen=True)
class Taught:
    """Pairs and the probabilities that a student is to give them.

    Attributes:
        first: numbers of the first sides.
        second: numbers of the second sides.
        targets: the probabilities.
        sure: which pairs are surely duplicates.
        mined: which pairs only the teachers labelled.
    """

    first: Ints
    second: Ints
    targets: Floats
    sure: Flags
    mined: Flags

    def round(self, rng: np.random.Generator) -> Ints:
        """All labelled pairs, and some of the mined: few of those that are plainly different."""
        labelled, others = np.flatnonzero(~self.mined), np.flatnonzero(self.mined)
        plain = self.targets[others] < _PLAIN
        others = others[~plain | (rng.random(len(others)) < _KEPT_PLAIN)]
        most = int(_MINED_SHARE * len(labelled))
        return np.concatenate([labelled, rng.permutation(others)[:most]])


def ask_teachers(setting: Setting, mined: Mined, report: Report) -> Opinions:
    """Train one cross-encoder after another and let each read what it may."""
    train, folds = setting.data.train, setting.data.folds
    said = np.zeros(len(train), dtype=np.float32)
    of_mined = np.zeros(len(mined.first), dtype=np.float32)
    held_out = []
    for fold in range(FOLDS):
        network = taught_cross(setting, fold)
        held_out.append(report.show(f"teacher {fold}", _reader(setting, network)))
        own = np.flatnonzero(folds[:, 0] == fold)
        said[own] = _read(setting, network, train, own)
        mine = np.flatnonzero(np.arange(len(of_mined)) % FOLDS != fold)
        of_mined[mine] += _read(setting, network, mined, mine) / (FOLDS - 1)
        setting.log("labelled", teacher=fold, pairs=len(own), mined=len(mine))
    stacked = {name: np.stack([each[name] for each in held_out]) for name in held_out[0]}
    return Opinions(said, of_mined, stacked)


def _reader(setting: Setting, network: Cross) -> Callable[[str, Part], Floats]:
    return lambda _, part: both_orders(network, setting.texts, part, setting.device)


def _read(setting: Setting, network: Cross, pairs: Part | Mined, chosen: Ints) -> Floats:
    first, second = pairs.first[chosen], pairs.second[chosen]
    return cross_logits(network, setting.texts, first, second, setting.device)


def weighed_in(
    setting: Setting, mined: Mined, opinions: Opinions, spaces: Spaces, report: Report
) -> Taught:
    """Targets: opinions for mined pairs, something between label and opinion for labelled ones."""
    train = setting.data.train
    together, alone = _fitted(setting, opinions, spaces)
    _show_all(opinions, spaces, together, report)
    of_mined = chances(log_odds([opinions.mined, *spaces.cosines(*mined)], together))
    # Without the tuned cosine, which has learnt from these labels.
    untuned = spaces.cosines(train.first, train.second)[1:]
    of_labelled = chances(log_odds([opinions.train, *untuned], alone))
    setting.log("targets of mined pairs", mean=round(float(of_mined.mean()), 3))
    sure = (train.labels >= _SURE) & (of_labelled > _NOT_DENIED)
    return Taught(
        np.concatenate([train.first, mined.first]),
        np.concatenate([train.second, mined.second]),
        np.concatenate([_between(setting, of_labelled), of_mined]).astype(np.float32),
        np.concatenate([sure, of_mined > _SURE]),
        np.arange(len(train) + len(of_mined)) >= len(train),
    )


def _fitted(setting: Setting, opinions: Opinions, spaces: Spaces) -> tuple[Weights, Weights]:
    """Weights on the development part: of all teachers with three cosines, of one with two."""
    dev, said = setting.data.parts[DEVELOPMENT], opinions.held_out[DEVELOPMENT]
    found = spaces.cosines(dev.first, dev.second)
    together = logistic([said.mean(0), *found], dev.labels)
    alone = logistic([said[0], *found[1:]], dev.labels)
    setting.log("weights", together=together.round(2).tolist(), alone=alone.round(2).tolist())
    return together, alone


def _between(setting: Setting, opinion: Floats) -> Floats:
    """Something between the labels and what a teacher that never saw them thinks."""
    share = np.where(setting.data.of_kinds(_NOISY), _SHARE_NOISY, _SHARE)
    labels = smoothed(torch.from_numpy(setting.data.train.labels)).numpy()
    return np.asarray((1 - share) * labels + share * opinion, dtype=np.float32)


def _show_all(opinions: Opinions, spaces: Spaces, weights: Weights, report: Report) -> None:
    def scores(name: str, part: Part) -> Floats:
        logits = opinions.held_out[name].mean(0)
        return log_odds([logits, *spaces.cosines(part.first, part.second)], weights)

    report.show("all teachers", scores)


def logistic(features: Sequence[Floats], labels: Floats) -> Weights:
    """Weights and, last, the bias of a logistic regression, by Newton's method."""
    design = _design(features)
    solution = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ solution, -30, 30)))
        curvature = design.T @ (design * (chance * (1 - chance))[:, None])
        curvature += _RIDGE * np.eye(len(solution))
        gradient = design.T @ (labels - chance) - _RIDGE * solution
        solution += np.linalg.solve(curvature, gradient)
    return solution


def log_odds(features: Sequence[Floats], weights: Weights) -> Floats:
    """The weighted sum, shape (n,)."""
    return np.asarray(_design(features) @ weights, dtype=np.float32)


def chances(logits: Floats) -> Floats:
    """Probabilities of logits."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), dtype=np.float32)


def _design(features: Sequence[Floats]) -> NDArray[np.float64]:
    return np.column_stack([*features, np.ones(len(features[0]))]).astype(np.float64)
