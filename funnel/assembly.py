"""Makes a funnel's stages and cache from its settings."""

from funnel.cache.base import QueryCache
from funnel.cache.null import NullCache
from funnel.errors import ConfigError
from funnel.models.pool import ModelPool
from funnel.registry import stage_class
from funnel.resources import Resources
from funnel.settings import FunnelSettings
from funnel.stages.base import Stage


def build_stages(settings: FunnelSettings, resources: Resources) -> tuple[Stage, ...]:
    """The stages in the order of the settings, not yet started.

    Raises:
        ConfigError: a stage needs what is not installed, or ``min_score`` where it has no scores.
    """
    stages = tuple(stage_class(each.kind).build(each, resources) for each in settings.stages)
    for stage in stages:
        if stage.score_kind == "rank" and stage.settings.min_score is not None:
            raise ConfigError(
                f"stage {stage.settings.name!r}: min_score: got {stage.settings.min_score}, "
                "but this stage orders without scores; remove min_score"
            )
    return stages


def build_cache(settings: FunnelSettings, models: ModelPool) -> QueryCache:
    """The cache that the settings describe, or one that never hits; not yet started."""
    if settings.cache is None:
        return NullCache()
    from funnel.cache.factory import build_cache

    return build_cache(settings.cache, models, settings.models.embedder)
