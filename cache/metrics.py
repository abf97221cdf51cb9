"""Prometheus metrics of all caches of this process. Needs the ``cache`` extra.

Values are read from the caches' own counters when Prometheus asks, so that serving pays nothing.
Every label has a fixed, small set of values: query texts and tenants never become labels.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from funnel.errors import MissingExtra

if TYPE_CHECKING:
    from funnel.cache.semantic import SemanticCache

_BREAKER = {"closed": 0, "half_open": 1, "open": 2}


class CacheCollector:
    """A Prometheus collector over caches; one that is gone is forgotten."""

    def __init__(self) -> None:
        self._caches: WeakSet[SemanticCache] = WeakSet()

    def add(self, cache: "SemanticCache") -> None:
        """Report this cache, labelled with its namespace."""
        self._caches.add(cache)

    def collect(self) -> Iterator[Any]:
        """All metric families; called by the registry."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        requests = CounterMetricFamily(
            "funnel_cache_requests", "Queries by outcome.", labels=["cache", "status", "tier"]
        )
        reasons = CounterMetricFamily(
            "funnel_cache_misses",
            "Queries that were no hit, by reason.",
            labels=["cache", "reason"],
        )
        events = CounterMetricFamily(
            "funnel_cache_events",
            "Stored, joined, corrupt, audits and so on.",
            labels=["cache", "event"],
        )
        saved = CounterMetricFamily(
            "funnel_cache_saved_seconds", "Computing time that hits saved.", labels=["cache"]
        )
        gauges = GaugeMetricFamily(
            "funnel_cache_gauge",
            "Latency quantiles, breaker, audited precision, flights, the store as last seen.",
            labels=["cache", "name"],
        )
        for cache in self._caches:
            name = cache.settings.namespace
            counters = cache.counters
            for (status, tier), count in dict(counters.requests).items():
                requests.add_metric([name, status, tier or "none"], count)
            for reason, count in dict(counters.reasons).items():
                reasons.add_metric([name, reason], count)
            for event, count in dict(counters.events).items():
                events.add_metric([name, event], count)
            saved.add_metric([name], counters.saved_ms / 1000)
            for gauge, value in _gauges(cache).items():
                gauges.add_metric([name, gauge], value)
        yield from (requests, reasons, events, saved, gauges)


def _gauges(cache: "SemanticCache") -> dict[str, float]:
    counted, audits = cache.counters.snapshot(), cache.auditor.report()
    gauges = {
        "lookup_p50_seconds": counted["p50_lookup_ms"] / 1000,
        "lookup_p99_seconds": counted["p99_lookup_ms"] / 1000,
        "breaker_state": _BREAKER[cache.guarded.breaker.state],
        "flights": len(cache.flights),
        "audited_hits": audits["audited"],
        "audited_precision_low": audits["hit_precision_low"],
        "audited_precision_high": audits["hit_precision_high"],
        "drift_alarms": audits["drift_alarms"],
    }
    store = cache.guarded.last_stats
    if store is not None:
        gauges |= {
            "store_entries": store.entries,
            "store_aliases": store.aliases,
            "store_bytes": store.bytes,
            "store_evictions": store.evictions,
            "store_epoch": store.epoch.current,
        }
    return {name: float(value) for name, value in gauges.items()}


_collector: CacheCollector | None = None


def export_metrics(cache: "SemanticCache") -> CacheCollector:
    """Report a cache in the default Prometheus registry, from now until it is gone.

    Raises:
        MissingExtra: prometheus-client is not installed.
    """
    global _collector
    try:
        from prometheus_client import REGISTRY
    except ModuleNotFoundError as error:
        raise MissingExtra("Prometheus metrics", "cache") from error
    if _collector is None:
        _collector = CacheCollector()
        REGISTRY.register(_collector)
    _collector.add(cache)
    return _collector
