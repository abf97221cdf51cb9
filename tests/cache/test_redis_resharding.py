"""A slot of a cluster that moves to another node, key by key, while the cache is at work."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from funnel.cache.store import StoreLimits
from funnel.cache.store_redis import RedisStore
from funnel.errors import CacheError
from tests.cache.records import axis, keep, payload
from tests.redis_servers import HOST, RedisServer


class _Reshard:
    """Moves the slot of a namespace, one kind of key after the other, as ``redis-cli`` does."""

    def __init__(self, servers: list[RedisServer], prefix: str) -> None:
        self._clients: list[Any] = [server.client() for server in servers]
        self._ports = [server.port for server in servers]
        self._prefix = prefix
        self._slot = int(self._clients[0].execute_command("CLUSTER KEYSLOT", f"{prefix}meta"))
        names = [str(client.execute_command("CLUSTER MYID"), "ascii") for client in self._clients]
        self._from = self._slot * len(servers) // 16384
        self._to = (self._from + 1) % len(servers)
        self._new_owner = names[self._to]
        self._ask(self._to, "IMPORTING", names[self._from])
        self._ask(self._from, "MIGRATING", self._new_owner)

    def move(self, *kinds: str) -> None:
        """Move the keys whose name begins so; with none, all that is left."""
        source = self._clients[self._from]
        for key in source.execute_command("CLUSTER GETKEYSINSLOT", self._slot, 1000):
            if not kinds or key.removeprefix(self._prefix).startswith(kinds):
                port = self._ports[self._to]
                source.execute_command("MIGRATE", HOST, port, key, 0, 5000, "REPLACE")

    def finish(self) -> None:
        """Move the rest, and say whose the slot is."""
        self.move()
        for node in range(len(self._clients)):
            self._ask(node, "NODE", self._new_owner)

    def _ask(self, node: int, state: str, owner: str) -> None:
        self._clients[node].execute_command("CLUSTER SETSLOT", self._slot, state, owner)


@pytest.fixture
async def store(redis_cluster: list[RedisServer]) -> AsyncIterator[RedisStore]:
    """A store whose slot is its own."""
    limits = StoreLimits(namespace=uuid.uuid4().hex, timeout_ms=5000.0)
    store = RedisStore(redis_cluster[0].url, limits)
    yield store
    await store.aclose()


@pytest.mark.parametrize("first", ["side", "meta"])
async def test_nothing_is_done_by_halves(
    redis_cluster: list[RedisServer], store: RedisStore, first: str
) -> None:
    """While each node has a part of the keys changes are refused, and what was kept stays whole."""
    await keep(store, "00", documents=["old"], vector=axis(0), payload=b"old")
    epoch = (await store.epoch()).current
    slot = _Reshard(redis_cluster, store.prefix)
    slot.move(first)
    with pytest.raises(CacheError, match="try again when the cluster has moved the slot"):
        await keep(store, "00", documents=["new"], vector=axis(0), epoch=epoch)
    with pytest.raises(CacheError, match="has moved the slot"):
        await store.delete_documents(["old"])
    slot.finish()
    assert await payload(store, "00") == b"old"
    assert await store.delete_documents(["old"]) == 1
    assert await payload(store, "00") is None
