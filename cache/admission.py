"""Who gets in when the cache is full: a one-time query must not push out a popular one."""

import hashlib
from collections.abc import Sequence

from funnel.cache.place import Place

_EVERY = 32  # of the strangers, few enough not to wear out the store between two uses
_BITS_PER_QUERY = 16
_SPOTS = 4


class Doorkeeper:
    """Remembers the latest queries that asked for room, in two generations.

    While there is room all are admitted. In a full cache a query is admitted when it was seen
    before, lately; of the others one in 32 is, so that a changed traffic gets its chance.

    A generation is a Bloom filter of 2 bytes for each of its ``capacity`` queries, whatever is
    asked; a full one is laid aside for the next. What was seen is always known again; of what was
    not, two full generations take less than one in 200 for known.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._bits = _BITS_PER_QUERY * self._capacity
        self._young = _Generation(self._bits)
        self._old = _Generation(self._bits)
        self._strangers = 0
        self.full = False

    def admits(self, place: Place) -> bool:
        """Whether an answer for this place may be kept; remembers that it was asked."""
        known = self._seen_before(place)
        if known or not self.full:
            return True
        self._strangers += 1
        return self._strangers % _EVERY == 0

    def _seen_before(self, place: Place) -> bool:
        spots = _spots(place, self._bits)
        known = self._old.holds(spots)
        if not self._young.add(spots):
            return True
        if self._young.count >= self._capacity:
            self._old, self._young = self._young, _Generation(self._bits)
        return known


class _Generation:
    """A Bloom filter; ``count`` is how many queries were new to it."""

    def __init__(self, bits: int) -> None:
        self._bytes = bytearray(-(-bits // 8))
        self.count = 0

    def holds(self, spots: Sequence[int]) -> bool:
        """Whether these bits are set: it was added, or looks as if it was."""
        held = self._bytes
        return all(held[spot >> 3] >> (spot & 7) & 1 for spot in spots)

    def add(self, spots: Sequence[int]) -> bool:
        """Set these bits; returns whether that was new."""
        new = not self.holds(spots)
        if new:
            for spot in spots:
                self._bytes[spot >> 3] |= 1 << (spot & 7)
            self.count += 1
        return new


def _spots(place: Place, bits: int) -> Sequence[int]:
    """The bits of a query: two hashes make any number of them (Kirsch and Mitzenmacher)."""
    raw = hashlib.blake2b(f"{place.partition}:{place.key}".encode(), digest_size=16).digest()
    first, step = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big") | 1
    return [(first + i * step) % bits for i in range(_SPOTS)]
