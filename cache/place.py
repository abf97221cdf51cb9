"""Where an answer belongs: the hash of everything that must be equal for it to be reused."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from funnel.cache.base import CacheRequest

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Hex names for a store: the partition, the query's key in it, the tenant."""

    partition: str
    key: str
    scope: str


def place_of(request: CacheRequest, identity: Mapping[str, Any]) -> Place | None:
    """The place of a request under a cache's own ``identity`` (models, calibrator).

    None when the partition is not plain JSON: what cannot be compared cannot be cached.
    """
    whole = {
        "schema": SCHEMA,
        "cache": identity,
        "scope": request.scope,
        "partition": request.partition,
    }
    try:
        canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    partition = hashlib.sha256(canonical.encode()).hexdigest()[:32]
    return Place(partition, key_of(request.query.text), scope_of(request.scope))


def key_of(text: str) -> str:
    """The key of a normalised query."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def scope_of(scope: str | None) -> str:
    """The hashed tenant; empty for none. Tenant names never reach a store."""
    if scope is None:
        return ""
    return hashlib.blake2b(scope.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
