"""What a query comes back with: the hits, and everything that happened on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from funnel.types import (
    CacheInfo,
    Explanation,
    Hit,
    StageTrace,
    Usage,
    to_plain,
)


@dataclass(frozen=True, slots=True)
class FunnelResult:
    """The answer to one query.

    ``degraded`` holds machine-readable reasons such as ``"cross_encoder:timeout"``; empty means
    that every stage did all that it was asked. ``trace`` is empty when the cache answered.
    """

    query: str
    query_id: str
    hits: tuple[Hit, ...]
    cache: CacheInfo
    trace: tuple[StageTrace, ...] = ()
    usage: Usage = field(default_factory=Usage)
    degraded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    elapsed_ms: float = 0.0
    config_hash: str = ""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the hits, best first."""
        return tuple(hit.id for hit in self.hits)

    def stage(self, name: str) -> StageTrace:
        """Return the trace of a stage by its name; raises KeyError."""
        for stage in self.trace:
            if stage.name == name:
                return stage
        raise KeyError(f"{name!r} is not in the trace; it has {[s.name for s in self.trace]}")

    def explain(self, doc_id: str) -> Explanation:
        """Say at which stage and rank a document died, or that it was returned."""
        returned = next((hit for hit in self.hits if hit.id == doc_id), None)
        ranks = self._ranks(doc_id)
        if returned is not None:
            text = f"returned at rank {returned.rank}"
            return Explanation(doc_id, "returned", None, returned.rank, None, ranks, text)
        if not self.trace:
            text = "answered by the cache: no stage ran; trace it with cache=False (--no-cache)"
            return Explanation(doc_id, "not_traced", None, None, None, ranks, text)
        return self._death(doc_id, ranks)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "query": self.query,
            "query_id": self.query_id,
            "hits": [to_plain(hit) for hit in self.hits],
            "cache": to_plain(self.cache),
            "trace": [stage.to_dict() for stage in self.trace],
            "usage": to_plain(self.usage),
            "degraded": list(self.degraded),
            "notes": list(self.notes),
            "elapsed_ms": self.elapsed_ms,
            "config_hash": self.config_hash,
        }

    def _ranks(self, doc_id: str) -> Mapping[str, int]:
        return {
            stage.name: stage.ranking.index(doc_id) + 1
            for stage in self.trace
            if doc_id in stage.ranking
        }

    def _death(self, doc_id: str, ranks: Mapping[str, int]) -> Explanation:
        seen = False
        for stage in self.trace:
            if doc_id not in stage.kept:
                return _explain_cut(stage, doc_id, ranks, seen=seen)
            seen = True
        last = self.trace[-1]
        text = f"kept by every stage, cut to the {len(self.hits)} results asked for"
        return Explanation(doc_id, "cut", last.name, ranks.get(last.name), last.k, ranks, text)


def _explain_cut(
    stage: StageTrace, doc_id: str, ranks: Mapping[str, int], *, seen: bool
) -> Explanation:
    rank = ranks.get(stage.name)
    if rank is None and not seen:
        text = f"never retrieved: not among what {stage.name!r} found"
        return Explanation(doc_id, "never_retrieved", stage.name, None, stage.k, ranks, text)
    if stage.skipped is not None:
        text = f"cut: {stage.name!r} was skipped ({stage.skipped}), the order so far cut to its k"
        return Explanation(doc_id, "cut", stage.name, None, stage.k, ranks, text)
    if rank is None:
        text = f"cut: {stage.name!r} did not read it ({stage.degraded or 'beyond its depth'})"
        return Explanation(doc_id, "cut", stage.name, None, stage.k, ranks, text)
    if rank > stage.passed:
        text = f"below the min_score of {stage.name!r} at rank {rank}"
        return Explanation(doc_id, "below_min_score", stage.name, rank, stage.k, ranks, text)
    text = f"cut by {stage.name!r}: rank {rank}, it keeps {stage.k}"
    return Explanation(doc_id, "cut", stage.name, rank, stage.k, ranks, text)
