"""How old an entry is and what that allows; wall clocks may jump, and processes disagree."""

import math
import random
from collections.abc import Callable
from typing import Literal, TypeAlias

from funnel.cache.codec import Entry
from funnel.cache.settings import CacheSettings

Freshness: TypeAlias = Literal["fresh", "revalidate", "on_error", "expired"]

# An entry from further in the future than two machines' clocks disagree was made before a jump.
CLOCK_SKEW_S = 30.0


def lifetime_s(settings: CacheSettings, *, empty: bool, spread: Callable[[], float]) -> float:
    """Seconds for which a new entry is fresh: the TTL, less a random share of the jitter."""
    ttl = min(settings.ttl_s, settings.empty_ttl_s) if empty else settings.ttl_s
    return ttl * (1.0 - settings.ttl_jitter * spread())


def retention_s(entry: Entry, settings: CacheSettings) -> float:
    """Seconds after which a new entry can be served in no case any more."""
    last = entry.fresh_s + max(settings.stale_while_revalidate_s, settings.stale_on_error_s)
    limit = settings.max_staleness_s
    return last if limit is None else min(last, limit)


def age_s(entry: Entry, now: float) -> float:
    """Seconds since the entry was made, never negative."""
    return max(0.0, now - entry.created)


def freshness(entry: Entry, now: float, settings: CacheSettings) -> Freshness:
    """What an entry may be used for.

    ``revalidate``: serve it flagged and recompute; ``on_error``: only if the stages fail.
    """
    age = now - entry.created
    limit = settings.max_staleness_s
    if age < -CLOCK_SKEW_S or (limit is not None and age > limit):
        return "expired"
    late = age - entry.fresh_s
    if late < 0:
        return "fresh"
    if late < settings.stale_while_revalidate_s:
        return "revalidate"
    return "on_error" if late < settings.stale_on_error_s else "expired"


def refresh_now(
    entry: Entry, now: float, eagerness: float, *, spread: Callable[[], float] = random.random
) -> bool:
    """Whether this reader should recompute a fresh entry early.

    Probabilistic early expiration (Vattani, Chierichetti and Lowenstein 2015): the nearer the end
    and the dearer the entry, the likelier; so that one reader recomputes, not all at the end.
    """
    head_start = entry.elapsed_ms / 1000 * eagerness * -math.log(max(spread(), 1e-12))
    return head_start > 0 and now + head_start >= entry.created + entry.fresh_s
