"""Pairs of texts, and the clusters that pairs link texts into."""

import re
from collections import Counter
from typing import NamedTuple


class Pair(NamedTuple):
    """Two texts, the probability that they ask the same, and where the pair comes from."""

    first: str
    second: str
    label: float
    kind: str


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
