"""What a cache store costs: lookups from 1k to 1M entries, start-up, memory per entry.

    python benchmarks/stores.py --store memory sqlite redis --entries 1000 10000 100000
    python benchmarks/stores.py --store index --entries 1000000

``index`` measures the nearest-query index alone, which memory, sqlite and redis (its mirror)
share. Redis is started for the occasion, unless ``--redis-url`` names one. Vectors have 384 numbers
and lie in clusters, as questions do; payloads have 2 KB.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from funnel.cache.nearest import NearestIndex
from funnel.cache.store import Record, Store, StoreLimits
from funnel.cache.store_memory import MemoryStore
from funnel.cache.store_redis import RedisStore
from funnel.cache.store_sqlite import SqliteStore
from tests.redis_servers import RedisFarm

DIMENSIONS = 384
PAYLOAD = b"x" * 2048
PARTITION = "ab" * 16
LOOKUPS = 500
Rows = NDArray[np.float32]
Figures = dict[str, Any]


def clustered(count: int, *, seed: int) -> Rows:
    """Unit vectors around 2,000 centres, shape (count, 384)."""
    centres = np.random.default_rng(0).normal(size=(2000, DIMENSIONS)).astype(np.float32)
    random = np.random.default_rng(seed)
    rows = centres[random.integers(0, len(centres), count)]
    rows += 0.8 * random.standard_normal((count, DIMENSIONS), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def resident_bytes() -> int:
    """What this process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def timed(work: Callable[[int], Awaitable[Any]], count: int) -> list[float]:
    """Milliseconds of ``count`` calls, one after the other."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        await work(number)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def spread(name: str, taken: Sequence[float]) -> Figures:
    """Median and 99th percentile under names that say so."""
    ordered = sorted(taken)
    return {
        f"{name}_p50_ms": round(median(ordered), 3),
        f"{name}_p99_ms": round(ordered[int(0.99 * (len(ordered) - 1))], 3),
    }


async def wait_until_settled(index: NearestIndex) -> float:
    """Until the graph holds what it should; seconds it took."""
    began = time.perf_counter()
    while not index.settled():  # noqa: ASYNC110 - its own thread is at work
        await asyncio.sleep(0.1)
    return time.perf_counter() - began


async def measure_index(entries: int) -> Figures:
    """The index alone: exact while the graph grows, then settled."""
    before = resident_bytes()
    index = NearestIndex(max_vectors=entries)
    for start in range(0, entries, 50_000):
        rows = clustered(min(50_000, entries - start), seed=1 + start)
        index.add_many(PARTITION, [f"{PARTITION}:{start + i:032x}" for i in range(len(rows))], rows)
    queries = clustered(LOOKUPS, seed=0)

    async def search(number: int) -> None:
        index.search(PARTITION, queries[number], 10)

    figures: Figures = spread("unsettled", await timed(search, min(LOOKUPS, 100)))
    figures["settle_s"] = round(await wait_until_settled(index), 1)
    figures |= spread("nearest", await timed(search, LOOKUPS))
    figures["index_bytes_per_entry"] = index.stats()["bytes"] // entries
    figures["process_bytes_per_entry"] = (resident_bytes() - before) // entries
    index.close()
    return figures


async def fill(store: Store, entries: int) -> list[float]:
    """Put entries, sixteen at a time but the last 500; milliseconds of each of those."""
    epoch = (await store.epoch()).current
    taken: list[float] = []
    for start in range(0, entries, 10_000):
        rows = clustered(min(10_000, entries - start), seed=1 + start)

        async def put(number: int, start: int = start, rows: Rows = rows) -> None:
            record = Record(
                partition=PARTITION,
                key=f"{start + number:032x}",
                scope="",
                payload=PAYLOAD,
                retain_s=86_400,
                epoch=epoch,
                vector=rows[number],
                documents=[f"d{(start + number) % 5000 + i}" for i in range(5)],
            )
            assert await store.put(record)

        alone = LOOKUPS if start + len(rows) == entries else 0
        together = len(rows) - alone
        for first in range(0, together, 16):
            await asyncio.gather(*(put(i) for i in range(first, min(first + 16, together))))
        taken = await timed(lambda i, put=put, n=together: put(n + i), alone)  # type: ignore[misc]
    return taken


async def measure_store(open_store: Callable[[], Store], entries: int) -> Figures:
    """A store filled with entries: its calls, and a second one that starts on what is there."""
    before = resident_bytes()
    store = open_store()
    await store.start()
    figures = spread("put", await fill(store, entries))
    await settle(store)
    figures["process_bytes_per_entry"] = (resident_bytes() - before) // entries
    queries = clustered(LOOKUPS, seed=0)

    async def get(number: int) -> None:
        found = (await store.get(PARTITION, f"{number * 7919 % entries:032x}")).found
        assert found

    async def nearest(number: int) -> None:
        await store.nearest(PARTITION, queries[number], limit=5, floor=0.7)

    await timed(get, 50)
    figures |= spread("get", await timed(get, LOOKUPS))
    figures |= spread("nearest", await timed(nearest, LOOKUPS))
    if store.shared:
        second = open_store()
        began = time.perf_counter()
        await second.start()
        figures["start_s"] = round(time.perf_counter() - began, 2)
        await second.aclose()
    await store.aclose()
    return figures


async def settle(store: Store) -> None:
    """Until the graph of a store's mirror stops growing."""
    exact = -1
    while exact != (  # noqa: ASYNC110 - a thread of the store is at work
        exact := (await store.stats()).extra["nearest"]["exact"]
    ):
        await asyncio.sleep(1.0)


@contextmanager
def redis_url(given: str | None) -> Iterator[str]:
    """The server named, or one started for the occasion."""
    if given:
        yield given
        return
    farm = RedisFarm()
    try:
        yield farm.server().url
    finally:
        farm.close()


def run(kind: str, entries: int, url: str | None) -> Figures:
    """One line of the table."""
    limits = StoreLimits(
        namespace=f"bench{entries}", timeout_ms=60_000, max_entries=2 * entries, max_bytes=1 << 36
    )
    if kind == "index":
        return asyncio.run(measure_index(entries))
    if kind == "memory":
        return asyncio.run(measure_store(lambda: MemoryStore(limits), entries))
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cache.sqlite"
            figures = asyncio.run(measure_store(lambda: SqliteStore(path, limits), entries))
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
            return {**figures, "store_bytes_per_entry": size // entries}
    with redis_url(url) as address:
        figures = asyncio.run(measure_store(lambda: RedisStore(address, limits), entries))
        return {**figures, "store_bytes_per_entry": asyncio.run(redis_bytes(address)) // entries}


async def redis_bytes(url: str) -> int:
    """The server's own account, then an end to what was measured."""
    from redis.asyncio import Redis

    async with Redis.from_url(url, socket_timeout=60) as client:
        used: int = (await client.info("memory"))["used_memory"]
        async for key in client.scan_iter(match="{funnel*:bench*", count=1000):
            await client.unlink(key)
    return used


def show(results: Sequence[Figures], console: Console) -> None:
    """All figures as a table, stores and sizes across."""
    names = list(dict.fromkeys(name for result in results for name in result))
    table = Table(title="cache stores")
    for number, result in enumerate([{"": ""}, *results]):
        table.add_column(f"{result.get('store', '')} {result.get('entries', '')}" if number else "")
    for name in names[2:]:
        table.add_row(name, *(str(result.get(name, "-")) for result in results))
    console.print(table)


def main() -> None:
    """Measure every store at every size, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    kinds = ["index", "memory", "sqlite", "redis"]
    parser.add_argument("--store", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--entries", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--redis-url")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    options = parser.parse_args()
    console = Console(stderr=options.json)
    cases = [(kind, entries) for kind in options.store for entries in options.entries]
    results = []
    for kind, entries in track(cases, description="measuring", console=Console(stderr=True)):
        figures = run(kind, entries, options.redis_url)
        results.append({"store": kind, "entries": entries, **figures})
        if options.json:
            print(json.dumps(results[-1]), flush=True)
    if not options.json:
        show(results, console)


if __name__ == "__main__":
    main()
