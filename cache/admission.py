"""Who gets in when the cache is full: a one-time query must not push out a popular one."""

import hashlib
from collections.abc import Sequence

from funnel.cache.place import Place

_EVERY = 8
_BITS_PER_QUERY = 16
_SPOTS = 4


class Doorkeeper:
    """Remembers the latest queries that asked for room, in two generations.

    While there is room all are admitted. In a full cache a query is admitted when it was seen
    before, lately; of the others one in eight is, so that a changed traffic gets its chance.

    A generation is a Bloom filter of 2 bytes for each of its ``capacity`` queries, whatever is
    asked; a full one is laid aside for the next. What was seen is always known again; of what was
    not, two full generations take less than one in 200 for known.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._young = _Generation(self._capacity)
        self._old = _Generation(1)
        self._strangers = 0
        self.full = False

    def admits(self, place: Place) -> bool:
        """Whether to keep an entry for this query."""
        known = self._seen_before(place)
        if not self.full or known:
            return True
        self._strangers += 1
        return self._strangers % _EVERY == 0

    def _seen_before(self, place: Place) -> bool:
        digest = _digest(place)
        known = self._old.holds(digest)
        if self._young.add(digest):
            if self._young.count >= self._capacity:
                self._old, self._young = self._young, _Generation(self._capacity)
            return known
        return True


class _Generation:
    """A Bloom filter; ``count`` is how many queries were new to it."""

    def __init__(self, capacity: int) -> None:
        self._bits = bytearray(-(-capacity * _BITS_PER_QUERY // 8))
        self.count = 0

    def holds(self, digest: tuple[int, int]) -> bool:
        """Whether this was added, or looks as if it was."""
        return all(self._bits[spot >> 3] >> (spot & 7) & 1 for spot in self._spots(digest))

    def add(self, digest: tuple[int, int]) -> bool:
        """Remember it; returns whether it was new."""
        new = not self.holds(digest)
        for spot in self._spots(digest):
            self._bits[spot >> 3] |= 1 << (spot & 7)
        self.count += new
        return new

    def _spots(self, digest: tuple[int, int]) -> Sequence[int]:
        """The bits of a query: two hashes make any number of them (Kirsch and Mitzenmacher)."""
        first, step = digest
        return [(first + i * step) % (8 * len(self._bits)) for i in range(_SPOTS)]


def _digest(place: Place) -> tuple[int, int]:
    raw = hashlib.blake2b(f"{place.partition}:{place.key}".encode(), digest_size=16).digest()
    return int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big") | 1
