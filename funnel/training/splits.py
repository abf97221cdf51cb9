"""Split examples into training and development parts that share no query."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

Row = TypeVar("Row")


def split_by_group(
    rows: Sequence[Row],
    keys: Callable[[Row], Iterable[Hashable]],
    *,
    share: float,
    seed: int,
    kind: Callable[[Row], Hashable] | None = None,
) -> tuple[list[Row], list[Row]]:
    """Return (train, dev) such that no key of a dev row occurs in train.

    Rows that share a key are joined into groups (union-find); shuffled groups go to dev until it
    holds about ``share`` of the rows. A group bigger than what is still wanted stays in train.
    So does one without which train would no longer hold two kinds of rows (classes, scores),
    where ``kind`` tells a row's.
    """
    wanted = round(share * len(rows))
    groups = joined(rows, keys)
    random.Random(seed).shuffle(groups)
    kinds = _Kinds([kind(row) for row in rows] if kind else [])
    dev: set[int] = set()
    for group in groups:
        if len(dev) + len(group) <= wanted and kinds.spare(group):
            dev.update(group)
            kinds.take(group)
    train = [row for index, row in enumerate(rows) if index not in dev]
    return train, [rows[index] for index in sorted(dev)]


def joined(rows: Sequence[Row], keys: Callable[[Row], Iterable[Hashable]]) -> list[list[int]]:
    """Positions of ``rows`` in groups: rows that share a key, be it through others (union-find)."""
    parents = list(range(len(rows)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    first_with: dict[Hashable, int] = {}
    for index, row in enumerate(rows):
        for key in keys(row):
            parents[root(index)] = root(first_with.setdefault(key, index))
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(rows)):
        members[root(index)].append(index)
    return list(members.values())


class _Kinds:
    """How many rows of each kind are left in train; of none, if no kinds are told."""

    def __init__(self, kinds: Sequence[Hashable]) -> None:
        self._kinds = kinds
        self._left = Counter(kinds)
        self._least = min(2, len(self._left))

    def spare(self, group: Sequence[int]) -> bool:
        """Whether train without ``group`` still tells two kinds apart, if it ever could."""
        lost = sum(self._left[kind] == count for kind, count in self._counts(group).items())
        return len(self._left) - lost >= self._least

    def take(self, group: Sequence[int]) -> None:
        """Take ``group`` out of train."""
        for kind, count in self._counts(group).items():
            self._left[kind] -= count
            if not self._left[kind]:
                del self._left[kind]

    def _counts(self, group: Sequence[int]) -> Counter[Hashable]:
        return Counter(self._kinds[index] for index in group) if self._kinds else Counter()
