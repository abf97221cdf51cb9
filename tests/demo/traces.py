"""Short ways to write the values that the demo reads."""

from funnel.result import FunnelResult
from funnel.types import CacheInfo, StageTrace


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
