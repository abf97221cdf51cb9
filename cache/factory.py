"""From settings to a cache. Stores are imported by name, so that none is imported unused."""

from importlib import import_module
from typing import TYPE_CHECKING

from funnel.cache.base import QueryCache
from funnel.cache.null import NullCache
from funnel.cache.settings import CacheSettings

if TYPE_CHECKING:
    from funnel.cache.store import Store
    from funnel.models.pool import ModelPool


def build_cache(settings: CacheSettings | None, models: "ModelPool", embedder: str) -> QueryCache:
    """The cache that the settings describe; without settings one that caches nothing.

    Raises:
        ConfigError: the calibrator file is missing or damaged.
        ModelError: the verifier is not a known model.
        MissingExtra: ``metrics`` is on and prometheus-client is not installed.
    """
    if settings is None:
        return NullCache()
    from funnel.cache.semantic import SemanticCache

    scorer = models.scorer(settings.verifier.model)
    cache = SemanticCache(settings, build_store(settings), models.encoder(embedder), scorer)
    if settings.metrics:
        from funnel.cache.metrics import export_metrics

        export_metrics(cache)
    return cache


def build_store(settings: CacheSettings) -> "Store":
    """The store that the settings name, not connected yet."""
    return _BUILDERS[settings.store](settings)


def _memory(settings: CacheSettings) -> "Store":
    store: Store = import_module("funnel.cache.store_memory").MemoryStore(settings.limits)
    return store


def _sqlite(settings: CacheSettings) -> "Store":
    module = import_module("funnel.cache.store_sqlite")
    store: Store = module.SqliteStore(settings.path, settings.limits)
    return store


def _redis(settings: CacheSettings) -> "Store":
    url = settings.url.get_secret_value() if settings.url else ""
    store: Store = import_module("funnel.cache.store_redis").RedisStore(url, settings.limits)
    return store


_BUILDERS = {"memory": _memory, "sqlite": _sqlite, "redis": _redis}
