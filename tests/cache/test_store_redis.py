"""What only a server can suffer: other users' settings, lost keys, missed changes, silence."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from funnel.cache import redis_lua as lua
from funnel.cache import store_redis
from funnel.cache.redis_link import RedisLink
from funnel.cache.store import LONGEST_S, StoreLimits
from funnel.cache.store_redis import RedisStore
from funnel.errors import CacheError, ConfigError
from tests.cache.behind import Behind
from tests.cache.conftest import MakeRedis
from tests.cache.records import P, axis, eventually, keep, keep_many, near, payload
from tests.cache.world import World
from tests.redis_servers import RedisFarm, RedisServer


@pytest.fixture
async def store(make_redis: MakeRedis) -> RedisStore:
    """One store."""
    return await make_redis()


class TestSettings:
    @pytest.mark.parametrize("namespace", ["", "a{b}", "a b", "a*", "x" * 101])
    def test_a_namespace_that_would_break_keys(self, namespace: str) -> None:
        """Braces, blanks and wildcards are refused."""
        with pytest.raises(ConfigError, match="namespace"):
            RedisStore("redis://localhost", StoreLimits(namespace=namespace))

    async def test_a_password_stays_out_of_errors(self) -> None:
        """What could not be reached is named without its secret."""
        store = RedisStore("redis://user:hunter2@127.0.0.1:1/0")
        with pytest.raises(CacheError, match=r"127\.0\.0\.1:1") as caught:
            await store.ping()
        assert "hunter2" not in str(caught.value)
        await store.aclose()

    async def test_a_purge_that_fails_names_the_server(self) -> None:
        """An operator sees which server it was and what to do, and no credentials."""
        url = "redis://user:hunter2@127.0.0.1:1/0"
        cache = World(store=RedisStore(url)).cache
        with pytest.raises(CacheError, match=r"127\.0\.0\.1:1 .*see that it runs") as caught:
            await cache.purge()
        assert "hunter2" not in str(caught.value)
        await cache.aclose()

    async def test_vector_sets_where_there_are_none(self, redis_server: RedisServer) -> None:
        """Asking for what the server lacks is a clear error, not a silent substitute."""
        store = RedisStore(redis_server.url, StoreLimits(timeout_ms=5000.0), vector_sets=True)
        with pytest.raises(CacheError, match="Redis 8"):
            await store.start()
        await store.aclose()


class TestSilence:
    async def test_a_closed_port_fails_fast(self) -> None:
        """A refused connection costs no more than the timeout."""
        store = RedisStore("redis://127.0.0.1:1/0", StoreLimits(timeout_ms=100.0))
        began = time.monotonic()
        with pytest.raises(CacheError):
            await store.get(P, "00")
        assert time.monotonic() - began < 1.0
        await store.aclose()

    async def test_a_paused_server_costs_the_timeout_only(self, farm: RedisFarm) -> None:
        """A hundred calls at once into silence all give up together, and then it recovers."""
        server = farm.server()
        store = RedisStore(server.url, StoreLimits(timeout_ms=200.0))
        await store.start()
        server.pause()
        began = time.monotonic()
        outcomes = await asyncio.gather(
            *(store.get(P, "00") for _ in range(100)), return_exceptions=True
        )
        assert time.monotonic() - began < 5  # one after the other they would take twenty
        assert all(isinstance(outcome, CacheError) for outcome in outcomes)
        server.resume()
        await eventually(lambda: _answers(store))
        await store.aclose()
        server.stop()

    async def test_a_lease_that_was_granted_into_silence_is_given_back(
        self, farm: RedisFarm
    ) -> None:
        """Nobody waits for a lease whose grant never arrived."""
        server = farm.server()
        one = RedisStore(server.url, StoreLimits(timeout_ms=200.0))
        other = RedisStore(server.url, StoreLimits(timeout_ms=5000.0))
        await one.start()
        server.pause()
        with pytest.raises(CacheError):
            await one.acquire("00", ttl_s=60)
        server.resume()

        async def free() -> bool:
            return await other.acquire("00", ttl_s=60) is not None

        await eventually(free, within_s=5.0)
        await one.aclose()
        await other.aclose()
        server.stop()

    async def test_a_lease_whose_grant_was_asked_for_twice(
        self, store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """redis-py sends a script again when the connection breaks before the reply is read."""
        plain = RedisLink.run

        async def twice(link: RedisLink, script: lua.Script, *arguments: Any) -> Any:
            await plain(link, script, *arguments)
            return await plain(link, script, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(RedisLink, "run", twice)
            lease = await store.acquire("00", ttl_s=60)
        assert lease is not None
        assert await store.acquire("00", ttl_s=60) is None
        await store.release(lease)
        assert await store.acquire("00", ttl_s=60) is not None

    async def test_a_full_server_still_invalidates(self, farm: RedisFarm) -> None:
        """Out of memory a put fails; bump, delete and purge do not."""
        server = farm.server()
        store = RedisStore(server.url, StoreLimits(timeout_ms=5000.0))
        await store.start()
        await keep(store, "00", documents=["d"])
        await keep(store, "01", scope="a1")
        with server.client() as client:
            client.config_set("maxmemory", 1)
        with pytest.raises(CacheError):
            await keep(store, "02")
        assert await payload(store, "00") is not None
        assert await store.delete_documents(["d"]) == 1
        assert await store.purge(scope="a1") == 1
        epoch = await store.bump(invalidate=True)
        assert epoch.floor == epoch.current
        await store.aclose()
        server.stop()

    async def test_a_script_cache_that_was_flushed(
        self, store: RedisStore, redis_server: RedisServer
    ) -> None:
        """Scripts are sent again when the server has forgotten them."""
        await keep(store, "00")
        with redis_server.client() as client:
            client.script_flush()
        assert await payload(store, "00") is not None


class TestLostKeys:
    async def test_a_flush_is_seen_at_once(self, store: RedisStore, behind: Behind) -> None:
        """After a flush nothing is found, and the floor is above every epoch given before."""
        await keep(store, "00", vector=axis(0))
        before = await store.bump(invalidate=False)
        behind.client.unlink(*(behind.name(key) for key in behind.names()))
        reading = await store.get(P, "00")
        assert reading.epoch.floor > before.current
        assert not await keep(store, "00", epoch=before.current)
        assert await near(store, axis(0)) == []
        assert await keep(store, "00", vector=axis(0))

    async def test_records_that_outlive_the_epoch_are_not_believed(
        self, store: RedisStore, behind: Behind
    ) -> None:
        """If the server dropped only the epoch, what is left of the records reads as missing."""
        await keep(store, "00", vector=axis(0))
        behind.client.unlink(behind.name("meta"))
        assert await payload(store, "00") is None
        assert await near(store, axis(0)) == []

    @pytest.mark.parametrize("field", ["current", "floor", "token", "seq", "bytes", "evictions"])
    async def test_damaged_numbers_count_as_lost(
        self, store: RedisStore, behind: Behind, field: str
    ) -> None:
        """Something else wrote into them: a purge begins anew, above every epoch given before."""
        await keep(store, "00", vector=axis(0))
        before = await store.epoch()
        behind.client.hset(behind.name("meta"), field, "garbage")
        await store.stats()
        await store.purge()
        assert await payload(store, "00") is None
        assert (await store.epoch()).current > before.current
        assert await keep(store, "00", vector=axis(0))
        assert await near(store, axis(0)) == ["00"]

    async def test_a_lookup_alone_mends_what_it_needs(
        self, store: RedisStore, behind: Behind
    ) -> None:
        """Nobody has to purge: the next reading finds nothing and begins anew."""
        await keep(store, "00", vector=axis(0))
        for damage in ("hset", "set"):
            behind.client.unlink(behind.name("meta"))
            if damage == "hset":
                behind.client.hset(behind.name("meta"), mapping={"current": "x", "floor": "1e9"})
            else:
                behind.client.set(behind.name("meta"), "a string")
            assert await payload(store, "00") is None
            assert await keep(store, "00", vector=axis(0))
            assert await payload(store, "00") is not None

    async def test_keys_of_somebody_else_are_told_with_the_mend(
        self, store: RedisStore, behind: Behind
    ) -> None:
        """A correct URL is not what is missing."""
        await keep(store, "00")
        behind.client.unlink(behind.name("side"))
        behind.client.set(behind.name("side"), "a string")
        with pytest.raises(CacheError, match=r"writes to the keys of cache\.namespace"):
            await store.purge()

    async def test_lost_accounts_do_not_stop_the_store(
        self, store: RedisStore, behind: Behind
    ) -> None:
        """Without its indexes the store goes on with records that expire by themselves."""
        await keep(store, "00", documents=["d"], vector=axis(0))
        behind.client.unlink(*(behind.name(key) for key in ("side", "used", "expires", "parts")))
        assert await payload(store, "00") is not None
        assert await keep(store, "00", payload=b"new", vector=axis(0))
        assert await payload(store, "00") == b"new"
        assert await near(store, axis(0)) == ["00"]

    @pytest.mark.parametrize("later", [False, True], ids=["from the start", "later"])
    async def test_a_server_that_evicts_any_key(self, farm: RedisFarm, later: bool) -> None:
        """Where the reverse index may vanish, a changed document ends all records."""
        policy = "noeviction" if later else "allkeys-lru"
        server = farm.server("maxmemory 100mb", f"maxmemory-policy {policy}")
        store = RedisStore(server.url, StoreLimits(timeout_ms=5000.0))
        await store.start()
        if later:
            with server.client() as client:
                client.config_set("maxmemory-policy", "allkeys-lru")
        await keep(store, "00", documents=["d"])
        with server.client() as client:
            client.unlink(*client.scan_iter(match="*}:d:*"))
        await store.delete_documents(["d"])
        assert await payload(store, "00") is None
        await keep(store, "01", scope="a1")
        with server.client() as client:
            client.unlink(*client.scan_iter(match="*}:s:*"))
        await store.purge(scope="a1")
        assert await payload(store, "01") is None
        await store.aclose()
        server.stop()


class TestRights:
    """A user who may do less than everything."""

    @pytest.fixture
    def server(self, farm: RedisFarm) -> Iterator[RedisServer]:
        """A server with the users ``some``, without dangerous commands, and ``none``."""
        server = farm.server("maxmemory-policy allkeys-lru", "maxmemory 100mb")
        with server.client() as client:
            client.execute_command("ACL SETUSER some on >pw ~* +@all -@dangerous")
            client.execute_command("ACL SETUSER none on >pw ~* +@all -@scripting")
        yield server
        server.stop()

    async def test_a_policy_that_is_hidden_may_be_any(self, server: RedisServer) -> None:
        """Who may not ask for INFO has to take the worst for given, and still learns the rest."""
        store = _store_of(server, "some:pw@")
        await store.start()
        await keep(store, "00", documents=["d"])
        with server.client() as client:
            client.unlink(*client.scan_iter(match="*}:d:*"))
        await store.delete_documents(["d"])
        assert await payload(store, "00") is None
        assert (await store.stats()).extra["version"][0].isdigit()
        await store.aclose()

    @pytest.mark.parametrize(
        ("who", "mend"),
        [
            ("none:pw@", "ACL SETUSER"),
            ("some:other@", "correct user and password"),
            ("", "put user"),
        ],
    )
    async def test_a_refusal_says_what_to_do(
        self, server: RedisServer, who: str, mend: str
    ) -> None:
        """A server that refuses has answered: neither silence nor a wrong address."""
        with server.client() as client:
            client.config_set("requirepass", "pw")
        store = _store_of(server, who)
        with pytest.raises(CacheError, match=f"refused: .*{mend}") as caught:
            await store.epoch()
        assert "gave no answer" not in str(caught.value)
        await store.aclose()

    async def test_a_demoted_primary_is_looked_up_again(self, farm: RedisFarm) -> None:
        """Connections to a server that has become a replica are not kept for the next write."""
        server = farm.server()
        store = _store_of(server, "")
        await store.epoch()
        with server.client() as client:
            before = {one["id"] for one in client.client_list() if "eval" in one["cmd"]}
            assert before
            client.replicaof("127.0.0.1", 1)
            with pytest.raises(CacheError, match="read only replica.*name the primary"):
                await store.bump(invalidate=False)

            async def dropped() -> bool:
                return not before & {one["id"] for one in client.client_list()}

            await eventually(dropped)
        await store.aclose()
        server.stop()


def _store_of(server: RedisServer, who: str) -> RedisStore:
    url = server.url.replace("//", f"//{who}")
    return RedisStore(url, StoreLimits(timeout_ms=5000.0))


class TestPoison:
    """Somebody else wrote into our keys."""

    @pytest.fixture
    async def poisoned(self, store: RedisStore, behind: Behind) -> RedisStore:
        """A store with two records, of which the first is no longer one, and an alias likewise."""
        await keep_many(store, ["00", "01"], documents=["d"], scope="a1", vector=axis(0))
        await store.alias(P, "02", "01", note=b"", retain_s=60)
        behind.client.set(behind.name(f"r:{P}:00"), b"not a hash")
        behind.client.set(behind.name(f"a:{P}:02"), b"\xc1 not msgpack")
        behind.client.hset(behind.name("side"), f"{P}:00", b"\xc1")
        return store

    async def test_it_reads_as_missing(self, poisoned: RedisStore) -> None:
        """Other records are found as before."""
        assert [await payload(poisoned, key) for key in ("00", "01", "02")] == [None, b"01", None]
        assert await near(poisoned, axis(0)) == ["01"]

    async def test_it_can_be_replaced(self, poisoned: RedisStore) -> None:
        """A put sets it right."""
        assert await keep(poisoned, "00", payload=b"new", vector=axis(0))
        assert await payload(poisoned, "00") == b"new"

    async def test_it_can_be_dropped(self, poisoned: RedisStore, behind: Behind) -> None:
        """Deleting and purging go through it."""
        await poisoned.delete_documents(["d"])
        await poisoned.purge(scope="a1")
        await poisoned.purge()
        assert await payload(poisoned, "01") is None
        assert f"r:{P}:00" not in behind.names()

    async def test_a_poisoned_log_does_not_stop_the_mirror(
        self, make_redis: MakeRedis, store: RedisStore, behind: Behind
    ) -> None:
        """Entries that are no changes are got over by loading again."""
        other = await make_redis()
        behind.client.xadd(behind.name("log"), {"rubbish": b"\xff"})
        await keep(store, "00", vector=axis(0))

        async def seen() -> bool:
            return await near(other, axis(0)) == ["00"]

        await eventually(seen)


class TestManners:
    async def test_all_keys_share_one_hash_tag(self, store: RedisStore, behind: Behind) -> None:
        """Every key of a namespace is in one slot of a cluster, and none is outside the prefix."""
        before = set(behind.client.scan_iter(count=1000))
        await keep(store, "00", scope="a1", documents=["d"], vector=axis(0))
        await store.alias(P, "01", "00", note=b"", retain_s=60)
        await store.acquire("00", ttl_s=5)
        added = set(behind.client.scan_iter(count=1000)) - before
        assert len(added) >= 8
        assert all(key.decode().startswith(behind.prefix) for key in added)
        assert behind.prefix.startswith("{")
        assert behind.prefix.endswith("}:")

    async def test_nothing_is_left_behind(self, store: RedisStore, behind: Behind) -> None:
        """After a purge only the epoch and the capped log remain."""
        await keep_many(
            store, [f"{i:02x}" for i in range(30)], scope="a1", documents=["d"], vector=axis(0)
        )
        await store.alias(P, "ff", "00", note=b"", retain_s=60)
        await store.purge()
        assert behind.names() == {"meta", "log"}

    async def test_what_expired_is_tidied_up_without_a_write(
        self, store: RedisStore, behind: Behind
    ) -> None:
        """Indexes of expired records go although nobody puts anything."""
        await keep_many(
            store, ["00", "01"], retain_s=0.2, scope="a1", documents=["d"], vector=axis(0)
        )

        async def tidy() -> bool:
            return behind.names() == {"meta", "log"}

        await eventually(tidy, within_s=5.0)
        assert (await store.stats()).bytes == 0

    @pytest.mark.parametrize("retain_s", [1e17, float("inf")])
    async def test_nothing_is_kept_for_ever(
        self, store: RedisStore, behind: Behind, retain_s: float
    ) -> None:
        """A time that no server can count to becomes ten years, and documents still drop it."""
        assert await keep(store, "00", retain_s=retain_s, documents=["d"])
        await store.alias(P, "01", "00", note=b"", retain_s=retain_s)
        for name in (f"r:{P}:00", f"a:{P}:01"):
            left_ms = int(behind.client.pttl(behind.name(name)))
            assert 0 < left_ms <= LONGEST_S * 1000
        assert await store.delete_documents(["d"]) == 1
        assert await payload(store, "00") is None

    async def test_the_log_is_capped(self, store: RedisStore, behind: Behind) -> None:
        """The change log keeps about ten thousand changes, whatever happens."""
        for _ in range(3):
            script = (
                "for i = 1, 8000 do redis.call('XADD', KEYS[1], '*', 'n', i, 'o', 'd', 'i', 'x') "
                "end"
            )
            behind.client.eval(script, 1, behind.name("log"))
        await keep_many(store, ["00", "01", "02"])  # one put trims ten thousand at most
        assert int(behind.client.xlen(behind.name("log"))) < 10_200

    async def test_recently_used_records_stay(
        self, make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Eviction takes what was not read for longest, as far as the last second knows."""
        monkeypatch.setattr(store_redis, "_TEND_S", 0.05)
        store = await make_redis(max_entries=5)
        await keep_many(store, [f"{i:02x}" for i in range(5)])
        await payload(store, "00")
        await asyncio.sleep(0.5)
        await keep_many(store, [f"{i:02x}" for i in range(5, 9)])
        assert await payload(store, "00") is not None
        assert await payload(store, "01") is None

    async def test_no_command_that_harms_neighbours(self, farm: RedisFarm) -> None:
        """No CONFIG SET, KEYS or FLUSH ever reaches the server, nor a scan of all its keys."""
        server = farm.server()
        store = RedisStore(server.url, StoreLimits(timeout_ms=5000.0))
        await store.start()
        await keep(store, "00", documents=["d"], vector=axis(0))
        await near(store, axis(0))
        await store.delete_documents(["d"])
        await store.purge()
        await store.stats()
        await store.aclose()
        with server.client() as client:
            asked = {name.split("|")[0] for name in client.info("commandstats")}
        server.stop()
        harmful = {"config", "keys", "flushall", "flushdb", "scan", "save", "monitor", "debug"}
        assert asked & {f"cmdstat_{name}" for name in harmful} == set()


async def _answers(store: RedisStore) -> bool:
    try:
        await store.ping()
    except CacheError:
        return False
    return True
