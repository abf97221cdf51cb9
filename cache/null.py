"""The cache that caches nothing."""

from funnel.cache.base import CacheRequest, Compute, QueryCache, Served
from funnel.types import CacheInfo


class NullCache(QueryCache):
    """Always computes; the result says ``bypass``."""

    async def serve(self, request: CacheRequest, compute: Compute) -> Served:  # noqa: ARG002
        """Compute."""
        return Served(await compute(), CacheInfo(status="bypass", reason="no cache is configured"))
