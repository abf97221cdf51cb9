"""``embedded:duplicate``: do two questions ask the same?

A residual over the base's cosine, trained with binary cross-entropy on the sum of both logits.
Label noise: labels are smoothed, and when a pair comes round again, its target moves a quarter of
the way to what the model said before it was first trained on it.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from funnel.training.figures import classification_figures, rounded
from recipes.logistic import logistic_regression
from recipes.network import Base, Windows, Words, cross_logits, fresh_cross_encoder, predict
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


class PairBatches:
    """Batches of similar length, for ever; later rounds leave most of the easy pairs out."""

    def __init__(self, pairs: Sequence[Pair], rng: random.Random) -> None:
        self._pairs, self._rng = pairs, rng
        self._labels = np.array([pair.label for pair in pairs], dtype=np.float32)
        self.first_logits: NDArray[np.float32] = np.full(len(pairs), np.nan, dtype=np.float32)

    def __iter__(self) -> Iterator[list[int]]:
        """Positions of pairs."""
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


def train_duplicate(
    questions: Questions, base_path: Path, words: Words, base: Base, schedule: Schedule, out: Path
) -> tuple[Any, float, int]:
    """The trained network, the weight of the cosine beside it, and the steps taken."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    weight, bias = cosine_logit(questions.train, base)
    network = fresh_cross_encoder(base_path, frozen_layers=0)
    pairs, batches = questions.train, PairBatches(questions.train, rng)

    def loss_of(batch: list[int]) -> torch.Tensor:
        sides = [pairs[i][:2] if rng.random() < 0.5 else pairs[i][1::-1] for i in batch]
        cosines = torch.from_numpy(base.cosines([pairs[i][:2] for i in batch]))
        logits = cross_logits(network, words, sides, WINDOWS) + weight * cosines + bias
        targets = batches.targets(batch, logits)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)

    def check() -> None:
        part = questions.dev
        scores = predict(network, words, [pair[:2] for pair in part], WINDOWS)
        scores += weight * base.cosines([pair[:2] for pair in part])
        labels = [pair.label for pair in part]
        _log.info("dev", **rounded(classification_figures(scores, labels), 3))

    steps = train(network, iter(batches), loss_of, schedule, check=check, checkpoint=out)
    return network, weight, steps


def cosine_logit(pairs: Sequence[Pair], base: Base, count: int = 2000) -> tuple[float, float]:
    """Weight and bias of a logistic regression of real labels on the cosine."""
    real = [pair for pair in pairs if pair.kind == "real"][:count]
    cosines = base.cosines([pair[:2] for pair in real])
    (weight,), bias = logistic_regression(cosines[:, None], [pair.label for pair in real])
    return weight, bias
