"""What a lookup among cached questions costs as their number grows: a table and a drawing.

    python benchmarks/cache_scaling.py                                    # 1k to 100k
    python benchmarks/cache_scaling.py --entries 1000 10000 100000 1000000 --plot scaling.svg

One memory store grows from size to size. At each it is asked for known texts (the exact tier) and
for the nearest of new questions, both with the record confirmed and its payload of 512 bytes handed
out, while nothing else runs; ``growing`` is the same search while new vectors still move into the
graph. Embedding and verifier come on top and do not depend on the size. Vectors have 384 numbers.
New questions are cached ones turned aside to a cosine of about .85; ``recall`` is how many of them
find the one that they were made of among their five nearest. A million entries take minutes to put
and about 3 GB.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.stores import PARTITION, clustered, resident_bytes, settle, spread, timed
from funnel.cache.store import Record, StoreLimits
from funnel.cache.store_memory import MemoryStore

PAYLOAD = b"x" * 512
LOOKUPS = 400
ASIDE = 0.62  # of the length of the vector: a cosine of .85
CHUNK = 20_000
Rows = NDArray[np.float32]
Figures = dict[str, Any]


async def grow(store: MemoryStore, start: int, end: int) -> None:
    """Put records up to number ``end``."""
    for first in range(start, end, CHUNK):
        count = min(CHUNK, end - first)
        for number, vector in enumerate(clustered(count, seed=first + 1), start=first):
            payload = PAYLOAD + number.to_bytes(8, "big")  # no two share their bytes
            await store.put(
                Record(PARTITION, f"{number:032x}", "", payload, 86_400, 0, vector=vector)
            )
        await asyncio.sleep(0)


def questions(entries: int, known: int) -> tuple[list[int], Rows]:
    """Numbers of cached questions among the first ``known``, and new ones near each of them."""
    draw = np.random.default_rng(entries)
    first_chunk = clustered(min(CHUNK, known), seed=1)
    numbers = draw.integers(0, len(first_chunk), LOOKUPS)
    aside = draw.standard_normal((LOOKUPS, first_chunk.shape[1])).astype(np.float32)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    near = first_chunk[numbers] + ASIDE * aside
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    return numbers.tolist(), near.astype(np.float32)


async def measure(store: MemoryStore, entries: int, first: int, before: int) -> Figures:
    """All figures at one size; ``first`` is the smallest size, ``before`` the bytes at none."""
    sources, asked = questions(entries, first)
    found: list[bool] = []

    async def get(number: int) -> None:
        assert (await store.get(PARTITION, f"{number * 7919 % entries:032x}")).found

    async def nearest(number: int) -> None:
        near = await store.nearest(PARTITION, asked[number], limit=5, floor=0.6)
        found.append(f"{sources[number]:032x}" in [stored.key for stored in near.found])

    figures: Figures = {"entries": entries}
    figures |= spread("growing", await timed(nearest, LOOKUPS // 8))
    await settle(store)
    await timed(get, 50)
    figures |= spread("exact", await timed(get, LOOKUPS))
    found.clear()
    figures |= spread("nearest", await timed(nearest, LOOKUPS))
    figures["recall"] = round(sum(found) / len(found), 4)
    index = (await store.stats()).extra["nearest"]
    figures["index_bytes_per_entry"] = index["bytes"] // entries
    figures["process_bytes_per_entry"] = (resident_bytes() - before) // entries
    return figures


async def run(sizes: Sequence[int]) -> list[Figures]:
    """Grow one store through all sizes."""
    before = resident_bytes()
    limits = StoreLimits(max_entries=2 * max(sizes), max_bytes=1 << 40)
    store = MemoryStore(limits)
    results, have = [], 0
    for entries in track(sizes, "growing", console=Console(stderr=True)):
        await grow(store, have, entries)
        have = entries
        results.append(await measure(store, entries, min(sizes), before))
    await store.aclose()
    return results


def show(results: Sequence[Figures], console: Console) -> None:
    """Figures down, sizes across."""
    table = Table(title="a lookup by the number of cached questions", title_justify="left")
    table.add_column("entries")
    for one in results:
        table.add_column(f"{one['entries']:,}", justify="right")
    for name in list(results[0])[1:]:
        table.add_row(name, *(f"{one[name]:,}" for one in results))
    console.print(table)


def draw(results: Sequence[Figures], path: Path) -> None:
    """Milliseconds over entries, both logarithmic; the suffix says PNG or SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes = [one["entries"] for one in results]
    for name in ("nearest_p99_ms", "nearest_p50_ms", "exact_p99_ms", "exact_p50_ms"):
        axes.plot(sizes, [one[name] for one in results], marker="o", label=name.replace("_", " "))
    axes.set(xscale="log", yscale="log", xlabel="cached questions", ylabel="ms")
    axes.axhline(5.0, color="grey", linestyle=":")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path)


def main() -> None:
    """Measure, tell, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = [1_000, 3_000, 10_000, 30_000, 100_000]
    parser.add_argument("--entries", nargs="+", type=int, default=sizes)
    parser.add_argument("--plot", type=Path, help="draw into this file (.png or .svg)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = asyncio.run(run(sorted(options.entries)))
    if options.json:
        print(json.dumps(results))
    else:
        show(results, Console())
    if options.plot is not None:
        draw(results, options.plot)


if __name__ == "__main__":
    main()
