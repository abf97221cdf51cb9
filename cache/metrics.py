"""Prometheus metrics of all caches of this process. Needs the ``cache`` extra.

Values are read from the caches' own counters when Prometheus asks, so that serving pays nothing.
Every label has a fixed, small set of values: query texts and tenants never become labels.
"""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from funnel.cache.binomial import interval
from funnel.cache.counters import Counters, quantile
from funnel.errors import MissingExtra

if TYPE_CHECKING:
    from funnel.cache.semantic import SemanticCache
    from funnel.cache.store import StoreStats

_BREAKER = {"closed": 0, "half_open": 1, "open": 2}


class CacheCollector:
    """A Prometheus collector over caches; those of one namespace are reported as one.

    Two series of the same labels would make the whole scrape invalid. What a cache counted before
    it was closed stays in its namespace's counters while another cache of that namespace is there,
    because a counter that falls reads as a restart, and the rest as a sudden rush.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Prometheus asks from a thread of its own
        self._caches: WeakSet[SemanticCache] = WeakSet()
        self._past: dict[str, Counters] = {}

    def add(self, cache: "SemanticCache") -> None:
        """Report this cache, labelled with its namespace, until it is removed or gone."""
        with self._lock:
            self._caches.add(cache)

    def remove(self, cache: "SemanticCache") -> None:
        """Report this cache no longer."""
        with self._lock:
            if cache in self._caches:
                self._caches.discard(cache)
                past = self._past.setdefault(cache.settings.namespace, Counters())
                past.absorb(cache.counters)

    def _by_namespace(self) -> dict[str, tuple[Counters, list["SemanticCache"]]]:
        """The counters and the caches of each namespace that has any."""
        with self._lock:
            groups: dict[str, tuple[Counters, list[SemanticCache]]] = {}
            for cache in self._caches:
                counters, caches = groups.setdefault(cache.settings.namespace, (Counters(), []))
                counters.absorb(cache.counters)
                caches.append(cache)
            self._past = {name: past for name, past in self._past.items() if name in groups}
            for name, past in self._past.items():
                groups[name][0].absorb(past)
            return groups

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
        for name, (counters, caches) in self._by_namespace().items():
            for (status, tier), count in counters.requests.items():
                requests.add_metric([name, status, tier or "none"], count)
            for reason, count in counters.reasons.items():
                reasons.add_metric([name, reason], count)
            for event, count in counters.events.items():
                events.add_metric([name, event], count)
            saved.add_metric([name], counters.saved_ms / 1000)
            for gauge, value in _gauges(caches).items():
                gauges.add_metric([name, gauge], value)
        yield from (requests, reasons, events, saved, gauges)


def _gauges(caches: Sequence["SemanticCache"]) -> dict[str, float]:
    latencies = sorted(ms for cache in caches for ms in cache.counters.latencies_ms())
    audits = [cache.auditor.report() for cache in caches]
    audited, agreed = (sum(audit[name] for audit in audits) for name in ("audited", "agreed"))
    low, high = interval(agreed, audited)
    gauges = {
        "lookup_p50_seconds": quantile(latencies, 0.50) / 1000,
        "lookup_p99_seconds": quantile(latencies, 0.99) / 1000,
        "breaker_state": max(_BREAKER[cache.guarded.breaker.state] for cache in caches),
        "flights": sum(len(cache.flights) for cache in caches),
        "audited_hits": audited,
        "audited_precision_low": low,
        "audited_precision_high": high,
        "drift_alarms": sum(audit["drift_alarms"] for audit in audits),
    }
    return {name: float(value) for name, value in (gauges | _store_gauges(caches)).items()}


def _store_gauges(caches: Sequence["SemanticCache"]) -> dict[str, float]:
    """Sums over the stores; several caches on one server or file are one store, seen by each."""
    stores: dict[object, StoreStats] = {}
    for cache in caches:
        seen, at = cache.guarded.last_stats, cache.settings
        if seen is not None:
            where = (at.url, at.path) if cache.guarded.store.shared else id(cache)
            stores[where] = max(stores.get(where, seen), seen, key=_progress)
    if not stores:
        return {}
    return {
        "store_entries": sum(store.entries for store in stores.values()),
        "store_aliases": sum(store.aliases for store in stores.values()),
        "store_bytes": sum(store.bytes for store in stores.values()),
        "store_evictions": sum(store.evictions for store in stores.values()),
        "store_epoch": max(store.epoch.current for store in stores.values()),
    }


def _progress(stats: "StoreStats") -> tuple[int, int]:
    """What only grows, so that of two readings of one store the later is known."""
    return stats.epoch.current, stats.evictions


_collector: CacheCollector | None = None


def export_metrics(cache: "SemanticCache") -> CacheCollector:
    """Report a cache in the default Prometheus registry, from now until it is closed or gone.

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
    cache.at_close(partial(_collector.remove, cache))
    return _collector
