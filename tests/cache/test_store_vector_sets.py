"""Redis 8's vector sets, on a stand-in: what they lose, and what happens without them."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis

from funnel.cache import store_redis
from funnel.cache.redis_link import Argument, RedisLink
from funnel.cache.redis_vset import RedisVectorSets
from funnel.cache.store import StoreLimits
from funnel.cache.store_redis import RedisStore
from funnel.errors import CacheError
from tests.cache.conftest import MakeRedis
from tests.cache.records import P, axis, eventually, keep, near, payload
from tests.redis_servers import RedisServer
from tests.vector_set_server import VectorSetServer


class TestVectorSets:
    @pytest.fixture
    def door(self, redis_server: RedisServer) -> Iterator["Door"]:
        """A stand-in of the test's own."""
        door = Door(redis_server)
        yield door
        door.close()

    @pytest.fixture
    async def through(self, door: "Door") -> AsyncIterator[RedisStore]:
        """A store behind it."""
        limits = StoreLimits(namespace=f"test-{uuid.uuid4().hex[:12]}", timeout_ms=5000.0)
        store = RedisStore(door.url, limits)
        await store.start()
        yield store
        await store.aclose()

    async def test_elements_without_a_record_are_removed(
        self, redis_server: RedisServer, vector_set_server: VectorSetServer
    ) -> None:
        """A spot check removes what an interrupted deletion has left behind."""
        limits = StoreLimits(namespace=f"test-{uuid.uuid4().hex[:12]}", timeout_ms=5000.0)
        store = RedisStore(vector_set_server.url, limits)
        await store.start()
        await keep(store, "00", vector=axis(0))
        name = f"{store.prefix}v:{P}".encode()
        vector_set_server.sets[name][b"dead"] = axis(0)
        assert len(vector_set_server.sets[name]) == 2

        async def removed() -> bool:
            return set(vector_set_server.sets[name]) == {b"00"}

        await eventually(removed, within_s=5.0)
        await store.aclose()

    async def test_a_spot_check_costs_the_same_with_thousands_of_tenants(
        self, redis_server: RedisServer, vector_set_server: VectorSetServer
    ) -> None:
        """It runs every second in every process: some twenty sets are looked at, not all."""
        link = RedisLink(vector_set_server.url, uuid.uuid4().hex, 5.0)
        with redis_server.client() as client:
            parts = {f"{number:04x}": 1 for number in range(2000)}
            client.hset(f"{link.prefix}parts", mapping=parts)
        vectors = RedisVectorSets(link)
        asked = 0
        command = link.command

        async def counted(*words: Argument) -> Any:
            nonlocal asked
            asked += 1
            return await command(*words)

        link.command = counted  # type: ignore[method-assign]
        await vectors.spot_check()
        assert asked == 21
        await link.aclose()

    async def test_a_write_asks_the_sets_of_many_tenants_at_once(
        self,
        make_redis: MakeRedis,
        vector_set_server: VectorSetServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A round trip for every 32 sets; one of another encoder is passed over, not the others."""
        monkeypatch.setattr(store_redis, "_TEND_S", 600.0)  # it asks, too
        store = await make_redis(vector_set_server.url)
        tenants = [f"{number:032x}" for number in range(100)]
        for tenant in tenants:
            await keep(store, "00", partition=tenant, vector=axis(0))
        vector_set_server.sets[f"{store.prefix}v:{tenants[7]}".encode()] = {b"00": axis(0)[:2]}
        link, asked = store._link, 0
        answer = link._answer

        async def counted(*arguments: Any, **rest: Any) -> Any:
            nonlocal asked
            asked += 1
            return await answer(*arguments, **rest)

        link._answer = counted  # type: ignore[method-assign]
        finder = await store._finder()
        hits = await finder.anywhere(axis(0), 200, 0.5)
        assert {hit.id for hit in hits} == {f"{t}:00" for t in tenants if t != tenants[7]}
        assert asked == 1 + 4

    async def test_a_search_that_failed_is_not_an_empty_one(
        self, door: "Door", through: RedisStore
    ) -> None:
        """Only a set of another encoder's vectors is passed over."""
        await keep(through, "00", vector=axis(0))
        door.refused = b"VSIM"
        with pytest.raises(CacheError, match="not in memory yet"):
            await through.nearest_anywhere(axis(0), limit=5, floor=0.5)

    async def test_a_record_whose_vector_was_refused_does_not_stay(
        self, door: "Door", through: RedisStore
    ) -> None:
        """No reverse search would ever find it."""
        door.refused = b"VADD"
        with pytest.raises(CacheError):
            await keep(through, "00", vector=axis(0))

        async def gone() -> bool:
            return await payload(through, "00") is None

        await eventually(gone)

    async def test_a_record_whose_vector_came_after_a_write_does_not_stay(
        self, door: "Door", through: RedisStore
    ) -> None:
        """The write's reverse search has missed it."""
        door.before_vadd = lambda client: client.hincrby(f"{through.prefix}meta", "current", 1)
        assert not await keep(through, "00", vector=axis(0))
        assert await payload(through, "00") is None

    async def test_what_was_put_again_before_its_vector_was_removed_is_found(
        self, door: "Door", through: RedisStore
    ) -> None:
        """The removal is undone."""
        await keep(through, "00", vector=axis(0))
        door.before_vrem = self._putting_back(door, through)
        await through.delete(P, "00")
        assert await near(through, axis(0)) == ["00"]

    async def test_what_a_write_may_have_missed_meanwhile_does_not_stay(
        self, door: "Door", through: RedisStore
    ) -> None:
        """While the vector was away no reverse search could find the record."""
        await keep(through, "00", vector=axis(0))
        put_back = self._putting_back(door, through)

        def put_back_and_write(client: redis.Redis) -> None:
            put_back(client)
            client.hincrby(f"{through.prefix}meta", "current", 1)

        door.before_vrem = put_back_and_write
        await through.delete(P, "00")
        assert await payload(through, "00") is None

    def _putting_back(self, door: "Door", store: RedisStore) -> Callable[[redis.Redis], None]:
        """What puts a record back as it is now."""
        name = f"{store.prefix}r:{P}:00"
        with door.behind() as client:
            kept = client.dump(name)

        def put_back(client: redis.Redis) -> None:
            client.restore(name, 60_000, kept)

        return put_back

    async def test_they_are_used_where_there_are_some(
        self, vector_set_server: VectorSetServer
    ) -> None:
        """Without being told, a store takes the server's own search, and says so."""
        store = RedisStore(vector_set_server.url, StoreLimits(timeout_ms=5000.0))
        await store.start()
        assert (await store.stats()).extra["nearest"]["finder"] == "vector_sets"
        await store.aclose()


class Door(VectorSetServer):
    """Refuses one command, and may do something before it takes a vector in or out."""

    refused = b""
    before_vadd: Callable[[redis.Redis], Any] | None = None
    before_vrem: Callable[[redis.Redis], Any] | None = None

    def behind(self) -> redis.Redis:
        """A client of the server behind it."""
        return self._behind.client()

    def _answer(self, command: list[bytes]) -> bytes | None:
        name = command[0].upper()
        if name == self.refused:
            return b"-LOADING the data set is not in memory yet\r\n"
        first = {b"VADD": self.before_vadd, b"VREM": self.before_vrem}.get(name)
        if first is not None:
            with self.behind() as client:
                first(client)
        return super()._answer(command)
