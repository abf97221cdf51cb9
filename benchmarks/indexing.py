"""How fast a corpus is indexed, against a plain loop, and what memory that takes.

    python -m benchmarks.indexing speed CORPUS [--documents 1000] [--rounds 3]
    python -m benchmarks.indexing memory CORPUS [--sizes 5000,15000,30000]

``speed`` compares ``DocumentIndex.upsert`` (reading, checking, terms, embedding, storing) with
nothing but ``SentenceTransformer.encode`` with its default batch, on the same texts, taking turns.
The processor-time ratio holds on a busy machine too. ``memory`` indexes ever more documents, each
size in a process of its own, with an encoder that costs nothing.
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
from typing import Any

import numpy as np

from funnel.corpus import Corpus, read_corpus
from funnel.index import DocumentIndex
from funnel.qdrant import QdrantSettings
from funnel.spool import full_text

EMBEDDER = "embedded:all-MiniLM-L6-v2"


def main() -> None:
    """Run one of the two measurements and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "memory", "one-size"])
    parser.add_argument("corpus")
    parser.add_argument("--documents", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="5000,15000,30000")
    parser.add_argument("--place", default="path", choices=["path", "memory"])
    options = parser.parse_args()
    measure = {"speed": speed, "memory": memory, "one-size": one_size}[options.what]
    print(json.dumps({"machine": machine(), **measure(options)}, indent=2))


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
    """Documents per second of both ways; medians over the rounds, and the medians' ratio."""
    from sentence_transformers import SentenceTransformer

    from funnel.corpus import document_from
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

    times = asyncio.run(taking_turns({"index": index, "encode": encode}, options.rounds))
    return {"documents": len(texts), "rounds": options.rounds, **compared(times, len(texts))}


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
    """Medians and how many times faster indexing is than the loop."""
    wall = {name: statistics.median(w for w, _ in pairs) for name, pairs in times.items()}
    processor = {name: statistics.median(p for _, p in pairs) for name, pairs in times.items()}
    return {
        "documents_per_s": {name: round(documents / s, 1) for name, s in wall.items()},
        "ratio_wall": round(wall["encode"] / wall["index"], 2),
        "processor_s": {name: round(s, 2) for name, s in processor.items()},
        "ratio_processor": round(processor["encode"] / processor["index"], 2),
    }


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

        async def aencode(self, texts: Sequence[str]) -> FloatArray:
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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
