"""Latency and quality of reranking a query's candidates, for each way to do it."""

import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from funnel.bench.candidates import CandidateLists
from funnel.bench.ways import (
    Way,
    flashrank_way,
    funnel_way,
    library_way,
    model_note,
    plain_folder,
    rerankers_way,
)
from funnel.evaluation.metrics import mean, per_query
from funnel.models.backends import likely_backends
from funnel.models.hardware import available_cores, cpu_flags
from funnel.progress import bar

EMBEDDER = "embedded:all-MiniLM-L6-v2"
REFERENCE = "sentence-transformers"
_UNITS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


@dataclass(slots=True)
class Row:
    """One way's measurements, query by query."""

    name: str
    seconds: list[float] = field(default_factory=list)
    pairs: int = 0
    rankings: dict[str, list[str]] = field(default_factory=dict)

    def percentile_ms(self, percent: float) -> float:
        """Of the time for one query's candidates."""
        return float(np.percentile(self.seconds, percent)) * 1000

    @property
    def pairs_per_s(self) -> float | None:
        """None of a way that scores no pairs."""
        return self.pairs / sum(self.seconds) if self.pairs else None

    def overlap(self, other: "Row") -> float:
        """Mean share of the ten best that are among another row's ten best."""
        shares = [
            len(set(ranking[:10]) & set(other.rankings[query_id][:10])) / min(10, len(ranking))
            for query_id, ranking in self.rankings.items()
        ]
        return float(np.mean(shares))


@dataclass(frozen=True, slots=True)
class RerankReport:
    """All rows over the same queries; ``device`` says on what."""

    candidates: CandidateLists
    model: str
    device: str
    chosen: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def ndcg(self, row: Row) -> float:
        """nDCG@10 over the queries measured."""
        return mean(per_query("ndcg@10", row.rankings, self.candidates.dataset.qrels))

    def to_dict(self) -> dict[str, Any]:
        """As ``funnel bench rerank --json`` prints it."""
        return {
            "dataset": self.candidates.dataset.name,
            "device": self.device,
            "model": self.model,
            "backend": self.chosen,
            "queries": len(self.candidates.lists),
            "candidates_from": self.candidates.source,
            "notes": list(self.notes),
            "rows": [self._row(row) for row in self.rows],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        reference = next(each for each in self.rows if each.name == REFERENCE)
        return {
            "name": row.name,
            "p50_ms": row.percentile_ms(50),
            "p95_ms": row.percentile_ms(95),
            "p99_ms": row.percentile_ms(99),
            "pairs_per_s": row.pairs_per_s,
            "ndcg@10": self.ndcg(row),
            "top10_overlap": row.overlap(reference),
        }


def bench_rerank(
    candidates: CandidateLists, model: str, *, dense: bool = True, progress: bool = False
) -> RerankReport:
    """Measure all ways, interleaved query by query, so that drift of the machine hits all alike.

    Raises:
        ConfigError: the model is an adapter without a cross-encoder.
        ModelError: there is no such model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = plain_folder(model, Path(scratch))
        ways = list(_ways(folder))
        rows = {way.name: Row(way.name) for way in ways}
        _warm_up(ways, candidates)
        with bar("reranking", len(candidates.lists), enabled=progress) as advance:
            for query_id in candidates.lists:
                for way in ways:
                    _measure(way, rows[way.name], candidates, query_id)
                advance(1)
        chosen = _chosen(folder)
    found = list(rows.values())
    if dense:
        found.append(_dense(candidates, progress=progress))
    notes = [note for note in (model_note(model), *(way.note for way in ways)) if note]
    return RerankReport(candidates, model, device(), chosen, found, notes)


def device() -> str:
    """The processor, its cores and the units that matter."""
    units = [flag for flag in _UNITS if flag in cpu_flags()]
    return f"{_cpu_name()}, {available_cores()} cores, {' '.join(units)}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _ways(folder: Path) -> Iterator[Way]:
    yield funnel_way(folder, "auto")
    for backend in likely_backends():
        yield funnel_way(folder, backend)
    yield library_way(folder)
    yield library_way(folder, batch_size=8)
    yield library_way(folder, "bf16")
    yield from (peer for peer in (rerankers_way(folder), flashrank_way()) if peer is not None)


def _chosen(folder: Path) -> str:
    from funnel.models import CrossEncoderScorer

    return CrossEncoderScorer(str(folder)).backend


def _warm_up(ways: Sequence[Way], candidates: CandidateLists) -> None:
    first = next(iter(candidates.lists))
    for way in ways:
        way.score(candidates.pairs(first))


def _measure(way: Way, row: Row, candidates: CandidateLists, query_id: str) -> None:
    pairs = candidates.pairs(query_id)
    began = time.perf_counter()
    scores = way.score(pairs)
    row.seconds.append(time.perf_counter() - began)
    row.pairs += len(pairs)
    order = np.argsort(-scores, kind="stable")
    row.rankings[query_id] = [candidates.lists[query_id][i] for i in order]


def _dense(candidates: CandidateLists, *, progress: bool) -> Row:
    """Pure dense retrieval beside it: one query vector against the whole corpus."""
    from funnel.models import Embedder

    embedder = Embedder(EMBEDDER)
    ids = list(candidates.texts)
    matrix = embedder.encode(list(candidates.texts.values()), progress=progress)
    row = Row("dense")
    depth = max(len(each) for each in candidates.lists.values())
    embedder.encode(["warm up"])
    for query_id, text in candidates.dataset.queries.items():
        began = time.perf_counter()
        scores = matrix @ embedder.encode([text])[0]
        order = np.argsort(-scores, kind="stable")[:depth]
        row.seconds.append(time.perf_counter() - began)
        row.rankings[query_id] = [ids[i] for i in order]
    return row


def speedups(report: RerankReport) -> Mapping[str, float]:
    """How many times faster than the reference each row is, by the median."""
    reference = next(row for row in report.rows if row.name == REFERENCE).percentile_ms(50)
    return {row.name: reference / row.percentile_ms(50) for row in report.rows}
