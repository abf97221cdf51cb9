"""Who gets in when the cache is full: a one-time query must not push out a popular one."""

from funnel.cache.place import Place

_EVERY = 8


class Doorkeeper:
    """Remembers the latest queries that asked for room, in two generations.

    While there is room all are admitted. In a full cache a query is admitted when it was seen
    before, lately; of the others one in eight is, so that a changed traffic gets its chance.
    Memory is bounded by ``capacity`` 64-bit numbers per generation.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._young: set[int] = set()
        self._old: set[int] = set()
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
        number = int(place.partition[:8] + place.key[:8], 16)
        known = number in self._young or number in self._old
        self._young.add(number)
        if len(self._young) >= self._capacity:
            self._old, self._young = self._young, set()
        return known
