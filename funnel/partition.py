"""What makes two answers to the same text differ: the cache's partition of a call."""

from collections.abc import Mapping, Sequence
from typing import Any

from funnel.chain import Step
from funnel.models.base import Encoder
from funnel.query import Query

SCHEMA = 1
_CHANGE_NO_RANKING = frozenset({"timeout_ms", "on_error", "optional"})


def partition(
    collection: tuple[str, str], encoder: Encoder, query: Query, steps: Sequence[Step], k: int
) -> dict[str, Any]:
    """Everything that an answer depends on besides the text, JSON-ready.

    The collection by its name and identity, tenant, filters and k, the embedder, and of each stage
    its identity with this call's overrides: requests that differ in any of it never share an entry.
    """
    return {
        "schema": SCHEMA,
        "collection": list(collection),
        "embedder": [encoder.name, encoder.revision],
        "scope": query.scope,
        "filters": dict(query.filters),
        "k": k,
        "stages": [{**step.stage.identity(), **_this_call(step), "k": step.k} for step in steps],
    }


def _this_call(step: Step) -> Mapping[str, Any]:
    keys = set(step.settings.per_call - _CHANGE_NO_RANKING)
    return step.settings.model_dump(mode="json", include=keys)
