"""A copy of all query vectors in this process, kept up to date from the store's change log."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from funnel.cache.nearest import NearestIndex, Neighbour, add_group
from funnel.cache.redis_link import RedisLink
from funnel.cache.redis_lua import PLACE, SCAN, VECTORS
from funnel.cache.redis_vectors import QueryVectors
from funnel.cache.rows import Vector
from funnel.cache.wire import from_wire
from funnel.errors import CacheError
from funnel.log import get_logger

log = get_logger(__name__)

_PAGE = 1000
_BLOCK_MS = 500
_CHECK_S = 1.0
_BEHIND_AT_MOST_S = 1.5
_LOOK_AGAIN_S = 0.005
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a reader stands in the log of one incarnation of the store."""

    born: bytes | None = None
    seq: int = 0
    last: bytes = b"0-0"


@dataclass(frozen=True, slots=True)
class _Change:
    seq: int
    op: bytes
    id: str


class RedisMirror(QueryVectors):
    """Loads all vectors once, then follows the log; loads again when it has missed something.

    It has missed something when the log's numbers are not consecutive (trimmed), when the store
    was born anew (flushed, or lost its keys), or when the store's number is ahead of the last one
    read although nothing is left to read (restored from an older snapshot).

    Args:
        link: a link of its own, with a timeout well above the 500 ms that a read of the log blocks.
        max_vectors: the most it holds.
    """

    def __init__(self, link: RedisLink, *, max_vectors: int, exact_limit: int) -> None:
        self._link = link
        # Room for what it has not read yet to be gone: what is shed could never be found.
        room = max_vectors + _PAGE
        self._index = NearestIndex(exact_limit=exact_limit, max_vectors=room)
        self._room = room
        self._moment = 0
        self._added_at: dict[str, int] = {}
        self._place = _Place()
        self._checked = 0.0
        self._loads = 0
        self._follower: asyncio.Task[None] | None = None

    async def start(self) -> None:  # noqa: D102
        await self._load()
        self._follow_along()

    async def nearest(  # noqa: D102
        self, partition: str, vector: Vector, count: int, floor: float
    ) -> Sequence[Neighbour]:
        self._follow_along()
        return await self._index.asearch(partition, vector, count, floor=floor)

    async def anywhere(  # noqa: D102
        self, vector: Vector, count: int, floor: float
    ) -> Sequence[Neighbour]:
        await self._caught_up()
        return await self._index.asearch_everywhere(vector, count, floor=floor)

    async def added(self, id_: str, vector: Vector) -> None:  # noqa: D102
        self._stamp([id_])
        self._index.add(_partition(id_), id_, vector)

    def moment(self) -> int:  # noqa: D102
        return self._moment

    async def dropped(self, ids: Sequence[str], asked: int) -> None:  # noqa: D102
        self._index.remove_many(id_ for id_ in ids if self._added_at.get(id_, 0) <= asked)

    def stats(self) -> Mapping[str, Any]:  # noqa: D102
        return {"finder": "mirror", "loads": self._loads, **self._index.stats()}

    async def aclose(self) -> None:  # noqa: D102
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        self._index.close()
        await self._link.aclose()

    async def _caught_up(self) -> None:
        """Wait until everything is here that the store's log holds now."""
        place = await self._current_place()
        end = time.monotonic() + _BEHIND_AT_MOST_S
        while not self._has_reached(place):
            if time.monotonic() > end:
                raise CacheError(
                    f"the mirror of Redis at {self._link.where} is at change {self._place.seq}, "
                    f"expected {place.seq} within {_BEHIND_AT_MOST_S} s; it goes on by itself"
                )
            self._follow_along()
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _has_reached(self, place: _Place) -> bool:
        if self._place.born != place.born:
            self._checked = 0.0  # the follower need not wait to find that out
            return False
        return self._loads > 0 and self._place.seq >= place.seq

    def _follow_along(self) -> None:
        if self._follower is None or self._follower.done():
            self._follower = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        pause = _FIRST_PAUSE_S
        loaded = self._loads > 0
        while True:
            began = time.monotonic()
            try:
                if not loaded:
                    await self._load()
                    loaded = True
                await self._read_until_gap()
                loaded = False
                log.info("cache.redis.mirror_gap", server=self._link.where)
            except Exception as error:  # a follower that died would stay behind for ever
                loaded = loaded and isinstance(error, CacheError)  # else: get over what it read
                if time.monotonic() - began > _LONGEST_PAUSE_S:
                    pause = _FIRST_PAUSE_S
                log.info("cache.redis.mirror_behind", reason=repr(error), retry_in_s=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _load(self) -> None:
        place = await self._current_place()
        seen: set[str] = set()
        cursor: bytes = b"0"
        while True:
            cursor, *rest = await self._link.run(SCAN, cursor, _PAGE)
            ids = [raw.decode() for raw in rest[::2]]
            self._add(dict(zip(ids, rest[1::2], strict=True)))
            seen.update(ids)
            if cursor == b"0":
                break
        self._index.remove_many(id_ for id_ in self._index.ids() if id_ not in seen)
        self._place, self._loads = place, self._loads + 1

    async def _read_until_gap(self) -> None:
        while True:
            place = await self._due_check()
            changes, last = await self._read_log()
            if place is not None and self._has_missed(place, nothing_left=not changes):
                return
            if not _consecutive(self._place.seq, changes):
                return
            if changes:
                await self._apply(changes)
                self._place = _Place(self._place.born, changes[-1].seq, last)

    async def _due_check(self) -> _Place | None:
        if time.monotonic() - self._checked < _CHECK_S:
            return None
        self._checked = time.monotonic()
        return await self._current_place()

    def _has_missed(self, place: _Place, *, nothing_left: bool) -> bool:
        behind = nothing_left and place.seq != self._place.seq
        return behind or place.born != self._place.born

    async def _current_place(self) -> _Place:
        born, seq, last = await self._link.run(PLACE)
        return _Place(born, int(seq or 0), last)

    async def _read_log(self) -> tuple[list[_Change], bytes]:
        name = f"{self._link.prefix}log"
        reply = await self._link.command(
            "XREAD", "COUNT", _PAGE, "BLOCK", _BLOCK_MS, "STREAMS", name, self._place.last
        )
        if not reply:
            return [], self._place.last
        ((_, entries),) = reply
        return [_change(fields) for _, fields in entries], entries[-1][0]

    async def _apply(self, changes: Sequence[_Change]) -> None:
        last: dict[str, bytes] = {}
        for change in changes:
            if change.op == b"c":
                self._index.clear()
                last.clear()
            else:
                last[change.id] = change.op
        self._index.remove_many(id_ for id_, op in last.items() if op == b"d")
        put = [id_ for id_, op in last.items() if op == b"p"]
        if put:
            self._add(dict(zip(put, await self._link.run(VECTORS, *put), strict=True)))

    def _add(self, found: Mapping[str, bytes | None]) -> None:
        groups: dict[tuple[str, int], tuple[list[str], list[Vector]]] = {}
        for id_, raw in found.items():
            vector = from_wire(raw)
            if vector is not None:
                ids, vectors = groups.setdefault((_partition(id_), len(vector)), ([], []))
                ids.append(id_)
                vectors.append(vector)
        for (partition, _), (ids, vectors) in groups.items():
            self._stamp(ids)
            add_group(self._index, partition, ids, vectors)

    def _stamp(self, ids: Sequence[str]) -> None:
        """Note that these are added now, after every moment taken so far."""
        self._moment += 1
        self._added_at.update(dict.fromkeys(ids, self._moment))
        if len(self._added_at) > 2 * self._room:
            self._added_at = {i: at for i, at in self._added_at.items() if i in self._index}


def _partition(id_: str) -> str:
    return id_.partition(":")[0]


def _consecutive(seq: int, changes: Sequence[_Change]) -> bool:
    return [change.seq for change in changes] == list(range(seq + 1, seq + 1 + len(changes)))


def _change(fields: Mapping[bytes, bytes]) -> _Change:
    return _Change(int(fields[b"n"]), fields[b"o"], fields[b"i"].decode())
