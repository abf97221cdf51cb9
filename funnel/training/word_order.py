"""Word-order adversaries: exchange two words so that the sentence still reads well.

PAWS (Zhang, Baldridge and He, 2019) lets a language model choose among swaps of words of the same
class. Here both come from the questions themselves: an interpolated bigram model says how well a
swap reads, and words are of one class when they stand in similar company.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from funnel.training.augment import is_content, pieces, sentence

_EDGE = "<>"
_LINKS = frozenset({"and", "or", "vs", "versus", ",", "&", "/", "-", "between"})
_LANDMARKS = 300


@dataclass(frozen=True)
class Swap:
    """A text with two words exchanged, and how much better it reads (nats; mostly negative)."""

    text: str
    gain: float


class WordOrder:
    """Proposes swaps, learnt from ``texts``. Memory: about 300 floats for each frequent word."""

    def __init__(self, texts: Iterable[str], *, min_count: int = 8) -> None:
        self._words: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        for text in texts:
            words = _words(text)
            self._words.update(words)
            self._pairs.update(pairwise(words))
        self._total = sum(self._words.values())
        self._company = self._describe(min_count)

    def best_swaps(self, text: str, *, count: int = 2, least_alike: float = 0.45) -> list[Swap]:
        """The best-reading swaps of two words of one class, best first.

        Neighbours and conjuncts are left alone: their order rarely carries meaning.
        """
        parts = pieces(text)
        places = [i for i, part in enumerate(parts) if is_content(part)]
        found = [
            Swap(swapped, self._log_likelihood(swapped) - self._log_likelihood(text))
            for left, right in combinations(places, 2)
            if self._exchangeable(parts, left, right, least_alike)
            and (swapped := _exchange(parts, left, right)).lower() != text.lower()
        ]
        return sorted(found, key=lambda swap: -swap.gain)[:count]

    def swap(self, text: str, rng: random.Random, *, least_gain: float = -14.0) -> str | None:
        """One good swap at random, or ``None``."""
        good = [swap for swap in self.best_swaps(text) if swap.gain >= least_gain]
        return rng.choice(good).text if good else None

    def alike(self, one: str, other: str) -> float:
        """Cosine of the company that two words keep; 0 for rare words."""
        left, right = self._company.get(one.lower()), self._company.get(other.lower())
        return float(left @ right) if left is not None and right is not None else 0.0

    def _exchangeable(self, parts: Sequence[str], left: int, right: int, least: float) -> bool:
        one, other = parts[left], parts[right]
        if right - left <= 2 or _stem(one) == _stem(other) or _linked(parts, left, right):
            return False
        names = one[0].isupper() and other[0].isupper() and left > 0
        return names or self.alike(one, other) >= least

    def _log_likelihood(self, text: str) -> float:
        return sum(self._log_step(one, other) for one, other in pairwise(_words(text)))

    def _log_step(self, one: str, other: str) -> float:
        seen = self._pairs[one, other] / max(1, self._words[one])
        base = (self._words[other] + 0.5) / (self._total + 1)
        return math.log(0.85 * seen + 0.15 * base)

    def _describe(self, min_count: int) -> dict[str, NDArray[np.float32]]:
        landmarks = [word for word, _ in self._words.most_common(_LANDMARKS)]
        column = {word: index for index, word in enumerate(landmarks)}
        frequent = [word for word, count in self._words.items() if count >= min_count]
        row = {word: index for index, word in enumerate(frequent)}
        table = np.zeros((len(frequent), 2 * len(landmarks)), dtype=np.float32)
        for (one, other), count in self._pairs.items():
            if one in row and other in column:
                table[row[one], column[other]] += count
            if other in row and one in column:
                table[row[other], len(landmarks) + column[one]] += count
        table = np.sqrt(table)
        table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-6)
        return dict(zip(frequent, table, strict=True))


def _words(text: str) -> list[str]:
    return [_EDGE, *(part.lower() for part in pieces(text) if not part.isspace()), _EDGE]


def _stem(word: str) -> str:
    return re.sub(r"(?:'s|ies|es|s|ed|ing|ly)$", "", word.lower())


def _linked(parts: Sequence[str], left: int, right: int) -> bool:
    """Whether only linking words and marks stand between: an order without meaning."""
    between = [part.lower() for part in parts[left + 1 : right] if not part.isspace()]
    return bool(between) and any(part in _LINKS for part in between) and len(between) <= 3


def _exchange(parts: Sequence[str], left: int, right: int) -> str:
    changed = list(parts)
    one, other = changed[left], changed[right]
    if left == 0 and one.istitle() and one.lower() != one:
        one = one[0].lower() + one[1:]
    changed[left], changed[right] = other, one
    return sentence("".join(changed))
