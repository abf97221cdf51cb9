"""Stores of every kind, on servers that the tests start themselves."""

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from funnel.cache.store import Store, StoreLimits
from funnel.cache.store_memory import MemoryStore
from funnel.cache.store_redis import RedisStore
from funnel.cache.store_sqlite import SqliteStore
from tests.cache.behind import Behind
from tests.redis_servers import RedisFarm, RedisServer
from tests.vector_set_server import VectorSetServer

MakeStore = Callable[..., Awaitable[Store]]
MakeRedis = Callable[..., Awaitable[RedisStore]]

SHARED_KINDS = [
    "sqlite",
    "redis",
    "redis_cluster",
    "redis_vector_sets",
    *(["redis_url"] if os.environ.get("REDIS_URL") else []),
]
_KINDS = ["memory", *SHARED_KINDS]
_PATIENT_MS = 5000.0  # the tests look at answers, not at speed, and the machine may be busy


@pytest.fixture(scope="session")
def farm() -> Iterator[RedisFarm]:
    """Starts Redis servers; all are ended with the session."""
    farm = RedisFarm()
    yield farm
    farm.close()


@pytest.fixture(scope="session")
def redis_server(farm: RedisFarm) -> RedisServer:
    """A server that tests share; they use namespaces of their own."""
    return farm.server()


@pytest.fixture(scope="session")
def redis_cluster(farm: RedisFarm) -> list[RedisServer]:
    """Three nodes that tests share."""
    return farm.cluster()


@pytest.fixture(scope="session")
def vector_set_server(redis_server: RedisServer) -> Iterator[VectorSetServer]:
    """A stand-in for Redis 8 that tests share."""
    server = VectorSetServer(redis_server)
    yield server
    server.close()


@pytest.fixture(params=_KINDS)
def store_kind(request: pytest.FixtureRequest) -> str:
    """Every kind of store in turn; tests may narrow it."""
    kind: str = request.param
    return kind


@pytest.fixture
async def make_store(
    store_kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[MakeStore]:
    """Makes started stores of one kind that share a namespace; cleans up after the test."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    made: list[Store] = []

    async def make(**limits: Any) -> Store:
        allowed = {"namespace": namespace, "timeout_ms": _PATIENT_MS, **limits}
        store = _build(store_kind, request, tmp_path, StoreLimits(**allowed))
        made.append(store)
        await store.start()
        return store

    yield make
    for store in made:
        await store.aclose()
    if store_kind == "redis_url":
        await _remove_keys(os.environ["REDIS_URL"], made)


@pytest.fixture
async def store(make_store: MakeStore) -> Store:
    """One store with room enough."""
    return await make_store()


def _build(kind: str, request: pytest.FixtureRequest, folder: Path, limits: StoreLimits) -> Store:
    if kind == "memory":
        return MemoryStore(limits)
    if kind == "sqlite":
        return SqliteStore(folder / "cache.sqlite", limits)
    if kind == "redis":
        return RedisStore(request.getfixturevalue("redis_server").url, limits)
    if kind == "redis_cluster":
        return RedisStore(request.getfixturevalue("redis_cluster")[1].url, limits)
    if kind == "redis_vector_sets":
        return RedisStore(request.getfixturevalue("vector_set_server").url, limits)
    return RedisStore(os.environ["REDIS_URL"], limits)


async def _remove_keys(url: str, made: Sequence[Store]) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        for prefix in {store.prefix for store in made if isinstance(store, RedisStore)}:
            async for key in client.scan_iter(match=f"{prefix}*", count=1000):
                await client.unlink(key)


@pytest.fixture
async def make_redis(redis_server: RedisServer) -> AsyncIterator[MakeRedis]:
    """Makes started stores that share a namespace of their own."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    made: list[RedisStore] = []

    async def make(url: str = redis_server.url, **limits: Any) -> RedisStore:
        allowed = {"namespace": namespace, "timeout_ms": 5000.0, **limits}
        made.append(RedisStore(url, StoreLimits(**allowed)))
        await made[-1].start()
        return made[-1]

    yield make
    for store in made:
        await store.aclose()


@pytest.fixture
def behind(redis_server: RedisServer, store: RedisStore) -> Behind:
    """A look behind the back of a file's own ``store``."""
    return Behind(redis_server.client(), store.prefix)
