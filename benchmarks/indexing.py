"""How fast a corpus is indexed, against a plain loop, and what memory that takes.

    python -m benchmarks.indexing speed CORPUS [--documents 1000] [--rounds 3]
    python -m benchmarks.indexing query BEIR_FOLDER [--documents 1000] [--queries 100]
    python -m benchmarks.indexing memory CORPUS [--sizes 5000,15000,30000]

``speed`` compares ``DocumentIndex.upsert`` (reading, checking, terms, embedding, storing) with
nothing but ``SentenceTransformer.encode`` with its default batch of 32, on the same texts, taking
turns: ``encode`` is one call for all texts, which the library then sorts by length; ``loop`` is a
call for every 32 texts in the corpus's order, as a program writes that reads batch by batch. The
processor-time ratio holds on a busy machine too. ``query`` embeds single queries with both, taking
turns, and compares the ten nearest documents. ``memory`` indexes ever more documents, each size in
a process of its own, with an encoder that costs nothing.
"""

import argparse
import asyncio
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from funnel.evaluation.beir import read_queries
from funnel.index import DocumentIndex
from funnel.indexing.corpus import Corpus, read_corpus
from funnel.indexing.qdrant import QdrantSettings
from funnel.indexing.spool import full_text
from funnel.models.base import Side

EMBEDDER = "embedded:all-MiniLM-L6-v2"
BATCH = 32  # SentenceTransformer.encode's default
_TURN = 20


def main() -> None:
    """Run one of the two measurements and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "query", "memory", "one-size"])
    parser.add_argument("corpus")
    parser.add_argument("--documents", type=int, default=1_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="5000,15000,30000")
    parser.add_argument("--place", default="path", choices=["path", "memory"])
    options = parser.parse_args()
    ways = {"speed": speed, "query": query, "memory": memory, "one-size": one_size}
    print(json.dumps({"machine": machine(), **ways[options.what](options)}, indent=2))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import os

    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Documents per second of each way; medians over the rounds, and the medians' ratios."""
    from sentence_transformers import SentenceTransformer

    from funnel.indexing.corpus import document_from
    from funnel.models import Embedder
    from funnel.models.source import locate

    rows = list(itertools.islice(read_corpus(options.corpus).rows, options.documents))
    texts = [full_text(document_from(row.content)) for row in rows if row.content is not None]
    plain = SentenceTransformer(str(locate(EMBEDDER).folder), device="cpu")
    encoder = Embedder(EMBEDDER)
    encoder.load()

    async def index() -> None:
        with tempfile.TemporaryDirectory() as folder:
            documents = DocumentIndex(QdrantSettings(path=folder), "speed", encoder)
            await documents.start()
            await documents.upsert(Corpus("corpus", rows), on_bad="skip")
            await documents.aclose()

    async def encode() -> None:
        await asyncio.to_thread(plain.encode, texts, show_progress_bar=False)

    async def loop() -> None:
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            await asyncio.to_thread(plain.encode, batch, show_progress_bar=False)

    ways = {"index": index, "encode": encode, "loop": loop}
    times = asyncio.run(taking_turns(ways, options.rounds))
    return {"documents": len(texts), "rounds": options.rounds, **compared(times, len(texts))}


def query(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds for one query, and whether both find the same documents in the same order."""
    from sentence_transformers import SentenceTransformer

    from funnel.indexing.corpus import document_from
    from funnel.models import Embedder
    from funnel.models.source import locate

    rows = itertools.islice(read_corpus(options.corpus).rows, options.documents)
    texts = [full_text(document_from(row.content)) for row in rows if row.content is not None]
    queries = list(read_queries(Path(options.corpus)).values())[: options.queries]
    plain = SentenceTransformer(str(locate(EMBEDDER).folder), device="cpu")
    encoder = Embedder(EMBEDDER)
    ways = {
        "funnel": lambda text: encoder.encode([text])[0],
        "sentence-transformers": lambda text: plain.encode(text, show_progress_bar=False),
    }
    times, vectors = single_queries(ways, queries)
    documents = (encoder.encode(texts), plain.encode(texts, show_progress_bar=False))
    found = [
        np.argsort(-(np.stack(vectors[name]) @ matrix.T), axis=1, kind="stable")[:, :10]
        for name, matrix in zip(ways, documents, strict=True)
    ]
    p50 = {name: round(1_000 * statistics.median(each), 2) for name, each in times.items()}
    return {
        "queries": len(queries),
        "documents": len(texts),
        "p50_ms": p50,
        "ratio": round(p50["funnel"] / p50["sentence-transformers"], 2),
        "same_top_10_in_order": float((found[0] == found[1]).all(axis=1).mean()),
        "largest_difference": float(np.abs(documents[0] - documents[1]).max()),
    }


def single_queries(
    ways: dict[str, Callable[[str], Any]], queries: list[str]
) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
    """Seconds and vectors of each query by each way, in turns of twenty queries.

    A turn begins with five calls that do not count: after its own work each library's threads keep
    a core busy for a while, at the expense of the other's first calls.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    vectors: dict[str, list[Any]] = {name: [] for name in ways}
    for start in range(0, len(queries), _TURN):
        turn = queries[start : start + _TURN]
        for name, way in ways.items():
            for text in turn[:5]:
                way(text)
            for text in turn:
                began = time.perf_counter()
                vectors[name].append(way(text))
                times[name].append(time.perf_counter() - began)
    return times, vectors


async def taking_turns(
    ways: dict[str, Callable[[], Awaitable[None]]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of each way in each round, after one that does not count."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            await way()
            if turn:
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return times


def compared(times: dict[str, list[tuple[float, float]]], documents: int) -> dict[str, Any]:
    """Medians, and how many times faster indexing is than each other way."""
    wall = {name: statistics.median(w for w, _ in pairs) for name, pairs in times.items()}
    processor = {name: statistics.median(p for _, p in pairs) for name, pairs in times.items()}
    return {
        "documents_per_s": {name: round(documents / s, 1) for name, s in wall.items()},
        "ratio_wall": _ratios(wall),
        "processor_s": {name: round(s, 2) for name, s in processor.items()},
        "ratio_processor": _ratios(processor),
    }


def _ratios(seconds: dict[str, float]) -> dict[str, float]:
    return {n: round(s / seconds["index"], 2) for n, s in seconds.items() if n != "index"}


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory by corpus size, on a directory."""
    sizes = [int(size) for size in options.sizes.split(",")]
    return {"place": options.place, "sizes": [_in_process(options, size) for size in sizes]}


def _in_process(options: argparse.Namespace, size: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.indexing", "one-size", options.corpus]
    command += ["--documents", str(size), "--place", options.place]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3_600)
    measured: dict[str, Any] = json.loads(run.stdout)
    return {key: value for key, value in measured.items() if key != "machine"}


def one_size(options: argparse.Namespace) -> dict[str, Any]:
    """Index so many documents with vectors from a random generator."""
    return asyncio.run(_one_size(options))


async def _one_size(options: argparse.Namespace) -> dict[str, Any]:
    from tests.fakes import FakeEncoder, FloatArray

    class Random(FakeEncoder):
        generator = np.random.default_rng(0)

        async def aencode(
            self,
            texts: Sequence[str],
            *,
            side: Side | None = None,  # noqa: ARG002 - any text gets any vector
        ) -> FloatArray:
            return self.generator.standard_normal((len(texts), self.dim)).astype(np.float32)

    with tempfile.TemporaryDirectory() as folder:
        place = ":memory:" if options.place == "memory" else folder
        index = DocumentIndex(QdrantSettings(path=place), "memory", Random(dim=384))
        await index.start()
        before = _resident_mb()
        rows = itertools.islice(read_corpus(options.corpus).rows, options.documents)
        began, processor = time.perf_counter(), time.process_time()
        report = await index.upsert(Corpus("corpus", rows), on_bad="skip")
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        held, peak = _resident_mb() - before, _peak_mb() - before
        await index.aclose()
    return {
        "documents": report.documents,
        "seconds": round(seconds, 1),
        "processor_s": round(processor, 1),
        "store_mb": round(held),
        "store_kb_per_document": round(held * 1_000 / report.documents, 1),
        "peak_above_store_mb": round(peak - held),
    }


def _resident_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024 / 1e6


if __name__ == "__main__":
    main()
