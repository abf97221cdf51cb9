"""The service's own Prometheus metrics, beside those of the process and of its caches.

Labels take few values: routes are the service's, never a path that a caller made up.
"""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from funnel.result import FunnelResult

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ServiceMetrics:
    """Counters of one app, in a registry of its own: two apps in a process do not collide."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter(
            "funnel_http_requests",
            "Requests by route and status.",
            ("route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "funnel_query_seconds",
            "Time of a query by what the cache said.",
            ("cache",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._degraded = Counter(
            "funnel_degraded",
            "Answers that a stage degraded, by reason.",
            ("reason",),
            registry=registry,
        )
        self._in_flight = Gauge("funnel_in_flight", "Queries being answered.", registry=registry)

    def answered(self, route: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()

    def query(self, result: FunnelResult) -> None:
        """Count a query's answer."""
        self._seconds.labels(result.cache.status).observe(result.elapsed_ms / 1000)
        for reason in result.degraded:
            self._degraded.labels(reason).inc()

    def in_flight(self, count: int) -> None:
        """Note how many queries are being answered."""
        self._in_flight.set(count)

    def exposition(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self._registry) + generate_latest(REGISTRY)
