"""Entries in this process's memory: gone with it, and seen by no other."""

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from funnel.cache.nearest import NearestIndex, Neighbour, unit_vector
from funnel.cache.store import (
    MISSING,
    Epoch,
    Lease,
    Missing,
    Neighbours,
    Reading,
    Record,
    Store,
    Stored,
    StoreLimits,
    StoreStats,
)
from funnel.errors import CacheError

if TYPE_CHECKING:
    from funnel.cache.store import Vector

_SWEEP = 64  # expired records dropped per write
_SPARE = 2  # neighbours looked at per neighbour wanted, as some may have expired


@dataclass(frozen=True, slots=True)
class _Kept:
    """A record without its vector, which the index holds; ``size`` in bytes counts it."""

    record: Record
    expires: float
    size: int


@dataclass(frozen=True, slots=True)
class _Alias:
    target: str
    note: bytes
    expires: float


class MemoryStore(Store):
    """Records in dictionaries, evicted least recently used first.

    ``clock`` returns seconds and must not go backwards.
    """

    shared = False

    def __init__(
        self, limits: StoreLimits | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits or StoreLimits()
        self._clock = clock
        self._records: OrderedDict[str, _Kept] = OrderedDict()  # least recently used first
        self._aliases: OrderedDict[str, _Alias] = OrderedDict()
        self._of_document: dict[str, set[str]] = {}
        self._of_scope: dict[str, set[str]] = {}
        self._expiry: list[tuple[float, str]] = []
        self._leases: dict[str, tuple[int, float]] = {}
        # One more than is kept, as a record goes in before another is evicted for it.
        self._nearest = NearestIndex(max_vectors=self._limits.max_entries + 1)
        self._epoch = Epoch()
        self._token = 0
        self._bytes = 0
        self._evictions = 0
        self._closed = False

    async def get(self, partition: str, key: str) -> Reading:  # noqa: D102
        self._check_open()
        kept = self._live(_id(partition, key))
        if kept is not None:
            return Reading(_stored(kept), self._epoch)
        return Reading(self._by_alias(partition, key), self._epoch)

    async def get_many(  # noqa: D102
        self, partition: str, keys: Sequence[str]
    ) -> Sequence[Stored | Missing]:
        self._check_open()
        found = (self._live(_id(partition, key)) for key in keys)
        return [MISSING if kept is None else _stored(kept) for kept in found]

    async def nearest(  # noqa: D102
        self, partition: str, vector: "Vector", *, limit: int, floor: float
    ) -> Neighbours:
        self._check_open()
        self._sweep()
        found = await self._nearest.asearch(partition, vector, _SPARE * limit, floor=floor)
        return Neighbours(self._confirm(found)[:limit], self._epoch)

    async def nearest_anywhere(  # noqa: D102
        self, vector: "Vector", *, limit: int, floor: float
    ) -> Sequence[Stored]:
        self._check_open()
        self._sweep()
        while True:
            hits = await self._nearest.asearch_everywhere(vector, _SPARE * limit, floor=floor)
            found = self._confirm(hits)  # what has expired leaves the index
            if len(found) >= limit or len(hits) < _SPARE * limit:
                return found[:limit]

    async def put(self, record: Record) -> bool:  # noqa: D102
        self._check_open()
        self._sweep()
        id_ = _id(record.partition, record.key)
        size = len(record.payload) + (0 if record.vector is None else record.vector.nbytes)
        bare = record if record.vector is None else replace(record, vector=None)
        kept = _Kept(bare, self._clock() + record.retain_s, size)
        former = self._live(id_)
        if record.epoch != self._epoch.current or size > self._limits.max_bytes:
            return False
        if former is not None and former.record.token > record.token:
            return False
        # Refuses what could never be found before anything changes.
        unit = None if record.vector is None else unit_vector(record.vector)
        self._drop(id_)
        if unit is not None:
            self._nearest.add_units(record.partition, [id_], unit[None, :])
        self._keep(id_, kept)
        self._evict()
        return True

    async def alias(  # noqa: D102
        self, partition: str, key: str, target: str, *, note: bytes, retain_s: float
    ) -> None:
        self._check_open()
        id_ = _id(partition, key)
        self._aliases.pop(id_, None)
        self._aliases[id_] = _Alias(target, note, self._clock() + retain_s)
        while len(self._aliases) > self._limits.max_entries:
            self._aliases.popitem(last=False)

    async def delete(self, partition: str, key: str) -> bool:  # noqa: D102
        self._check_open()
        id_ = _id(partition, key)
        alias = self._aliases.pop(id_, None)
        had_alias = alias is not None and alias.expires > self._clock()
        had_record = self._live(id_) is not None
        self._drop(id_)
        return had_record or had_alias

    async def delete_documents(self, ids: Sequence[str]) -> int:  # noqa: D102
        self._check_open()
        found = {id_ for document in ids for id_ in self._of_document.get(document, ())}
        return self._drop_all(found)

    async def epoch(self) -> Epoch:  # noqa: D102
        self._check_open()
        return self._epoch

    async def bump(self, *, invalidate: bool) -> Epoch:  # noqa: D102
        self._check_open()
        current = self._epoch.current + 1
        self._epoch = Epoch(current, current if invalidate else self._epoch.floor)
        if invalidate:
            self._clear()
        return self._epoch

    async def purge(self, *, scope: str | None = None) -> int:  # noqa: D102
        self._check_open()
        before = len(self._records)
        if scope is not None:
            self._drop_all(list(self._of_scope.get(scope, ())))
            self._drop_dangling_aliases()
        await self.bump(invalidate=scope is None)
        return before - len(self._records)

    async def acquire(self, name: str, *, ttl_s: float) -> Lease | None:  # noqa: D102
        self._check_open()
        now = self._clock()
        self._leases = {n: held for n, held in self._leases.items() if held[1] > now}
        if name in self._leases:
            return None
        self._token += 1
        self._leases[name] = (self._token, now + ttl_s)
        return Lease(name, self._token)

    async def release(self, lease: Lease) -> None:  # noqa: D102
        self._check_open()
        if self._leases.get(lease.name, (0, 0.0))[0] == lease.token:
            del self._leases[lease.name]

    async def stats(self) -> StoreStats:  # noqa: D102
        self._check_open()
        self._sweep()
        return StoreStats(
            kind="memory",
            entries=len(self._records),
            aliases=len(self._aliases),
            bytes=self._bytes,
            evictions=self._evictions,
            epoch=self._epoch,
            extra={"nearest": self._nearest.stats()},
        )

    def touch(self, partition: str, key: str) -> None:  # noqa: D102
        self._live(_id(partition, key))

    async def ping(self) -> None:  # noqa: D102
        self._check_open()

    async def aclose(self) -> None:  # noqa: D102
        self._closed = True
        self._nearest.close()

    def _check_open(self) -> None:
        if self._closed:
            raise CacheError("the memory store is closed; make a new one")

    def _live(self, id_: str) -> _Kept | None:
        kept = self._records.get(id_)
        if kept is None:
            return None
        if kept.expires <= self._clock():
            self._drop(id_)
            return None
        self._records.move_to_end(id_)
        return kept

    def _by_alias(self, partition: str, key: str) -> Stored | Missing:
        id_ = _id(partition, key)
        alias = self._aliases.get(id_)
        if alias is None:
            return MISSING
        kept = self._live(_id(partition, alias.target))
        if kept is None or alias.expires <= self._clock():
            del self._aliases[id_]
            return MISSING
        return _stored(kept, alias=alias.note)

    def _confirm(self, found: Iterable[Neighbour]) -> list[Stored]:
        pairs = ((self._live(hit.id), hit.score) for hit in found)
        return [_stored(kept, cosine=score) for kept, score in pairs if kept is not None]

    def _keep(self, id_: str, kept: _Kept) -> None:
        record = kept.record
        self._records[id_] = kept
        self._bytes += kept.size
        self._of_scope.setdefault(record.scope, set()).add(id_)
        for document in record.documents:
            self._of_document.setdefault(document, set()).add(id_)
        heapq.heappush(self._expiry, (kept.expires, id_))

    def _drop(self, id_: str) -> bool:
        kept = self._records.pop(id_, None)
        if kept is None:
            return False
        self._bytes -= kept.size
        self._nearest.remove(id_)
        _discard(self._of_scope, kept.record.scope, id_)
        for document in kept.record.documents:
            _discard(self._of_document, document, id_)
        return True

    def _drop_all(self, ids: Iterable[str]) -> int:
        return sum(self._drop(id_) for id_ in ids)

    def _drop_dangling_aliases(self) -> None:
        for id_, alias in list(self._aliases.items()):
            partition = id_.partition(":")[0]
            if _id(partition, alias.target) not in self._records:
                del self._aliases[id_]

    def _clear(self) -> None:
        self._records.clear()
        self._aliases.clear()
        self._of_scope.clear()
        self._of_document.clear()
        self._expiry.clear()
        self._nearest.clear()
        self._bytes = 0

    def _evict(self) -> None:
        limits = self._limits
        while len(self._records) > limits.max_entries or self._bytes > limits.max_bytes:
            self._drop(next(iter(self._records)))
            self._evictions += 1

    def _sweep(self) -> None:
        now = self._clock()
        for _ in range(_SWEEP):
            if not self._expiry or self._expiry[0][0] > now:
                break
            expires, id_ = heapq.heappop(self._expiry)
            kept = self._records.get(id_)
            if kept is not None and kept.expires <= expires:
                self._drop(id_)
        if len(self._expiry) > 2 * len(self._records) + _SWEEP:  # left behind by replaced records
            self._expiry = [(kept.expires, id_) for id_, kept in self._records.items()]
            heapq.heapify(self._expiry)


def _id(partition: str, key: str) -> str:
    return f"{partition}:{key}"


def _discard(index: dict[str, set[str]], name: str, id_: str) -> None:
    members = index.get(name)
    if members is not None:
        members.discard(id_)
        if not members:
            del index[name]


def _stored(kept: _Kept, *, alias: bytes | None = None, cosine: float | None = None) -> Stored:
    record = kept.record
    return Stored(record.partition, record.key, record.payload, alias=alias, cosine=cosine)
