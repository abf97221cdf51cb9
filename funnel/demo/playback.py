"""A stream of questions through the cache: which were recognised, and whether rightly."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from funnel.demo.loader import StreamQuestion
from funnel.query import normalise_query
from funnel.result import FunnelResult
from funnel.types import CacheInfo


@dataclass(frozen=True, slots=True)
class Played:
    """What the cache did with one question of the stream.

    ``matched_group`` is the group of the cached question that answered it. ``expected`` is what
    the groups say: a hit once the group was asked before.
    """

    query: str
    group: str
    expected: str
    cache: CacheInfo
    matched_group: str | None
    ms: float

    @property
    def is_hit(self) -> bool:
        """The cache answered."""
        return self.cache.status == "hit"

    @property
    def is_wrong(self) -> bool:
        """The cache answered with the answer to another question."""
        return self.is_hit and self.matched_group != self.group

    @property
    def is_missed(self) -> bool:
        """The question was asked before in other words, and not recognised."""
        return self.expected == "hit" and not self.is_hit


@dataclass(frozen=True, slots=True)
class Playback:
    """All questions of a stream, played in order."""

    questions: tuple[Played, ...]

    @property
    def hits(self) -> int:
        """Questions that the cache answered."""
        return sum(played.is_hit for played in self.questions)

    @property
    def expected_hits(self) -> int:
        """Questions whose group was asked before."""
        return sum(played.expected == "hit" for played in self.questions)

    @property
    def wrong_hits(self) -> int:
        """Questions that got the answer to another one."""
        return sum(played.is_wrong for played in self.questions)

    @property
    def missed(self) -> int:
        """Questions that could have been answered and were not recognised."""
        return sum(played.is_missed for played in self.questions)

    @property
    def saved_share(self) -> float:
        """The share of rankings that did not have to run."""
        return self.hits / len(self.questions) if self.questions else 0.0

    @property
    def hit_ms(self) -> float | None:
        """Median milliseconds of a hit; None without hits."""
        return _median([played.ms for played in self.questions if played.is_hit])

    @property
    def miss_ms(self) -> float | None:
        """Median milliseconds of a question that ran the stages; None without any."""
        return _median([played.ms for played in self.questions if not played.is_hit])

    @property
    def saved_ms(self) -> float:
        """Milliseconds that the hits saved, each against the median of the misses."""
        if self.miss_ms is None:
            return 0.0
        return sum(self.miss_ms - played.ms for played in self.questions if played.is_hit)

    def to_dict(self) -> dict[str, object]:
        """The summary and every question, JSON-ready."""
        return {
            "requests": len(self.questions),
            "hits": self.hits,
            "expected_hits": self.expected_hits,
            "wrong_hits": self.wrong_hits,
            "missed": self.missed,
            "saved_share": self.saved_share,
            "hit_p50_ms": self.hit_ms,
            "miss_p50_ms": self.miss_ms,
            "saved_ms": self.saved_ms,
            "questions": [
                {
                    "query": played.query,
                    "group": played.group,
                    "expected": played.expected,
                    "matched_group": played.matched_group,
                    "wrong": played.is_wrong,
                    "ms": played.ms,
                    **asdict(played.cache),
                }
                for played in self.questions
            ],
        }


def play(
    stream: Sequence[StreamQuestion],
    answer: Callable[[str], FunnelResult],
    advance: Callable[[int], None] = lambda _: None,
) -> Playback:
    """Ask the questions one after another; ``advance(1)`` is called after each."""
    groups = {normalise_query(question.query): question.group for question in stream}
    seen: set[str] = set()
    played = []
    for question in stream:
        played.append(_played(question, answer(question.query), groups, seen))
        seen.add(question.group)
        advance(1)
    return Playback(tuple(played))


def _played(
    question: StreamQuestion,
    result: FunnelResult,
    groups: Mapping[str, str],
    seen: Iterable[str],
) -> Played:
    matched = result.cache.matched_query
    return Played(
        query=question.query,
        group=question.group,
        expected="hit" if question.group in seen else "miss",
        cache=result.cache,
        matched_group=None if matched is None else groups.get(normalise_query(matched)),
        ms=result.elapsed_ms,
    )


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
