"""Split examples into training and development parts that share no query."""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

Row = TypeVar("Row")


def split_by_group(
    rows: Sequence[Row], keys: Callable[[Row], Iterable[Hashable]], *, share: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """Return (train, dev) such that no key of a dev row occurs in train.

    Rows that share a key are joined into groups (union-find); shuffled groups go to dev until it
    holds about ``share`` of the rows. A group bigger than what is still wanted stays in train.
    """
    wanted = round(share * len(rows))
    groups = _groups(rows, keys)
    random.Random(seed).shuffle(groups)
    dev: set[int] = set()
    for group in groups:
        if len(dev) + len(group) <= wanted:
            dev.update(group)
    train = [row for index, row in enumerate(rows) if index not in dev]
    return train, [rows[index] for index in sorted(dev)]


def _groups(rows: Sequence[Row], keys: Callable[[Row], Iterable[Hashable]]) -> list[list[int]]:
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
