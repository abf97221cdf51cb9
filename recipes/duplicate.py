"""``embedded:duplicate``: do two questions ask the same?

A residual over the base's cosine, trained with binary cross-entropy on the sum of both logits.
Label noise: labels are smoothed, and when a pair comes round again, its target moves a quarter of
the way to what the model said before it was first trained on it.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import structlog
import torch

from funnel.training.figures import classification_figures
from recipes.bert import CrossEncoder
from recipes.logistic import logistic_regression
from recipes.network import Base, Floats, Windows, Words, cross_logits, predict
from recipes.pairs import Pair, within_caps
from recipes.questions import Questions
from recipes.schedule import Schedule, train

_log = structlog.get_logger(__name__)
SEED = 5
WINDOWS = Windows(first=48, second=48)
BATCH = 64
_SMOOTHING = (0.97, 0.01)
_OWN_OPINION = 0.25
_EASY, _KEPT_EASY = 0.04, 0.2
_PLAIN_NEGATIVE, _LEFT_OUT = -3.2, 0.75
LATER_ROUNDS = {
    "extra": 20_000, "transitive": 6_000, "one word apart": 6_000, "swap": 9_000, "name": 5_000,
    "antonym": 4_000, "number": 2_500, "negation": 1_500, "clause": 3_500, "conjunct": 4_000,
    "surface": 4_000, "same sentence": 3_000, "mrpc": 1_500, "stsb": 3_000,
}  # fmt: skip
"""Most pairs of a kind in a round after the first; kinds that are not named enter whole."""
MOSTLY_WRITTEN = LATER_ROUNDS | {
    "real": 50_000, "overlap": 6_000, "extra": 8_000, "transitive": 4_000,
    "transitive negative": 6_000, "one word apart": 4_000, "swap": 6_000, "clause": 3_000,
    "surface": 2_000, "same sentence": 2_000, "stsb": 1_500, "mrpc": 800,
}  # fmt: skip
"""The same for a run that is to learn the written groups."""


class PairBatches:
    """Batches of similar length, for ever, and the targets that go with them.

    The first round takes all pairs (unless ``later``), later rounds mostly real ones. ``base`` is
    given the texts of many batches at once to embed, which is faster than batch by batch.
    """

    def __init__(
        self, pairs: Sequence[Pair], words: Words, base: Base, rng: random.Random, later: bool,
        caps: Mapping[str, int] = LATER_ROUNDS,
    ) -> None:  # fmt: skip
        self._pairs, self._words, self._base, self._rng = pairs, words, base, rng
        self._later, self._caps = later, caps
        self._labels = np.array([pair.label for pair in pairs], dtype=np.float32)
        self.first_logits: Floats = np.full(len(pairs), np.nan, dtype=np.float32)

    def __iter__(self) -> Iterator[list[int]]:
        """Positions of pairs; later rounds leave most of the easy ones out."""
        order = list(range(len(self._pairs)))
        if self._later:
            order = within_caps(self._pairs, self._caps, self._rng, order)
        while True:
            self._rng.shuffle(order)
            for start in range(0, len(order), BATCH * 40):
                yield from self._chunk(order[start : start + BATCH * 40])
            order = within_caps(self._pairs, self._caps, self._rng, self._still_hard())

    def _chunk(self, positions: list[int]) -> Iterator[list[int]]:
        self._base.cosines([self._pairs[i][:2] for i in positions])
        ordered = sorted(positions, key=self._length)
        batches = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
        self._rng.shuffle(batches)
        yield from batches

    def _length(self, position: int) -> int:
        first, second = self._pairs[position][:2]
        return len(self._words.pair(first, second, WINDOWS)[0])

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
    """Trains the residual: one round over all kinds of pairs, then rounds of mostly real ones."""

    def __init__(
        self, network: CrossEncoder, questions: Questions, words: Words, base: Base
    ) -> None:
        self.network = network
        self._questions, self._words, self._base = questions, words, base
        self._rng = random.Random(SEED)  # noqa: S311  # sampling
        self._weight, self._bias = cosine_logit(questions.train, base)

    def run(
        self, schedule: Schedule, checkpoint: Path, *, later: bool,
        caps: Mapping[str, int] = LATER_ROUNDS,
    ) -> int:  # fmt: skip
        """Train until the schedule ends, from a later round on or the first; returns the steps."""
        pairs = self._questions.train
        batches = PairBatches(pairs, self._words, self._base, self._rng, later, caps)

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


def cosine_logit(pairs: Sequence[Pair], base: Base, count: int = 2000) -> tuple[float, float]:
    """Weight and bias of a logistic regression of real labels on the cosine."""
    real = [pair for pair in pairs if pair.kind == "real"][:count]
    cosines = base.cosines([pair[:2] for pair in real])
    (weight,), bias = logistic_regression(cosines[:, None], [pair.label for pair in real])
    return weight, bias
