"""Counting a replay: hits, right and wrong, under all three meanings of "false hit"."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from funnel.cache.binomial import interval, lower_limit
from funnel.cache.replay import Play, Stream


@dataclass(frozen=True, slots=True)
class Tally:
    """What a rule did to a log.

    A hit is right or wrong when both groups are known, else unknown. ``hit_precision`` is over the
    known ones, ``hit_precision_low`` its exact one-sided 95% lower limit. ``wrong_hits`` is None
    when all hits are unknown, ``missed_duplicates`` and ``oracle_hits`` when the log has no group:
    that nothing is known is no zero. ``wrong_pairs`` of ``other_pairs`` (looked at, known to
    differ) were taken for the same.
    """

    requests: int
    hits: int
    by_tier: dict[str, int]
    right_hits: int
    wrong_hits: int | None
    unknown_hits: int
    missed_duplicates: int | None
    oracle_hits: int | None
    wrong_pairs: int
    other_pairs: int

    @property
    def hit_rate(self) -> float:
        """Hits per request."""
        return self.hits / self.requests

    @property
    def oracle_hit_rate(self) -> float | None:
        """What a cache that knows the groups would reach."""
        return _per(self.oracle_hits, self.requests)

    @property
    def known_hits(self) -> int:
        """Hits between known groups."""
        return self.hits - self.unknown_hits

    @property
    def hit_precision(self) -> float | None:
        """Right hits per hit of known groups; None without any."""
        return _per(self.right_hits, self.known_hits)

    @property
    def hit_precision_low(self) -> float | None:
        """The lower limit of the precision, with 95% confidence."""
        return lower_limit(self.right_hits, self.known_hits) if self.known_hits else None

    def to_dict(self) -> dict[str, Any]:
        """All figures, JSON-ready."""
        known = self.known_hits
        low, high = interval(self.right_hits, known) if known else (None, None)
        return {
            "requests": self.requests,
            "hits": self.hits,
            "hit_rate": self.hit_rate,
            "wrong_hits": self.wrong_hits,
            "hit_precision": self.hit_precision,
            "hit_precision_low": self.hit_precision_low,
            "hit_precision_interval": [low, high],
            "hit_precision_if_unknown_are_wrong": _per(self.right_hits, self.hits),
            "unknown_hits": self.unknown_hits,
            "missed_duplicates": self.missed_duplicates,
            "oracle_hit_rate": self.oracle_hit_rate,
            "hits_by_tier": self.by_tier,
            "wrong_per_pair": _per(self.wrong_pairs, self.other_pairs),
            "wrong_per_request": _per(self.wrong_hits, self.requests),
            "wrong_per_hit": _per(self.wrong_hits, known),
            "rankings_saved": self.hits,
        }


def _per(count: int | None, of: int) -> float | None:
    """Their ratio; None where it is one of nothing, or the count is unknown."""
    return None if count is None or not of else count / of


def tally(stream: Stream, play: Play) -> Tally:
    """Count a play of a stream."""
    groups = [asked.group for asked in stream.requests]
    hits = [i for i, tier in enumerate(play.tier) if tier]
    known = [i for i in hits if groups[i] is not None and groups[play.source[i]] is not None]
    right = sum(groups[i] == groups[play.source[i]] for i in known)
    repeated = _seen_before(stream, groups)
    grouped = any(group is not None for group in groups)
    other = [pair for pair in play.looks if _differ(groups, pair)]
    return Tally(
        requests=len(groups),
        hits=len(hits),
        by_tier=dict(Counter(play.tier[i] for i in hits)),
        right_hits=right,
        wrong_hits=len(known) - right if known or not hits else None,
        unknown_hits=len(hits) - len(known),
        missed_duplicates=sum(seen and not play.tier[i] for i, seen in enumerate(repeated))
        if grouped
        else None,
        oracle_hits=sum(repeated) if grouped else None,
        wrong_pairs=sum(play.source[request] == source for request, source in other),
        other_pairs=len(other),
    )


def _seen_before(stream: Stream, groups: Sequence[str | None]) -> list[bool]:
    """Whether the text or the group of each request came earlier."""
    texts: set[int] = set()
    intents: set[str] = set()
    seen = []
    for text, group in zip(stream.text_of, groups, strict=True):
        seen.append(text in texts or (group is not None and group in intents))
        texts.add(text)
        if group is not None:
            intents.add(group)
    return seen


def _differ(groups: Sequence[str | None], pair: tuple[int, int]) -> bool:
    first, second = groups[pair[0]], groups[pair[1]]
    return first is not None and second is not None and first != second
