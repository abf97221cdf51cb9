"""What every recipe for pairs shares."""

from typing import NamedTuple


class Pair(NamedTuple):
    """Two texts, the probability that they ask the same, and where the pair comes from."""

    first: str
    second: str
    label: float
    kind: str
