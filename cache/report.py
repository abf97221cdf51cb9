"""What the cache tells about itself: one lookup explained, and its gauges."""

import asyncio
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from funnel.cache.decision import Verdict
from funnel.cache.guarded_store import StoreFault
from funnel.cache.lookup import Found, Looking, Lookup
from funnel.cache.matcher import Matcher

if TYPE_CHECKING:
    from funnel.cache.semantic import SemanticCache

_FROM_OUTSIDE = ("store", "semantic", "semantic_problem", "threshold")


async def explain_lookup(looking: Looking, lookup: Lookup, matcher: Matcher) -> dict[str, Any]:
    """Why a lookup would hit or miss: the tiers in order, every candidate and its verdict."""
    found = None if looking.fault else await lookup.exact(looking)
    report: dict[str, Any] = {
        "query": looking.request.query.text,
        "status": "miss",
        "tier": None,
        "matched_query": None,
        "score": None,
        "age_s": None,
        "reason": looking.fault or looking.reason,
        "threshold": _finite(matcher.policy.threshold),
        "floor": matcher.policy.floor,
        "epoch": looking.epoch,
        "candidates": [],
    }
    if found is not None:
        return {**report, **_hit(found)}
    if looking.fault:
        return report
    refusal = matcher.refuses(looking.request.query.text)
    if refusal:
        first = looking.reason
        return {**report, "reason": refusal if first == "no_candidates" else first}
    return await _nearest(looking, lookup, matcher, report)


async def _nearest(
    looking: Looking, lookup: Lookup, matcher: Matcher, report: dict[str, Any]
) -> dict[str, Any]:
    request = looking.request
    limit = matcher.time_limit(request.deadline)
    try:
        async with asyncio.timeout(limit.remaining_s()):
            vector = await request.query.vector()
    except Exception as error:  # whatever a model library throws
        late = isinstance(error, TimeoutError)
        return {**report, "reason": "embedding_timeout" if late else "embedding_failed"}
    near = await lookup.nearest(looking, vector, floor=-1.0)
    limit = matcher.time_limit(request.deadline)
    candidates = [n.candidate for n in near]
    decision = await matcher.judge(request.query.text, candidates, limit, thorough=True)
    report["candidates"] = [explain_verdict(verdict) for verdict in decision.verdicts]
    if decision.chosen is None:
        return {**report, "reason": looking.fault or _told(looking, decision.reason)}
    chosen = next(n for n in near if n.key == decision.chosen.candidate.key)
    return {**report, **_hit(lookup.found_by(decision.chosen, chosen))}


def _told(looking: Looking, reason: str) -> str:
    """The reason that the lookup itself gives: it does not even see what is below the floor."""
    seen = reason not in ("below_floor", "no_candidates")
    return reason if seen and looking.reason in ("no_candidates", "expired") else looking.reason


def _hit(found: Found) -> dict[str, Any]:
    """What a result would say of a hit; an exact one has no score."""
    info = found.info()
    return {
        "status": info.status,
        "tier": info.tier,
        "matched_query": info.matched_query,
        "score": info.score,
        "needed": info.threshold,
        "age_s": info.age_s,
        "stale": info.stale,
        "reason": info.reason,
    }


def explain_verdict(verdict: Verdict) -> dict[str, Any]:
    """One candidate's fate, JSON-ready."""
    return {
        "query": verdict.candidate.query,
        "cosine": verdict.candidate.cosine,
        "score": verdict.score,
        "needed": _finite(verdict.needed),
        "accepted": verdict.accepted,
        "reason": verdict.reason or None,
        "slips": [{"written": written, "read": read} for written, read in verdict.slips],
        "findings": [
            {"kind": f.kind, "detail": f.detail, "veto": f.veto, "margin": f.margin}
            for f in verdict.findings
        ],
    }


async def full_stats(cache: "SemanticCache") -> Mapping[str, Any]:
    """Everything countable: cache, store, verifier, breaker, audits."""
    verifier = cache.matcher.verifier
    return {
        **cache.counters.snapshot(),
        "store": await _store_stats(cache),
        "store_faults": dict(cache.guarded.faults),
        "breaker": cache.guarded.breaker.state,
        "semantic": not cache.matcher.problem,
        "semantic_problem": cache.matcher.problem or None,
        "threshold": _finite(cache.matcher.policy.threshold),
        "verifier": {
            "model": verifier.scorer.name,
            "passes": verifier.passes,
            "pairs": verifier.pairs,
            "breaker": verifier.breaker.state,
        },
        "flights": len(cache.flights),
        "audit": cache.auditor.report(),
    }


def seen_from_outside(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a cache's stats that another process on the same settings can tell.

    What it counted itself would be zeros that look like a cache that nobody asks.
    """
    told = {name: stats[name] for name in _FROM_OUTSIDE if name in stats}
    if "verifier" in stats:
        told["verifier"] = {"model": stats["verifier"]["model"]}
    return told


async def _store_stats(cache: "SemanticCache") -> dict[str, Any]:
    try:
        stats = await cache.guarded.stats()
    except StoreFault as fault:
        return {"kind": cache.settings.store, "problem": fault.reason}
    return {
        "kind": stats.kind,
        "entries": stats.entries,
        "aliases": stats.aliases,
        "bytes": stats.bytes,
        "evictions": stats.evictions,
        "epoch": stats.epoch.current,
        **dict(stats.extra),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
