"""The tier in front of the store: opened entries in this process, valid while the epoch is known.

Another process may have written the index or purged the store. Every reading of the store tells
the epoch; an entry is served from here only if that was no longer ago than the allowed lag, and
any change of the epoch empties this tier.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from sys import getsizeof

from funnel.cache.codec import AliasNote, Entry
from funnel.cache.place import Place
from funnel.cache.store import Epoch

MAX_BYTES = 64 * 1024 * 1024
_PER_OBJECT = 1_024  # what an entry or a hit takes beside its texts, with a little metadata
_LITTLE = 400


@dataclass(frozen=True, slots=True)
class Kept:
    """An opened entry, its own key, and the note of the alias that led to it, if one did.

    ``size`` is what it took sealed, in bytes.
    """

    entry: Entry
    key: str
    note: AliasNote | None = None
    size: int = 0

    @property
    def weight(self) -> int:
        """About what it takes in memory: letters beyond ASCII take up to four times their bytes."""
        inner = sum(
            getsizeof(hit.text) + getsizeof(hit.title) + max(0, _memory_of(hit.metadata) - _LITTLE)
            for hit in self.entry.hits
        )
        return max(self.size, inner) + _PER_OBJECT * (1 + len(self.entry.hits))


def _memory_of(value: object) -> int:
    """Bytes of a value of metadata: small ones take up to fifty times what they take sealed."""
    inner: Iterable[object] = ()
    if isinstance(value, dict):
        inner = chain(value.keys(), value.values())
    elif isinstance(value, list):
        inner = value
    return getsizeof(value) + sum(_memory_of(one) for one in inner)


class LocalTier:
    """At most ``entries`` entries in at most about ``max_bytes``, least recently used out first."""

    def __init__(
        self,
        entries: int,
        lag_s: float,
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries = entries
        self._max_bytes = max_bytes
        self._lag_s = lag_s
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], tuple[Kept, int]] = OrderedDict()
        self._bytes = 0
        self._epoch: Epoch | None = None
        self._seen = 0.0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """About what it takes in memory."""
        return self._bytes

    @property
    def epoch(self) -> Epoch | None:
        """The epoch as last seen, however long ago; None before the first reading."""
        return self._epoch

    def saw(self, epoch: Epoch) -> None:
        """The store told its epoch just now; a lower one than before means it was emptied."""
        if epoch != self._epoch:
            self._kept.clear()
            self._bytes = 0
            self._epoch = epoch
        self._seen = self._clock()

    def covers(self, began: float, arrived: float) -> bool:
        """Whether a reading that began then is recent enough for who arrived then."""
        return arrived - began <= self._lag_s

    def get(self, place: Place) -> Kept | None:
        """The entry at a place, if it is certain enough that it still holds."""
        if self._epoch is None or self._clock() - self._seen > self._lag_s:
            return None
        found = self._kept.get((place.partition, place.key))
        if found is None:
            return None
        self._kept.move_to_end((place.partition, place.key))
        return found[0]

    def put(self, place: Place, kept: Kept, epoch: int) -> None:
        """Remember an entry that was read or computed under an epoch."""
        if self._entries == 0 or self._epoch is None or epoch != self._epoch.current:
            return
        self.drop(place)
        weight = kept.weight
        if weight > self._max_bytes:
            return
        self._kept[place.partition, place.key] = kept, weight
        self._bytes += weight
        while len(self._kept) > self._entries or self._bytes > self._max_bytes:
            _, (_, gone) = self._kept.popitem(last=False)
            self._bytes -= gone

    def drop(self, place: Place) -> None:
        """Forget one entry."""
        _, gone = self._kept.pop((place.partition, place.key), (None, 0))
        self._bytes -= gone
