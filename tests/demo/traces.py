"""Short ways to write the values that the demo reads."""

from funnel.result import FunnelResult
from funnel.types import CacheInfo, Hit, StageTrace


def trace(name: str, *kept: str, ms: float = 1.0, skipped: str | None = None) -> StageTrace:
    return StageTrace(
        name=name,
        kind=name,
        k=len(kept),
        in_=len(kept),
        out=len(kept),
        ms=ms,
        score_kind="rrf",
        skipped=skipped,
        kept=kept,
        ranking=kept,
        passed=len(kept),
    )


def miss(query: str, ms: float = 100.0) -> FunnelResult:
    return FunnelResult(query, "q", (), CacheInfo("miss", reason="nothing near"), elapsed_ms=ms)


def hit(query: str, matched: str, ms: float = 2.0) -> FunnelResult:
    cache = CacheInfo("hit", tier="semantic", matched_query=matched, score=0.98, threshold=0.9)
    return FunnelResult(query, "q", (), cache, elapsed_ms=ms)


def ranked(query: str, *stages: StageTrace) -> FunnelResult:
    """A result whose hits are what the last stage kept."""
    hits = tuple(
        Hit(
            rank=rank,
            id=doc_id,
            score=1.0,
            score_kind="rrf",
            score_stage=stages[-1].name,
            title=f"How to {doc_id}",
            text="",
            stage_scores={s.name: 0.25 for s in stages if doc_id in s.kept},
            stage_ranks={s.name: s.kept.index(doc_id) + 1 for s in stages if doc_id in s.kept},
        )
        for rank, doc_id in enumerate(stages[-1].kept, start=1)
    )
    return FunnelResult(query, "q", hits, CacheInfo("bypass"), trace=stages)
