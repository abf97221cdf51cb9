"""What early stop costs and gains: nDCG@10 and milliseconds, by confidence and block size.

``python -m benchmarks.early_stop --data BEIR_FOLDER [--model NAME] [--limit N] [--out FILE.json]``.
Each query's candidates are reranked by the stage itself, in full and with each setting, in turns,
so that drift of the machine hits all alike. Candidates come from BM25, or the folder's run file.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from funnel.bench.candidates import CandidateLists, load_candidates
from funnel.bench.rerank import device
from funnel.bench.ways import default_model
from funnel.deadline import Deadline
from funnel.evaluation.metrics import per_query
from funnel.models import CrossEncoderScorer
from funnel.query import Query, Vector
from funnel.stages.base import StageRequest
from funnel.stages.cross_encoder import CrossEncoderSettings, CrossEncoderStage
from funnel.types import Candidate, Document

K = 10
CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.99)
BLOCKS = (16, 24, 40)


@dataclass(slots=True)
class Row:
    """One setting's measurements; without a confidence, the full scoring."""

    early_stop: float | None
    block: int
    seconds: list[float] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    rankings: dict[str, list[str]] = field(default_factory=dict)


async def _no_vector(_: str) -> Vector:
    raise AssertionError("a cross-encoder asked for a query vector")


def _candidates(lists: CandidateLists, query_id: str) -> list[Candidate]:
    return [Candidate(Document(doc_id, lists.texts[doc_id])) for doc_id in lists.lists[query_id]]


async def _run(stage: CrossEncoderStage, row: Row, lists: CandidateLists, query_id: str) -> None:
    changes = {"early_stop": row.early_stop, "block": row.block}
    settings = stage.settings.model_copy(update=changes)
    query = Query(lists.dataset.queries[query_id], query_id=query_id, embed=_no_vector)
    request = StageRequest(query, K, settings, Deadline())
    candidates = _candidates(lists, query_id)
    began = time.perf_counter()
    output = await stage.run(request, candidates)
    row.seconds.append(time.perf_counter() - began)
    row.scored.append(int(output.details["scored"]))
    row.rankings[query_id] = [each.document.id for each in output.ranking[:K]]


async def measure(stage: CrossEncoderStage, lists: CandidateLists) -> list[Row]:
    """All settings, query by query."""
    rows = [Row(None, BLOCKS[0]), *(Row(c, b) for b in BLOCKS for c in CONFIDENCES)]
    await stage.start()
    for query_id in lists.lists:
        await _run(stage, Row(None, BLOCKS[0]), lists, query_id)  # texts' own vectors known
        for row in rows:
            await _run(stage, row, lists, query_id)
    return rows


def figures(rows: Sequence[Row], lists: CandidateLists) -> list[dict[str, Any]]:
    """Each row beside the full scoring."""
    full = rows[0]
    scores = [per_query("ndcg@10", row.rankings, lists.dataset.qrels) for row in rows]
    table = []
    for row, ndcg in zip(rows, scores, strict=True):
        losses = np.array([scores[0][query_id] - ndcg[query_id] for query_id in ndcg])
        same = [set(row.rankings[q]) == set(full.rankings[q]) for q in full.rankings]
        table.append(
            {
                "early_stop": row.early_stop,
                "block": row.block,
                "mean_ms": 1000 * float(np.mean(row.seconds)),
                "p50_ms": 1000 * float(np.median(row.seconds)),
                "speedup": float(np.mean(full.seconds) / np.mean(row.seconds)),
                "scored": float(np.mean(row.scored)),
                "ndcg@10": float(np.mean(list(ndcg.values()))),
                "ndcg@10_loss": float(losses.mean()),
                "same_top10": float(np.mean(same)),
            }
        )
    return table


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lists = load_candidates(options.data, split=options.split, depth=100, limit=options.limit)
    name = options.model or default_model()
    # The texts already hold the title, as the stage's own template would put it.
    settings = CrossEncoderSettings(k=K, model=name, template="{text}")
    stage = CrossEncoderStage(settings, CrossEncoderScorer(name))
    rows = asyncio.run(measure(stage, lists))
    report = {
        "dataset": lists.dataset.name,
        "candidates_from": lists.source,
        "queries": len(lists.lists),
        "model": name,
        "device": device(),
        "rows": figures(rows, lists),
    }
    text = json.dumps(report, indent=2)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
