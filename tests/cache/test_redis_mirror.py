"""The mirror of a Redis store: it follows what others change, and says so when it cannot."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from funnel.cache import redis_lua as lua
from funnel.cache.redis_link import RedisLink
from funnel.cache.store import StoreLimits
from funnel.cache.store_redis import RedisStore
from funnel.errors import CacheError
from tests.cache.behind import Behind, cut_connections
from tests.cache.conftest import MakeRedis
from tests.cache.records import P, axis, eventually, keep, keep_many, near
from tests.redis_servers import RedisFarm, RedisServer


@pytest.fixture
async def store(make_redis: MakeRedis) -> RedisStore:
    """One store."""
    return await make_redis()


def loads(stats: Any) -> int:
    """How often the mirror was loaded."""
    count: int = stats.extra["nearest"]["loads"]
    return count


class TestMirror:
    async def test_a_gap_in_the_log_is_noticed(
        self, make_redis: MakeRedis, store: RedisStore, behind: Behind
    ) -> None:
        """A reader that missed changes (the log was trimmed) loads everything again."""
        other = await make_redis()
        await keep(store, "00", vector=axis(0))
        before = loads(await other.stats())
        behind.client.xtrim(behind.name("log"), maxlen=0, approximate=False)
        behind.client.hincrby(behind.name("meta"), "seq", 5)

        async def loaded() -> bool:
            return loads(await other.stats()) > before

        await eventually(loaded)
        assert await near(other, axis(0)) == ["00"]

    async def test_numbers_that_are_not_consecutive_are_a_gap(
        self, make_redis: MakeRedis, store: RedisStore, behind: Behind
    ) -> None:
        """So is a change whose number does not follow."""
        other = await make_redis()
        before = loads(await other.stats())
        behind.client.hincrby(behind.name("meta"), "seq", 5)
        await keep(store, "00", vector=axis(0))

        async def loaded() -> bool:
            return loads(await other.stats()) > before and await near(other, axis(0)) == ["00"]

        await eventually(loaded)

    async def test_another_process_forgets_what_was_invalidated(
        self, make_redis: MakeRedis, store: RedisStore
    ) -> None:
        """Mirrors do not keep vectors of records that are gone."""
        other = await make_redis()
        await keep_many(store, [f"{i:02x}" for i in range(20)], vector=axis(0), documents=["d"])

        async def holds(count: int) -> bool:
            held: int = (await other.stats()).extra["nearest"]["vectors"]
            return held == count

        await eventually(lambda: holds(20))
        await store.delete_documents(["d"])
        await eventually(lambda: holds(0))
        await keep(store, "00", vector=axis(0))
        await eventually(lambda: holds(1))
        await store.bump(invalidate=True)
        await eventually(lambda: holds(0))

    async def test_a_poisoned_vector_is_left_out(
        self, make_redis: MakeRedis, store: RedisStore, behind: Behind
    ) -> None:
        """Vectors that are no vectors do not stop the others from being found."""
        await keep_many(store, ["00", "01", "02", "03"], vector=axis(0))
        for key, poison in (("00", b"\xff" * 32), ("01", b"odd"), ("02", b"\x00" * 32)):
            behind.client.hset(behind.name(f"r:{P}:{key}"), "v", poison)
        assert await near(await make_redis(), axis(0)) == ["03"]

    async def test_it_comes_back_after_its_connections_were_cut(
        self, make_redis: MakeRedis, store: RedisStore, redis_server: RedisServer
    ) -> None:
        """Killed connections cost nothing that lasts."""
        other = await make_redis()
        cut_connections(redis_server)
        await eventually(lambda: keep(store, "00", vector=axis(0)))

        async def seen() -> bool:
            return await near(other, axis(0)) == ["00"]

        await eventually(seen)

    @pytest.mark.parametrize(
        ("script", "drop"),
        [
            (lua.DELETE, lambda store: store.delete(P, "00")),
            (lua.DROP_SETS, lambda store: store.delete_documents(["d"])),
            (lua.DROP_STALE, lambda store: store.purge()),
            (lua.READ, lambda store: store.nearest_anywhere(axis(0), limit=5, floor=0.5)),
        ],
        ids=["delete", "documents", "purge", "read"],
    )
    async def test_what_was_put_again_before_a_late_reply_stays(
        self,
        store: RedisStore,
        behind: Behind,
        monkeypatch: pytest.MonkeyPatch,
        script: lua.Script,
        drop: Callable[[RedisStore], Coroutine[Any, Any, object]],
    ) -> None:
        """That a record was gone says nothing about the one that has its place by now."""
        await keep(store, "00", vector=axis(0), documents=["d"])
        await store.nearest_anywhere(axis(0), limit=5, floor=0.5)
        if script is lua.READ:
            behind.client.unlink(behind.name(f"r:{P}:00"))
        late = LateReply(monkeypatch, script)
        dropping = asyncio.create_task(drop(store))
        await late.given.wait()
        assert await keep(store, "00", vector=axis(0), documents=["d"])
        await store.nearest_anywhere(axis(1), limit=5, floor=0.9)
        late.read.set()
        await dropping
        assert [s.key for s in await store.nearest_anywhere(axis(0), limit=5, floor=0.5)] == ["00"]


class LateReply:
    """Holds back the first reply to a script: ``given`` by the server, not ``read`` yet."""

    def __init__(self, patch: pytest.MonkeyPatch, script: lua.Script) -> None:
        self.given, self.read = asyncio.Event(), asyncio.Event()
        plain = RedisLink.run

        async def run(link: RedisLink, asked: lua.Script, *arguments: Any) -> Any:
            reply = await plain(link, asked, *arguments)
            if asked is script and not self.given.is_set():
                self.given.set()
                await self.read.wait()
            return reply

        patch.setattr(RedisLink, "run", run)


class TestAnywhere:
    """Whom a new document concerns must not be answered from a mirror that is behind."""

    async def test_a_server_that_was_down_at_the_start(self, farm: RedisFarm) -> None:
        """A mirror that was never loaded is loaded before it is searched."""
        server = farm.server()
        server.stop()
        store = RedisStore(server.url, StoreLimits(timeout_ms=5000.0))
        with pytest.raises(CacheError):
            await store.start()
        server.start()
        other = RedisStore(server.url, StoreLimits(timeout_ms=5000.0))
        await keep(other, "00", vector=axis(0))
        await store.bump(invalidate=False)
        assert [s.key for s in await store.nearest_anywhere(axis(0), limit=5, floor=0.5)] == ["00"]
        for one in (store, other):
            await one.aclose()
        server.stop()

    async def test_a_mirror_whose_connection_was_cut(
        self, make_redis: MakeRedis, store: RedisStore, redis_server: RedisServer
    ) -> None:
        """What was put while it reconnects is waited for."""
        other = await make_redis()
        cut_connections(redis_server)
        await eventually(lambda: keep(store, "00", vector=axis(0)))
        assert [s.key for s in await other.nearest_anywhere(axis(0), limit=5, floor=0.5)] == ["00"]

    async def test_a_store_born_anew(
        self, make_redis: MakeRedis, store: RedisStore, behind: Behind
    ) -> None:
        """After a flush the mirror is loaded again, although its numbers are ahead."""
        other = await make_redis()
        await keep_many(store, ["00", "01", "02"], vector=axis(1))
        await other.nearest_anywhere(axis(0), limit=5, floor=0.5)
        behind.client.unlink(*(behind.name(key) for key in behind.names()))
        await store.epoch()
        await keep(store, "03", vector=axis(0))
        assert [s.key for s in await other.nearest_anywhere(axis(0), limit=5, floor=0.5)] == ["03"]

    async def test_a_reply_that_another_epoch_has_overtaken(
        self, store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not taken for a server that went back and lost its records."""
        await keep(store, "00", vector=axis(0))
        late = LateReply(monkeypatch, lua.READ)
        searching = asyncio.create_task(store.nearest_anywhere(axis(0), limit=5, floor=0.5))
        await late.given.wait()
        await store.bump(invalidate=False)
        late.read.set()
        assert [s.key for s in await searching] == ["00"]
        assert await near(store, axis(0)) == ["00"]

    async def test_a_mirror_that_cannot_catch_up(
        self, make_redis: MakeRedis, store: RedisStore, behind: Behind
    ) -> None:
        """It says so, instead of finding nothing."""
        other = await make_redis()
        await keep(store, "00", vector=axis(0))
        behind.client.set(behind.name("side"), b"not a hash")
        behind.client.hincrby(behind.name("meta"), "seq", 5)
        with pytest.raises(CacheError, match="the mirror of Redis"):
            await other.nearest_anywhere(axis(0), limit=5, floor=0.5)
