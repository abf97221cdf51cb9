"""Redis 8's vector sets: the server finds the nearest queries itself.

One vector set per partition, elements are record keys. Elements have no expiry of their own, so
those whose record is gone are removed when a search meets them, and by a regular spot check.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from funnel.cache.nearest import Neighbour, unit_vector
from funnel.cache.redis_link import Argument, RedisLink
from funnel.cache.redis_lua import DROP_OVERTAKEN, LIVING, READ
from funnel.cache.redis_vectors import QueryVectors
from funnel.cache.rows import Vector
from funnel.cache.wire import from_wire
from funnel.errors import CacheError
from funnel.log import get_logger

log = get_logger(__name__)

_AT_ONCE = 32
_OTHER_LENGTH = "Vector dimension mismatch"  # what the server says of a set of another encoder
_SPOT_CHECK = 20
_SPOT_CHECK_S = 1.0


class RedisVectorSets(QueryVectors):
    """Searches on the server with ``VSIM`` (int8, HNSW); nothing is held in this process."""

    apart = True

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._removed = 0
        self._checker: asyncio.Task[None] | None = None

    async def start(self) -> None:  # noqa: D102
        self._keep_checking()

    async def nearest(  # noqa: D102
        self, partition: str, vector: Vector, count: int, floor: float
    ) -> Sequence[Neighbour]:
        self._keep_checking()
        reply = await self._link.command(*self._search(partition, vector, count))
        return _hits(partition, reply, floor)

    async def anywhere(  # noqa: D102
        self, vector: Vector, count: int, floor: float
    ) -> Sequence[Neighbour]:
        found: list[Neighbour] = []
        self._keep_checking()
        for partitions in _chunks(await self._partitions()):
            replies = await self._link.commands(
                [self._search(partition, vector, count) for partition in partitions],
                passed_over=_OTHER_LENGTH,
            )
            for partition, reply in zip(partitions, replies, strict=True):
                found.extend(_hits(partition, reply or (), floor))
        return sorted(found, key=lambda hit: -hit.score)[:count]

    async def added(self, id_: str, vector: Vector) -> None:  # noqa: D102
        partition, _, key = id_.partition(":")
        await self._link.command("VADD", self._name(partition), "FP32", _raw(vector), key, "Q8")

    async def dropped(  # noqa: D102
        self,
        ids: Sequence[str],
        asked: int,  # noqa: ARG002 - it asks anew
    ) -> None:
        for some in _chunks(ids):
            living = await self._living(some)
            gone = [id_ for id_ in some if id_ not in living]
            await asyncio.gather(*(self._remove(id_) for id_ in gone))
            await self._restore(gone)
            self._removed += len(gone)

    def stats(self) -> Mapping[str, Any]:  # noqa: D102
        return {"finder": "vector_sets", "removed": self._removed}

    async def aclose(self) -> None:  # noqa: D102
        if self._checker is not None:
            self._checker.cancel()
            await asyncio.gather(self._checker, return_exceptions=True)

    async def spot_check(self) -> None:
        """Look at a few random elements of some sets and remove those whose record is gone.

        Of some: there is a set for each tenant and each of its filters, and this runs all the time.
        """
        some = await self._link.command("HRANDFIELD", f"{self._link.prefix}parts", _SPOT_CHECK)
        for partition in (raw.decode() for raw in some):
            keys = await self._link.command("VRANDMEMBER", self._name(partition), _SPOT_CHECK)
            ids = [f"{partition}:{key.decode()}" for key in keys or ()]
            if ids:
                reply = await self._link.run(READ, *ids)
                payloads = reply[2:] if reply else [None] * len(ids)
                gone = [id_ for id_, kept in zip(ids, payloads, strict=True) if kept is None]
                await self.dropped(gone, self.moment())

    def _name(self, partition: str) -> str:
        return f"{self._link.prefix}v:{partition}"

    async def _partitions(self) -> list[str]:
        return [
            raw.decode() for raw in await self._link.command("HKEYS", f"{self._link.prefix}parts")
        ]

    def _search(self, partition: str, vector: Vector, count: int) -> Sequence[Argument]:
        name, raw = self._name(partition), _raw(vector)
        return ("VSIM", name, "FP32", raw, "WITHSCORES", "COUNT", count)

    async def _living(self, ids: Sequence[str]) -> dict[str, Vector]:
        raws = await self._link.run(LIVING, *ids) if ids else []
        vectors = ((id_, from_wire(raw)) for id_, raw in zip(ids, raws, strict=True))
        return {id_: vector for id_, vector in vectors if vector is not None}

    async def _restore(self, removed: Sequence[str]) -> None:
        """Undo the removal of what was put again at that very moment.

        A write whose reverse search came in between has missed it: then it does not stay.
        """
        living = await self._living(removed)
        if living:
            await asyncio.gather(*(self.added(id_, vector) for id_, vector in living.items()))
            await self._link.run(DROP_OVERTAKEN, *living)

    async def _remove(self, id_: str) -> None:
        partition, _, key = id_.partition(":")
        await self._link.command("VREM", self._name(partition), key)

    def _keep_checking(self) -> None:
        if self._checker is None or self._checker.done():
            self._checker = asyncio.create_task(self._check())

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_SPOT_CHECK_S)
            try:
                await self.spot_check()
            except CacheError as error:
                log.info("cache.redis.spot_check_failed", reason=str(error))


def _raw(vector: Vector) -> bytes:
    return unit_vector(vector).astype("<f4").tobytes()


def _hits(partition: str, reply: Any, floor: float) -> Sequence[Neighbour]:
    found = (
        Neighbour(f"{partition}:{key.decode()}", 2 * float(score) - 1)
        for key, score in _pairs(reply)
    )
    return [hit for hit in found if hit.score >= floor]


def _pairs(reply: Any) -> Iterable[tuple[bytes, Any]]:
    if isinstance(reply, Mapping):
        return reply.items()
    return zip(reply[::2], reply[1::2], strict=True)


def _chunks(items: Sequence[str]) -> Iterable[Sequence[str]]:
    return (items[i : i + _AT_ONCE] for i in range(0, len(items), _AT_ONCE))
