"""``embedded:duplicate``: do two questions ask the same?

A residual over the base's cosine, trained with binary cross-entropy on the sum of both logits.
Label noise: labels are smoothed, and when a pair comes round again, its target moves a quarter of
the way to what the model said before it was first trained on it.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch

from funnel.training.figures import classification_figures
from recipes.logistic import logistic_regression
from recipes.network import Base, Floats, Windows, Words, cross_logits, fresh_cross_encoder, predict
from recipes.questions import Pair, Questions
from recipes.schedule import Schedule, train

_log = structlog.get_logger(__name__)
SEED = 5
WINDOWS = Windows(first=48, second=48)
BATCH = 64
RATE, WARMUP = 1.2e-4, 150
_SMOOTHING = (0.97, 0.01)
_OWN_OPINION = 0.25
_EASY, _KEPT_EASY = 0.04, 0.2
_PLAIN_NEGATIVE, _LEFT_OUT = -3.2, 0.75
FIRST_STEPS = 600
SECOND_RATE, SECOND_WARMUP = 9e-5, 60
SECOND_SEEDS = (5, 15)
SECOND_PART = {
    "extra": 16_000, "transitive": 5_000, "one word apart": 4_500, "swap": 7_000, "name": 4_000,
    "antonym": 3_000, "number": 2_000, "negation": 1_500, "clause": 2_500, "conjunct": 3_500,
    "surface": 5_000, "mrpc": 1_500, "stsb": 3_000,
}  # fmt: skip
"""Most pairs of a kind in the second part; kinds that are not named enter whole."""


class PairBatches:
    """Batches of similar length, for ever, and the targets that go with them."""

    def __init__(self, pairs: Sequence[Pair], rng: random.Random) -> None:
        self._pairs, self._rng = pairs, rng
        self._labels = np.array([pair.label for pair in pairs], dtype=np.float32)
        self.first_logits: Floats = np.full(len(pairs), np.nan, dtype=np.float32)

    def __iter__(self) -> Iterator[list[int]]:
        """Positions of pairs; later rounds leave most of the easy ones out."""
        order = list(range(len(self._pairs)))
        while True:
            self._rng.shuffle(order)
            for start in range(0, len(order), BATCH * 40):
                yield from self._chunk(order[start : start + BATCH * 40])
            order = self._still_hard()

    def _chunk(self, positions: list[int]) -> Iterator[list[int]]:
        ordered = sorted(positions, key=lambda i: len("".join(self._pairs[i][:2])))
        batches = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
        self._rng.shuffle(batches)
        yield from batches

    def _still_hard(self) -> list[int]:
        error = np.abs(1 / (1 + np.exp(-self.first_logits)) - self._labels)
        return [i for i, e in enumerate(error) if e >= _EASY or self._rng.random() < _KEPT_EASY]

    def targets(self, batch: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        """Smoothed labels; remembers the first opinion of every pair and weighs it in later."""
        first = self.first_logits[batch]
        new = np.isnan(first)
        self.first_logits[batch] = np.where(new, logits.detach().numpy(), first)
        scale, floor = _SMOOTHING
        labels = torch.from_numpy(self._labels[batch]) * scale + floor
        share = torch.from_numpy(np.where(new, 0, _OWN_OPINION).astype(np.float32))
        opinion = torch.sigmoid(torch.from_numpy(np.where(new, 0, first).astype(np.float32)))
        return (1 - share) * labels + share * opinion


class Trainer:
    """Trains in two parts: all kinds of pairs, then mostly real ones, without those seen.

    The second part runs once for every seed of ``SECOND_SEEDS`` from the same start, and the
    weights are averaged: models that part late lie in one valley, and their mean beats each
    (Wortsman et al. 2022, "Model soups").
    """

    def __init__(self, questions: Questions, path: Path, words: Words, base: Base) -> None:
        torch.manual_seed(SEED)
        self._questions, self._words, self._base = questions, words, base
        self._rng = random.Random(SEED)  # noqa: S311  # sampling
        self._weight, self._bias = cosine_logit(questions.train, base)
        self.network = fresh_cross_encoder(path, frozen_layers=0)

    def run(self, first: Schedule, second: Schedule, checkpoint: Path) -> int:
        """Train through both parts; returns the steps taken."""
        seen = PairBatches(self._questions.train, self._rng)
        steps = self._part(seen, self._questions.train, first, checkpoint)
        unseen = [
            pair
            for pair, logit in zip(self._questions.train, seen.first_logits, strict=True)
            if np.isnan(logit)
        ]
        start, ends = copied(self.network), []
        for seed in SECOND_SEEDS:
            self.network.load_state_dict(start)
            self._rng = random.Random(seed)  # noqa: S311  # sampling
            pairs = self._mostly_real(unseen)
            steps += self._part(PairBatches(pairs, self._rng), pairs, second, checkpoint)
            ends.append(copied(self.network))
        self.network.load_state_dict(averaged(ends))
        return steps

    def _mostly_real(self, pairs: Sequence[Pair]) -> list[Pair]:
        counts: Counter[str] = Counter()
        kept = []
        for pair in self._rng.sample(list(pairs), len(pairs)):
            counts[pair.kind] += 1
            if counts[pair.kind] <= SECOND_PART.get(pair.kind, len(pairs)):
                kept.append(pair)
        return kept

    def _part(
        self, batches: PairBatches, pairs: Sequence[Pair], schedule: Schedule, checkpoint: Path
    ) -> int:
        def loss_of(batch: list[int]) -> torch.Tensor:
            return self._loss(batches, pairs, batch)

        return train(
            self.network, iter(batches), loss_of, schedule, check=self._check, checkpoint=checkpoint
        )

    def _loss(self, batches: PairBatches, pairs: Sequence[Pair], batch: list[int]) -> torch.Tensor:
        prior = self._weight * self._base.cosines([pairs[i][:2] for i in batch]) + self._bias
        worth = [k for k, i in enumerate(batch) if not self._is_easy(pairs[i], prior[k])]
        batch, prior = [batch[k] for k in worth], prior[worth]
        sides = [pairs[i][:2] if self._rng.random() < 0.5 else pairs[i][1::-1] for i in batch]
        logits = cross_logits(self.network, self._words, sides, WINDOWS) + torch.from_numpy(prior)
        targets = batches.targets(batch, logits)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)

    def _is_easy(self, pair: Pair, prior: float) -> bool:
        """Most of the real negatives that the cosine already tells apart are left out."""
        plain = not pair.label and pair.kind in {"real", "transitive negative"}
        return plain and prior < _PLAIN_NEGATIVE and self._rng.random() < _LEFT_OUT

    def _check(self) -> None:
        sides = [pair[:2] for pair in self._questions.dev]
        scores = predict(self.network, self._words, sides, WINDOWS)
        scores += self._weight * self._base.cosines(sides)
        labels = [pair.label for pair in self._questions.dev]
        figures = classification_figures(scores, labels)
        _log.info("dev", **{name: round(value, 3) for name, value in figures.items()})


def copied(network: Any) -> dict[str, torch.Tensor]:
    """The weights as they are now."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def averaged(weights: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of several networks' weights."""
    return {name: torch.stack([each[name] for each in weights]).mean(0) for name in weights[0]}


def cosine_logit(pairs: Sequence[Pair], base: Base, count: int = 2000) -> tuple[float, float]:
    """Weight and bias of a logistic regression of real labels on the cosine."""
    real = [pair for pair in pairs if pair.kind == "real"][:count]
    cosines = base.cosines([pair[:2] for pair in real])
    (weight,), bias = logistic_regression(cosines[:, None], [pair.label for pair in real])
    return weight, bias
