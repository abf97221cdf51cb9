"""Pairs of texts, and the clusters that pairs link texts into."""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Pair(NamedTuple):
    """Two texts, the probability that they ask the same, and where the pair comes from."""

    first: str
    second: str
    label: float
    kind: str


def within_caps(
    pairs: Sequence[Pair],
    caps: Mapping[str, int],
    rng: random.Random,
    positions: Sequence[int] | None = None,
) -> list[int]:
    """Positions (all by default) in a random order, of each kind no more than its cap."""
    positions = range(len(pairs)) if positions is None else positions
    counts: Counter[str] = Counter()
    kept = []
    for i in rng.sample(positions, len(positions)):
        kind = pairs[i].kind
        counts[kind] += 1
        if counts[kind] <= caps.get(kind, len(pairs)):
            kept.append(i)
    return kept


class Clusters:
    """Disjoint sets of folded questions."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, item: str) -> str:
        """The item that stands for the set of ``item``."""
        parent = self._parent
        while parent.setdefault(item, item) != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, left: str, right: str) -> None:
        """Make two sets one."""
        self._parent[self.find(left)] = self.find(right)


def fold(text: str) -> str:
    """Case, punctuation and spacing aside."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def overlap(first: str, second: str) -> float:
    """Share of the longer text's words that the other has, too, from 0 to 1."""
    left, right = (Counter(fold(text).split()) for text in (first, second))
    return (left & right).total() / max(1, left.total(), right.total())
