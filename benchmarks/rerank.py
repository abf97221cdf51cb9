"""Cross-encoder and encoder beside the libraries they replace, and what drives their cost.

``python benchmarks/rerank.py --data BEIR_FOLDER [--limit N] [--out FILE.json]``; the comparison of
backends itself is ``funnel bench rerank``, the ladder of rates ``funnel bench load``.
"""

import argparse
import asyncio
import json
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from funnel.bench.candidates import CandidateLists, load_candidates
from funnel.bench.rerank import bench_rerank, device
from funnel.bench.ways import default_model
from funnel.deadline import Deadline
from funnel.models import CrossEncoderScorer, Embedder
from funnel.models.source import EMBEDDED_ENCODER, locate

ROUNDS = 15


def median_ms(act: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median time of an action that ran once before."""
    act()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def query_embedding() -> dict[str, float]:
    """One query at a time: ours and SentenceTransformer.encode's, interleaved."""
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(locate(EMBEDDED_ENCODER).folder), device="cpu")
    ours, query = Embedder(EMBEDDED_ENCODER), "how do I reset my password on the website?"
    mine = median_ms(lambda: ours.encode([query]), 50)
    theirs = median_ms(lambda: library.encode([query], show_progress_bar=False), 50)
    return {"funnel_ms": mine, "sentence_transformers_ms": theirs, "ratio": mine / theirs}


def document_embedding(texts: list[str]) -> dict[str, float]:
    """Documents per second: ours and a plain encode with its default batch."""
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(locate(EMBEDDED_ENCODER).folder), device="cpu")
    ours = Embedder(EMBEDDED_ENCODER)
    mine = median_ms(lambda: ours.encode(texts), 3)
    theirs = median_ms(lambda: library.encode(texts, show_progress_bar=False), 3)
    rate = 1000 * len(texts)
    return {"funnel": rate / mine, "sentence_transformers": rate / theirs, "ratio": theirs / mine}


def cost_of_depth(scorer: CrossEncoderScorer, pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Milliseconds for the first n candidates."""
    depths = (1, 10, 25, 50, 100)
    return {str(n): median_ms(partial(scorer.score, pairs[:n]), 5) for n in depths}


def cost_of_length(scorer: CrossEncoderScorer, query: str) -> dict[str, float]:
    """Milliseconds for 20 documents of so many words."""
    sizes = (10, 25, 50, 100, 200, 400)
    return {str(n): median_ms(partial(scorer.score, [(query, "word " * n)] * 20), 5) for n in sizes}


def concurrency(scorer: CrossEncoderScorer, lists: list[list[tuple[str, str]]]) -> dict[str, float]:
    """Pairs per second: one offline batch, and 8 callers with a list each at a time."""
    flat = [pair for pairs in lists for pair in pairs]

    async def callers() -> None:
        waiting = iter(lists)

        async def caller() -> None:
            for pairs in waiting:
                await scorer.ascore(pairs, deadline=Deadline())

        await asyncio.gather(*(caller() for _ in range(8)))

    offline = median_ms(lambda: scorer.score(flat), 3)
    shared = median_ms(lambda: asyncio.run(callers()), 3)
    rate = 1000 * len(flat)
    return {"offline": rate / offline, "8_callers": rate / shared, "ratio": offline / shared}


def measure(candidates: CandidateLists, model: str) -> dict[str, Any]:
    """Everything, in one JSON object."""
    scorer = CrossEncoderScorer(model)
    lists = [candidates.pairs(query_id) for query_id in candidates.lists]
    return {
        "device": device(),
        "model": model,
        "rerank": bench_rerank(candidates, model, dense=False).to_dict(),
        "query_embedding": query_embedding(),
        "documents_per_s": document_embedding(list(candidates.texts.values())[:400]),
        "ms_by_candidates": cost_of_depth(scorer, lists[0]),
        "ms_by_words": cost_of_length(scorer, lists[0][0][0]),
        "pairs_per_s": concurrency(scorer, lists[:16]),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    candidates = load_candidates(options.data, split="test", depth=100, limit=options.limit)
    report = measure(candidates, options.model or default_model())
    text = json.dumps(report, indent=2)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
