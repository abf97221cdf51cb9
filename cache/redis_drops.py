"""Dropping many records in Redis, some at a time: no script may hold the server for long."""

from collections.abc import Awaitable, Callable, Sequence

from funnel.cache import redis_lua as lua
from funnel.cache.redis_link import RedisLink
from funnel.cache.redis_vectors import QueryVectors

_CHUNK = 200
_NAMES_AT_ONCE = 500


class RedisDrops:
    """Drops what a change makes wrong, and tells whatever finds the nearest.

    Args:
        link: the way to the server.
        finder: gives what finds the nearest; known only once the server has been asked.
    """

    def __init__(self, link: RedisLink, finder: Callable[[], Awaitable[QueryVectors]]) -> None:
        self._link = link
        self._finder = finder

    async def sets(self, names: Sequence[str]) -> int:
        """Drop the records that these sets name; returns how many lived."""
        lived = 0
        vectors = await self._finder()
        for start in range(0, len(names), _NAMES_AT_ONCE):
            left = names[start : start + _NAMES_AT_ONCE]
            while left:
                asked = vectors.moment()
                go_on, some, *ids = await self._link.run(lua.DROP_SETS, _CHUNK, *left)
                await vectors.dropped([raw.decode() for raw in ids], asked)
                lived += some
                left = left[go_on:] if go_on >= 0 else []
        return lived

    async def stale(self) -> int:
        """Drop the records from before the epoch's floor; returns how many lived."""
        lived = 0
        vectors = await self._finder()
        cursor: bytes | None = b"0"
        while cursor is not None:
            asked = vectors.moment()
            cursor, some, *ids = await self._link.run(lua.DROP_STALE, cursor, _CHUNK)
            await vectors.dropped([raw.decode() for raw in ids], asked)
            lived += some
            cursor = None if cursor == b"0" else cursor
        return lived

    async def dangling(self) -> None:
        """Drop aliases whose target is gone."""
        cursor = b"0"
        while (cursor := await self._link.run(lua.DROP_DANGLING, cursor, _CHUNK)) != b"0":
            pass
