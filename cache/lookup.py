"""The read path of one query: local, store, alias, then the nearest cached questions."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from funnel.cache.base import CacheRequest
from funnel.cache.codec import AliasNote, Codec, Entry, Sealed
from funnel.cache.counters import Counters
from funnel.cache.decision import Candidate, Verdict
from funnel.cache.freshness import age_s, freshness
from funnel.cache.guarded_store import Budget, GuardedStore, StoreFault
from funnel.cache.local import Kept, LocalTier
from funnel.cache.matcher import Matcher
from funnel.cache.place import Place
from funnel.cache.readings import Readings
from funnel.cache.settings import CacheSettings
from funnel.cache.store import Missing, Stored
from funnel.types import CacheInfo

if TYPE_CHECKING:
    from funnel.cache.store import Vector

_SERVABLE = ("fresh", "revalidate")
_TIMES_THE_LIMIT = (1, 4, 16)  # neighbours asked for, in turn, while too few can be served


@dataclass(frozen=True, slots=True)
class Found:
    """An entry to serve. ``key`` is the entry's own; ``score`` is None for the exact tier.

    ``size`` is what it took sealed, in bytes.
    """

    entry: Entry
    key: str
    tier: str
    age_s: float
    stale: bool
    score: float | None = None
    threshold: float | None = None
    margin: float = 0.0
    size: int = 0

    def info(self) -> CacheInfo:
        """What the result says of it."""
        return CacheInfo(
            status="hit",
            tier=self.tier,
            matched_query=self.entry.asked or self.entry.query,
            score=self.score,
            threshold=self.threshold,
            age_s=self.age_s,
            stale=self.stale,
            reason="stale" if self.stale else None,
        )


@dataclass(frozen=True, slots=True)
class Near:
    """An entry near the query; ``late`` if it may be served only if the stages fail."""

    key: str
    entry: Entry
    cosine: float
    size: int
    late: bool = False

    @property
    def candidate(self) -> Candidate:
        """As the decision wants it."""
        return Candidate(self.key, self.entry.query, self.cosine, self.entry.asked)


@dataclass(slots=True)
class Looking:
    """The state of one lookup as it goes through the tiers.

    ``epoch`` is that of the first reading, None if the store was asked and did not answer;
    ``missed_at`` is when the last reading began (monotonic seconds), if it found nothing at all.
    ``fault`` is what failed, ``unheard`` if that was only this process, which was too busy;
    ``late`` is an entry that may only be served if the stages fail, ``late_near`` are such entries
    near the query, which nobody has verified; ``refused`` is the candidate that came nearest to
    being a hit.
    """

    request: CacheRequest
    place: Place
    budget: Budget
    began: float = field(default_factory=time.perf_counter)
    epoch: int | None = None
    missed_at: float | None = None
    fault: str | None = None
    unheard: bool = False
    reason: str = "no_candidates"
    late: Found | None = None
    late_near: Sequence["Near"] = ()
    refused: Verdict | None = None

    @property
    def ms(self) -> float:
        """Milliseconds since it began."""
        return (time.perf_counter() - self.began) * 1000


class Lookup:
    """The tiers, in order of their cost. Raises nothing but cancellation."""

    def __init__(
        self,
        settings: CacheSettings,
        store: GuardedStore,
        codec: Codec,
        local: LocalTier,
        matcher: Matcher,
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._store = store
        self._readings = Readings(store, local)
        self._codec = codec
        self._local = local
        self._matcher = matcher
        self._counters = counters
        self._clock = clock

    async def exact(self, looking: Looking) -> Found | None:
        """This very text, here or in the store, or a verified paraphrase of a kept one."""
        return self.here(looking) or await self.in_store(looking)

    def here(self, looking: Looking) -> Found | None:
        """This very text in this process."""
        kept = self._local.get(looking.place)
        found = None if kept is None else self._servable(kept, looking)
        if found is not None:
            self._store.touch(looking.place.partition, found.key)
        return found

    async def in_store(self, looking: Looking) -> Found | None:
        """This very text in the store, or a verified paraphrase; asked once for many callers."""
        place, looking.missed_at = looking.place, None
        try:
            reading, began = await self._readings.get(place, looking.budget)
        except StoreFault as fault:
            looking.fault, looking.unheard = fault.reason, fault.ours
            if fault.ours and self._local.epoch:  # what is computed can be kept if it is still that
                looking.epoch = self._local.epoch.current
            return None
        self._local.saw(reading.epoch)
        looking.epoch = reading.epoch.current
        if isinstance(reading.found, Missing):
            looking.missed_at = began
            return None
        kept = self._open(reading.found, looking)
        if kept is None:
            return None
        self._local.put(place, kept, reading.epoch.current)
        return self._servable(kept, looking)

    def _open(self, stored: Stored, looking: Looking) -> Kept | None:
        """The entry behind what was read by this query's key, if it really belongs there."""
        place, size = looking.place, len(stored.payload)
        try:
            entry = self._codec.open(stored.payload, Entry, place.partition, stored.key)
            if stored.alias is None:
                return self._of_this_text(Kept(entry, stored.key, size=size), looking)
            note = self._codec.open(stored.alias, AliasNote, place.partition, place.key)
        except Sealed as sealed:
            looking.reason = self._corrupt(sealed)
            return None
        return Kept(entry, stored.key, note, size) if note.target == stored.key else None

    def _of_this_text(self, kept: Kept, looking: Looking) -> Kept | None:
        if kept.entry.query == looking.request.query.text:
            return kept
        looking.reason = "wrong_entry"
        return None

    def _corrupt(self, sealed: Sealed) -> str:
        reason = f"corrupt_{sealed.reason}"
        self._counters.event(reason)
        return reason

    def _servable(self, kept: Kept, looking: Looking) -> Found | None:
        note, now = kept.note, self._clock()
        needed = None if note is None else self._matcher.policy.threshold + note.margin
        if note is not None and needed is not None and note.score < needed:
            return None  # the threshold was raised since
        state = freshness(kept.entry, now, self._settings)
        found = Found(
            entry=kept.entry,
            key=kept.key,
            tier="exact" if note is None else "alias",
            age_s=age_s(kept.entry, now),
            stale=state != "fresh",
            score=None if note is None else note.score,
            threshold=needed,
            margin=0.0 if note is None else note.margin,
        )
        if state in _SERVABLE:
            return found
        looking.reason = "expired"
        if state == "on_error":
            looking.late = found
        return None

    async def nearest(self, looking: Looking, vector: "Vector", *, floor: float) -> list[Near]:
        """Servable entries at ``floor`` or nearer, best first; none if the store does not answer.

        What may be served if the stages fail is noted in ``looking``.

        What is kept for failing stages only, or cannot be opened, must not take the places of what
        can be served: where there is such, more are asked for.
        """
        limit = self._matcher.policy.limit
        opened: dict[str, Near | None] = {}
        usable: list[Near] = []
        for more in _TIMES_THE_LIMIT:
            asked = more * limit
            found = await self._neighbours(looking, vector, asked, floor)
            for stored in found:
                if stored.key not in opened:
                    opened[stored.key] = self._near(stored, looking)
            all_near = [near for stored in found if (near := opened[stored.key])]
            usable = [near for near in all_near if not near.late]
            looking.late_near = [near for near in all_near if near.late][:limit]
            if len(usable) >= limit or len(found) < asked:
                break
        return usable[:limit]

    async def _neighbours(
        self, looking: Looking, vector: "Vector", limit: int, floor: float
    ) -> Sequence[Stored]:
        if looking.unheard:  # in the meantime this process has caught up
            looking.fault, looking.unheard = None, False
            looking.budget = self._store.budget(looking.request.deadline)
        if looking.fault is not None:
            return []
        partition = looking.place.partition
        try:
            near = await self._store.call(
                lambda store: store.nearest(partition, vector, limit=limit, floor=floor),
                looking.budget,
            )
        except StoreFault as fault:
            looking.fault = fault.reason
            return []
        self._local.saw(near.epoch)
        return near.found

    def _near(self, stored: Stored, looking: Looking) -> Near | None:
        try:
            entry = self._codec.open(stored.payload, Entry, looking.place.partition, stored.key)
        except Sealed as sealed:
            self._corrupt(sealed)
            return None
        state = freshness(entry, self._clock(), self._settings)
        if state == "expired":
            return None
        late = state not in _SERVABLE
        return Near(stored.key, entry, stored.cosine or 0.0, len(stored.payload), late)

    def found_by(self, chosen: Verdict, near: Near) -> Found:
        """The entry that a decision chose."""
        now = self._clock()
        return Found(
            entry=near.entry,
            key=near.key,
            tier="semantic",
            age_s=age_s(near.entry, now),
            stale=freshness(near.entry, now, self._settings) != "fresh",
            score=chosen.score,
            threshold=chosen.needed,
            margin=chosen.margin,
            size=near.size,
        )
