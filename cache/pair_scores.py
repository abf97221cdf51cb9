"""Verifier scores of pairs in bulk, for replay and calibration: each pair once, in big batches."""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from funnel.cache.decision import in_orders, lower_of_orders
from funnel.cache.verifier import is_symmetric
from funnel.deadline import Deadline
from funnel.models.base import ScoredPairs, Scorer, TextPair

Progress = Callable[[int, int], None]
_BATCH = 2_048


class PairScores:
    """The lower of both orders for pairs of texts, remembered.

    Scores come from the same model as when serving; the batching is other, which moves a score by
    less than rounding of the model's precision. As there, a pair that the model cannot read to its
    end has none: NaN.
    """

    def __init__(self, scorer: Scorer, progress: Progress | None = None) -> None:
        self._scorer = scorer
        self._progress = progress
        self._known: dict[TextPair, float] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, first: str, second: str) -> float | None:
        """The score if it is known; NaN where there is none."""
        return self._known.get(_ordered(first, second))

    def values(self) -> list[float]:
        """All scores so far."""
        return list(self._known.values())

    def learn(self, pairs: Iterable[TextPair]) -> None:
        """Score what is not known yet."""
        wanted = {_ordered(*pair) for pair in pairs} - self._known.keys()
        ordered = sorted(wanted, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            self._known.update(zip(batch, self._score(batch), strict=True))
            if self._progress is not None:
                self._progress(min(start + _BATCH, len(ordered)), len(ordered))

    def _score(self, batch: Sequence[TextPair]) -> list[float]:
        symmetric = is_symmetric(self._scorer)
        values = self._values(in_orders(batch, symmetric=symmetric))
        return lower_of_orders(values, symmetric=symmetric)

    def _values(self, pairs: Sequence[TextPair]) -> list[float]:
        """Scores in the pairs' order; the halves again where one of them was cut."""
        with ThreadPoolExecutor(1) as apart:  # the caller's thread may have a loop of its own
            scored = apart.submit(asyncio.run, self._scored(pairs)).result()
        if not scored.truncated:
            return [float(value) for value in scored.values]
        if len(pairs) == 1:
            return [math.nan]
        middle = len(pairs) // 2
        return [*self._values(pairs[:middle]), *self._values(pairs[middle:])]

    async def _scored(self, pairs: Sequence[TextPair]) -> ScoredPairs:
        return await self._scorer.ascore(pairs, deadline=Deadline())


def _ordered(first: str, second: str) -> TextPair:
    return (first, second) if first <= second else (second, first)
