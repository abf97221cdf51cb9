"""The tier in front of the store: opened entries in this process, valid while the epoch is known.

Another process may have written the index or purged the store. Every reading of the store tells
the epoch; an entry is served from here only if that was no longer ago than the allowed lag, and
any change of the epoch empties this tier.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from funnel.cache.codec import AliasNote, Entry
from funnel.cache.place import Place
from funnel.cache.store import Epoch


@dataclass(frozen=True, slots=True)
class Kept:
    """An opened entry, its own key, and the note of the alias that led to it, if one did."""

    entry: Entry
    key: str
    note: AliasNote | None = None


class LocalTier:
    """At most ``entries`` entries, least recently used out first."""

    def __init__(
        self, entries: int, lag_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._entries = entries
        self._lag_s = lag_s
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()
        self._epoch: Epoch | None = None
        self._seen = 0.0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def epoch(self) -> Epoch | None:
        """The epoch as last seen, however long ago; None before the first reading."""
        return self._epoch

    def saw(self, epoch: Epoch) -> None:
        """The store told its epoch just now; a lower one than before means it was emptied."""
        if epoch != self._epoch:
            self._kept.clear()
            self._epoch = epoch
        self._seen = self._clock()

    def get(self, place: Place) -> Kept | None:
        """The entry at a place, if it is certain enough that it still holds."""
        if self._epoch is None or self._clock() - self._seen > self._lag_s:
            return None
        kept = self._kept.get((place.partition, place.key))
        if kept is not None:
            self._kept.move_to_end((place.partition, place.key))
        return kept

    def put(self, place: Place, kept: Kept, epoch: int) -> None:
        """Remember an entry that was read or computed under an epoch."""
        if self._entries == 0 or self._epoch is None or epoch != self._epoch.current:
            return
        self._kept[place.partition, place.key] = kept
        self._kept.move_to_end((place.partition, place.key))
        while len(self._kept) > self._entries:
            self._kept.popitem(last=False)

    def drop(self, place: Place) -> None:
        """Forget one entry."""
        self._kept.pop((place.partition, place.key), None)
