"""A real Redis is broken under load: every query is answered, rightly, in time, and it recovers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count

import pytest

from tests.integration.load import INTENTS, Stream, make_stream
from tests.redis_servers import RedisFarm, RedisServer

TIMEOUT_MS = 150.0
SLACK_MS = 500.0  # for a busy machine: what matters is that nobody waits for seconds
WARM_QUERIES = 100  # of each cache: a machine that stalls takes its time for them
WARM_S = 20.0
BROKEN_S = 1.0
RECOVERY_S = 30.0  # the breaker's pauses double while it is broken

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture
def server(farm: RedisFarm) -> RedisServer:
    """A server to break."""
    return farm.server()


@pytest.fixture
async def streams(server: RedisServer) -> AsyncIterator[Sequence[Stream]]:
    """Two caches on that server, as two processes would have them."""
    streams = [make_stream(server.url, timeout_ms=TIMEOUT_MS) for _ in range(2)]
    for stream in streams:
        await stream.cache.start()
    yield streams
    for stream in streams:
        await stream.cache.aclose()


def nothing() -> None:
    """Mends what mends itself."""


async def survive(
    streams: Sequence[Stream], breaks: Callable[[], object], mends: Callable[[], object] = nothing
) -> None:
    """Ask all the while: healthy, broken, mended; then check every answer and every wait."""
    done = False
    loads = [asyncio.create_task(s.run(lambda: done, seed=i)) for i, s in enumerate(streams)]
    try:
        await warm(streams)
        broken = time.monotonic()
        await asyncio.to_thread(breaks)
        await asyncio.sleep(BROKEN_S)
        await asyncio.to_thread(mends)
        await recover(streams)
    finally:
        done = True
        await asyncio.gather(*loads)
    for stream in streams:
        check(stream, broken)


async def warm(streams: Sequence[Stream]) -> None:
    """Wait until enough queries of each cache tell what is usual."""
    end = time.monotonic() + WARM_S
    while any(len(stream.seen) < WARM_QUERIES for stream in streams):
        assert time.monotonic() < end, "the caches hardly answer before anything is broken"
        await asyncio.sleep(0.05)


async def recover(streams: Sequence[Stream]) -> None:
    """Wait until what one cache keeps is found by the other as a paraphrase, and back."""
    fresh = count(INTENTS)
    for one, other in (streams, streams[::-1]):
        end = time.monotonic() + RECOVERY_S
        tier = None
        while tier != "semantic":
            assert time.monotonic() < end, "what one cache keeps is not found by the other"
            intent = next(fresh)
            await one.ask(intent, 0)
            await asyncio.sleep(0.1)
            tier = (await other.ask(intent, 1)).info.tier


def check(stream: Stream, broken: float) -> None:
    """No failed query, no wrong answer, and no wait beyond the timeout."""
    assert stream.failures == []
    assert stream.wrong() == []
    usual = stream.percentile(0.99, until=broken)
    worst = stream.percentile(0.99, since=broken)
    assert worst <= usual + TIMEOUT_MS + SLACK_MS
    assert stream.hits() > 0


async def test_killed(streams: Sequence[Stream], server: RedisServer) -> None:
    """SIGKILL, then an empty server on the same port."""
    await survive(streams, server.kill, server.start)


async def test_paused(streams: Sequence[Stream], server: RedisServer) -> None:
    """SIGSTOP: connections stay open and nobody answers, until SIGCONT."""
    await survive(streams, server.pause, server.resume)


async def test_flushed(streams: Sequence[Stream], server: RedisServer) -> None:
    """FLUSHALL takes records, epoch and log at once."""

    def flush() -> None:
        with server.client() as client:
            client.flushall()

    await survive(streams, flush)


async def test_filled(streams: Sequence[Stream], server: RedisServer) -> None:
    """A server at maxmemory refuses to write, until it has room."""

    def set_memory(limit: int) -> None:
        with server.client() as client:
            client.config_set("maxmemory", limit)  # our own server: the store never does this

    await survive(streams, lambda: set_memory(1), lambda: set_memory(0))


async def test_restarted_from_an_old_snapshot(
    streams: Sequence[Stream], server: RedisServer
) -> None:
    """A server that comes back with yesterday's records and epoch serves none of them."""

    def snapshot() -> None:
        with server.client() as client:
            client.save()

    await streams[0].fill()
    await asyncio.to_thread(snapshot)
    for stream in streams:
        stream.version = 1
    await streams[0].write_index()
    streams[1].version = streams[0].version
    await asyncio.sleep(0.6)  # what another process may still serve from its memory
    for stream in streams:
        stream.told = streams[0].version
    await survive(streams, server.kill, server.start)


async def test_turned_into_a_read_only_replica(
    streams: Sequence[Stream], server: RedisServer, farm: RedisFarm
) -> None:
    """A server demoted by a failover refuses writes, until it is a primary again."""
    primary = farm.server()

    def demote() -> None:
        with server.client() as client:
            client.replicaof("127.0.0.1", primary.port)

    def promote() -> None:
        with server.client() as client:
            client.replicaof("NO", "ONE")

    await survive(streams, demote, promote)


async def test_index_writes_while_it_is_down(
    streams: Sequence[Stream], server: RedisServer
) -> None:
    """An index write that the store could not be told of still ends the old answers."""
    stream = streams[0]
    await stream.fill()
    await asyncio.to_thread(server.pause)
    await stream.write_index()
    for intent in range(INTENTS):
        await stream.ask(intent, 0)
    await asyncio.to_thread(server.resume)
    end = time.monotonic() + RECOVERY_S
    while (await stream.ask(0, 0)).info.status != "hit":
        assert time.monotonic() < end, "the cache did not come back"
        await asyncio.sleep(0.05)
    assert stream.failures == []
    assert stream.wrong() == []


async def test_down_from_the_start(farm: RedisFarm) -> None:
    """A cache that starts before its server answers without it, and finds it when it comes."""
    server = farm.server()
    server.kill()
    streams = [make_stream(server.url, timeout_ms=TIMEOUT_MS) for _ in range(2)]
    for stream in streams:
        await stream.cache.start()
        served = await stream.ask(0, 0)
        assert served.info.status == "error"
    await asyncio.to_thread(server.start)
    await recover(streams)
    for stream in streams:
        assert stream.failures == []
        await stream.cache.aclose()
