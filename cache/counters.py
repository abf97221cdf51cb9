"""What the cache counted, for ``stats`` and for Prometheus; every label has few values."""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from funnel.types import CacheInfo

_LATENCIES = 2_048
_REASONS = """
no_candidates below_floor below_threshold not_scored expired wrong_entry
uncalibrated calibrated_for_another_verifier target_not_certified semantic_off
query_beyond_window script_not_calibrated language_not_calibrated query_shortened
uncacheable_partition embedding_failed embedding_timeout
calibrated_for_another_embedder calibrated_with_other_guards
flight_timeout verifier_timeout verifier_error verifier_breaker_open verifier_closed
verifier_not_loaded tightened
store_timeout store_unavailable store_error breaker_open invalidation_pending
guard_number guard_unit guard_symbol guard_script guard_opposite guard_negation
guard_entity guard_role guard_order guard_answer
corrupt_truncated corrupt_too_large corrupt_version corrupt_checksum corrupt_malformed
"""
REASONS = frozenset(_REASONS.split())


class Counters:
    """Plain numbers behind one lock; reading takes a copy."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.saved_ms = 0.0
        self._lookup_ms: deque[float] = deque(maxlen=_LATENCIES)

    def saved(self, ms: float) -> None:
        """A hit did not have to compute for ``ms``."""
        with self._lock:
            self.saved_ms += ms

    def served(self, info: CacheInfo) -> None:
        """One query was answered."""
        with self._lock:
            self.requests[info.status, info.tier or ""] += 1
            self._lookup_ms.append(info.lookup_ms)
            if info.reason and info.status != "hit":
                self.reasons[info.reason if info.reason in REASONS else "other"] += 1

    def event(self, name: str, count: int = 1) -> None:
        """Something else happened, such as ``stored`` or ``corrupt_checksum``."""
        with self._lock:
            self.events[name] += count

    def absorb(self, other: "Counters") -> None:
        """Count in what another one counted, but not its latencies, which tell of its own time."""
        with other._lock:
            requests, saved_ms = dict(other.requests), other.saved_ms
            reasons, events = dict(other.reasons), dict(other.events)
        with self._lock:
            self.requests.update(requests)
            self.reasons.update(reasons)
            self.events.update(events)
            self.saved_ms += saved_ms

    def latencies_ms(self) -> list[float]:
        """How long the latest lookups took."""
        with self._lock:
            return list(self._lookup_ms)

    def snapshot(self) -> Mapping[str, Any]:
        """All numbers, JSON-ready."""
        with self._lock:
            requests, latencies = dict(self.requests), sorted(self._lookup_ms)
            reasons, events = dict(self.reasons), dict(self.events)
        total = sum(requests.values())
        hits = sum(count for (status, _), count in requests.items() if status == "hit")
        return {
            "requests": total,
            "hits": hits,
            "hit_rate": hits / total if total else 0.0,
            "hits_by_tier": {tier: n for (status, tier), n in requests.items() if status == "hit"},
            "by_status": _by_status(requests),
            "reasons": reasons,
            "events": events,
            "saved_ms": self.saved_ms,
            "p50_lookup_ms": quantile(latencies, 0.50),
            "p99_lookup_ms": quantile(latencies, 0.99),
        }


def _by_status(requests: Mapping[tuple[str, str], int]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for (status, _), count in requests.items():
        totals[status] += count
    return dict(totals)


def quantile(ordered: list[float], share: float) -> float:
    """The nearest-rank quantile of a sorted list; 0 for an empty one."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
