"""What a lookup costs and what a hit saves.

    python benchmarks/cache.py                      # lookups and hits with the embedded models
    python benchmarks/cache.py --entries 1000 10000 100000 1000000
    python benchmarks/cache.py --funnel             # a hit against the miss it saves, on the demo

Lookups are whole calls of ``SemanticCache.serve`` on a memory store, one after the other.
``nearest`` is the store's search alone ("beside the embedding"), ``lookup miss`` a lookup with the
query's vector at hand and nothing near, ``verified hit`` one with the embedding and the verifier
where the nearest cached question is the one, ``verified miss`` one whose five candidates are all
refused. Cached questions are random words in random vectors, so that none of them is near by
chance; five real ones, all about passwords, are among them. ``--store`` takes sqlite, too;
``benchmarks/stores.py`` measures the stores alone, Redis included, and ``cache_scaling.py`` draws
the growth.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from funnel.cache.base import Answer, CacheRequest
from funnel.cache.codec import Codec, Entry
from funnel.cache.factory import build_store
from funnel.cache.place import key_of, place_of
from funnel.cache.semantic import SemanticCache
from funnel.cache.settings import CacheSettings
from funnel.cache.store import Record, Store
from funnel.demo.loader import load_documents
from funnel.engine import Funnel
from funnel.models.base import Encoder
from funnel.models.pool import ModelPool
from funnel.query import Query
from funnel.settings import FunnelSettings
from funnel.types import Hit

QUESTION = "How do I reset my password?"
PARAPHRASES = ("How can I reset my password?", "What do I do to reset my password?")
NEIGHBOURS = (
    "How do I change my password?",
    "How do I reset the password of my account?",
    "Where can I reset a password?",
    "How do I find out my password?",
)
OTHER = "When does the museum open on Sundays?"
CONFIG = Path(__file__).parent.parent / "configs" / "embedded.yaml"
REPEATS = 200
Vector = NDArray[np.float32]
Figures = dict[str, Any]


def answer() -> Answer:
    """Ten documents of about 600 characters."""
    text = "A paragraph of an answer, as long as they are in a help centre. " * 9
    hits = [Hit(rank, f"doc-{rank}", 1.0, "logit", "ce", "Title", text) for rank in range(1, 11)]
    return Answer(tuple(hits), elapsed_ms=400.0)


async def compute() -> Answer:
    """The stages, at no cost: only the cache is measured."""
    return answer()


def settings(entries: int, store: str, folder: Path, threshold: float) -> CacheSettings:
    """Room for all entries, nothing in the background."""
    return CacheSettings.model_validate(
        {
            "store": store,
            **({"path": folder / "cache.sqlite"} if store == "sqlite" else {}),
            "threshold": threshold,
            "floor": 0.75,
            "max_entries": 2 * entries + 100,
            "max_bytes": 64 * 1024**3,
            "audit_share": 0,
            "early_refresh": 0,
            "timeout_ms": 5_000,
            "verifier": {"timeout_ms": 10_000},
        }
    )


async def fill(cache: SemanticCache, store: Store, entries: int) -> None:
    """Put so many questions of random words and vectors into the store."""
    place = place_of(request(QUESTION, None), cache.matcher.identity)
    assert place is not None
    codec, random = Codec(), np.random.default_rng(0)
    epoch = (await store.epoch()).current
    near = dict(zip(NEIGHBOURS, _encoder().encode(NEIGHBOURS), strict=True))
    for number in track(range(entries), "fill", transient=True):
        vector = random.standard_normal(384, dtype=np.float32)
        vector /= np.linalg.norm(vector)
        text = NEIGHBOURS[number] if number < len(NEIGHBOURS) else f"question {number}"
        vector = near.get(text, vector)
        entry = Entry(text, (), time.time(), 86_400.0, epoch, 400.0)
        payload = codec.seal(entry, place.partition, key_of(text))
        await store.put(
            Record(place.partition, key_of(text), "", payload, 86_400.0, epoch, vector=vector)
        )


def request(text: str, vector: Vector | None) -> CacheRequest:
    """A request whose embedding is at hand, or is computed."""

    async def embed(text: str) -> Vector:
        if vector is not None:
            return vector
        return np.asarray((await _encoder().aencode([text]))[0], dtype=np.float32)

    return CacheRequest(Query(text, query_id="bench", embed=embed), {"k": 10})


def _encoder() -> Encoder:
    return ModelPool.shared().encoder("embedded:all-MiniLM-L6-v2")


async def settle(store: Store) -> None:
    """Until the graph of nearest questions stops growing."""
    exact = -1
    while exact != (  # noqa: ASYNC110 - a thread of the store is at work
        exact := (await store.stats()).extra["nearest"]["exact"]
    ):
        await asyncio.sleep(1.0)


async def timed(work: Callable[[int], Awaitable[Any]], repeats: int = REPEATS) -> Figures:
    """Median and 99th percentile in milliseconds."""
    took = []
    for number in range(repeats):
        began = time.perf_counter()
        await work(number)
        took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return {"p50_ms": round(median(took), 3), "p99_ms": round(took[int(0.99 * len(took))], 3)}


async def measure(entries: int, store_kind: str, folder: Path) -> Figures:
    """All figures at one number of cached questions."""
    encoder = _encoder()
    scorer = ModelPool.shared().scorer("embedded:duplicate")
    encoder.encode([QUESTION])
    scorer.score([(QUESTION, OTHER)])
    before = resident_bytes()
    chosen = settings(entries, store_kind, folder, -100.0)
    store = build_store(chosen)
    cache = SemanticCache(chosen, store, encoder, scorer)
    strict = SemanticCache(settings(entries, store_kind, folder, 100.0), store, encoder, scorer)
    await cache.start()
    await fill(cache, store, entries)
    await settle(store)
    held = (await store.stats()).bytes
    grown = resident_bytes() - before
    await cache.serve(request(QUESTION, None), compute)
    vectors = encoder.encode([f"{OTHER} {number}" for number in range(REPEATS)])
    identity = cache.matcher.identity
    place = place_of(request(QUESTION, None), identity)
    assert place is not None

    async def exact(_: int) -> None:
        await cache.serve(request(QUESTION, None), compute)

    async def beside_embedding(number: int) -> None:
        await store.nearest(place.partition, vectors[number], limit=5, floor=0.75)

    async def miss(number: int) -> None:
        await cache.explain(request(f"{OTHER} {number}", vectors[number]))

    async def verified(number: int) -> None:
        served = await cache.serve(request(f"{PARAPHRASES[0]}{'?' * number}", None), compute)
        assert served.info.tier == "semantic", served.info

    async def refused(number: int) -> None:
        served = await strict.serve(request(f"{PARAPHRASES[1]}{'!' * number}", None), compute)
        assert served.info.reason == "below_threshold", served.info

    figures = {
        "entries": entries,
        "store": store_kind,
        "exact_hit": await timed(exact),
        "nearest": await timed(beside_embedding),
        "lookup_miss": await timed(miss),
        "verified_hit": await timed(verified, repeats=50),
        "verified_miss": await timed(refused, repeats=50),
        "bytes_per_entry": round(held / max(1, entries)),
        "resident_bytes_per_entry": round(grown / max(1, entries)),
    }
    await cache.aclose()
    return figures


def resident_bytes() -> int:
    """What this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def hit_against_miss() -> Figures:
    """Hits and the miss they save, through the whole embedded funnel over the demo's documents.

    Every title is asked once, once more as it is, and once in slightly other words. The threshold
    takes any, so that each of those goes the whole way to a verified hit.
    """
    documents = load_documents()
    titles = [document.title for document in documents[:40]]
    plain = yaml.safe_load(CONFIG.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        plain["qdrant"] = {"path": ":memory:"}
        plain["cache"] |= {"path": f"{folder}/cache.sqlite", "audit_share": 0, "threshold": -100.0}
        with Funnel(FunnelSettings.from_mapping(plain)) as funnel:
            funnel.index(documents)
            funnel.run("warm up")
            misses = [funnel.run(title, cache=False).elapsed_ms for title in titles]
            for title in titles:
                funnel.run(title)
            exact = [funnel.run(title) for title in titles]
            verified = [funnel.run(f"{title} please") for title in titles]
    # A title that another had answered by then has no entry of its own to be near to.
    assert sum(result.cache.tier == "semantic" for result in verified) >= 0.9 * len(titles)
    miss = median(misses)
    figures: Figures = {"miss_p50_ms": miss}
    for name, results in (("exact_hit", exact), ("verified_hit", verified)):
        hits = [result.elapsed_ms for result in results if result.cache.status == "hit"]
        figures |= {f"{name}_p50_ms": median(hits), f"{name}_times_faster": miss / median(hits)}
    return figures


def show(rows: list[Figures], console: Console) -> None:
    """The figures as a table."""
    table = Table(title="cache", title_justify="left")
    timings = ("exact_hit", "nearest", "lookup_miss", "verified_hit", "verified_miss")
    for heading in ("store", "entries", *timings, "bytes/entry", "resident/entry"):
        table.add_column(heading.replace("_", " "), justify="right")
    for row in rows:
        times = [f"{row[name]['p50_ms']:.2f} / {row[name]['p99_ms']:.2f}" for name in timings]
        sizes = (f"{row['bytes_per_entry']}", f"{row['resident_bytes_per_entry']}")
        table.add_row(row["store"], f"{row['entries']}", *times, *sizes)
    console.print(table)
    console.print("milliseconds, p50 / p99")


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--store", choices=["memory", "sqlite"], default="memory")
    parser.add_argument("--funnel", action="store_true", help="a hit against the miss it saves")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.funnel:
        print(json.dumps(hit_against_miss()))
        return
    rows = []
    for entries in options.entries:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(asyncio.run(measure(entries, options.store, Path(folder))))
    if options.json:
        print(json.dumps(rows))
    else:
        show(rows, Console())


if __name__ == "__main__":
    main()
