"""The values that travel through a funnel: frozen, slotted, free of heavy imports."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

JsonValue: TypeAlias = (
    "str | int | float | bool | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
Metadata: TypeAlias = Mapping[str, Any]

FilterValue: TypeAlias = (
    "str | int | float | bool | Sequence[str | int] | Mapping[str, float | int | str]"
)
"""Equality (a scalar), any-of (a list) or a range (``{"gte": 1, "lt": 9}``; dates as ISO text)."""
Filters: TypeAlias = Mapping[str, FilterValue]

ScoreKind: TypeAlias = Literal["cosine", "bm25", "rrf", "maxsim", "logit", "probability", "rank"]
"""What a stage's score means. ``rank`` means: an order without scores; min_score is refused."""

EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an identity. ``id`` is the caller's; it is never renumbered."""

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceScore:
    """What one source of a fused stage said of a document: its 1-based rank and raw score."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document on its way through the stages, with what each stage so far said of it.

    ``stage_scores`` and ``stage_ranks`` are keyed by stage name; a rank-only stage leaves a rank
    and no score. ``sources`` keeps per-source ranks of fused stages, keyed ``"hybrid.bm25"``.
    """

    document: Document
    stage_scores: Mapping[str, float] = field(default_factory=dict)
    stage_ranks: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, SourceScore] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The document's id."""
        return self.document.id


@dataclass(frozen=True, slots=True)
class Usage:
    """What remote models cost: calls, tokens and the endpoint's own price in US dollars."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost_usd + other.cost_usd,
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """One document of a result.

    ``rank`` is 1-based. ``score`` is that of ``score_stage``, the last stage that scored this
    document (a rank-only stage orders without scoring); its meaning is ``score_kind``.
    """

    rank: int
    id: str
    score: float
    score_kind: ScoreKind
    score_stage: str
    title: str
    text: str
    metadata: Metadata = field(default_factory=dict)
    stage_scores: Mapping[str, float] = field(default_factory=dict)
    stage_ranks: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, SourceScore] = field(default_factory=dict)

    def snippet(self, length: int = 160) -> str:
        """The beginning of the text on one line, cut at a word, at most ``length`` characters."""
        flat = " ".join(self.text.split())
        if len(flat) <= length:
            return flat
        return flat[: length - 1].rsplit(" ", 1)[0] + "…"


CacheStatus: TypeAlias = Literal["hit", "miss", "bypass", "error"]


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What the cache did for a query.

    ``tier`` is where a hit came from (``"exact"``, ``"alias"``, ``"semantic"``, ``"flight"``).
    ``score`` and ``threshold`` are on the verifier's scale; ``reason`` says why it was not a hit
    or what failed. ``stale`` marks a hit served past its freshness.
    """

    status: CacheStatus
    tier: str | None = None
    matched_query: str | None = None
    score: float | None = None
    threshold: float | None = None
    age_s: float | None = None
    reason: str | None = None
    stale: bool = False
    lookup_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class StageTrace:
    """What one stage did. ``in_`` and ``out`` count candidates; ``ms`` is wall time.

    ``skipped`` is set when the stage did not run, ``degraded`` when it ran and did less than
    asked; both are short machine-readable reasons. ``ranking`` holds the ids that it ranked, best
    first, before the cut to ``k``.
    """

    name: str
    kind: str
    k: int
    in_: int
    out: int
    ms: float
    score_kind: ScoreKind
    truncated: int = 0
    cost_usd: float = 0.0
    budget_ms: float | None = None
    skipped: str | None = None
    degraded: str | None = None
    message: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    ranking: tuple[str, ...] = ()
    passed: int = 0
    kept: tuple[str, ...] = ()

    @property
    def cost(self) -> float:
        """The same as ``cost_usd``."""
        return self.cost_usd

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping, without the rankings; ``in_`` is written ``in``."""
        skip = {"ranking", "passed", "kept", "in_", "details"}
        plain = {key: getattr(self, key) for key in self.__slots__ if key not in skip}
        return {**plain, "in": self.in_, "cost": self.cost, "details": dict(self.details)}


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a document fared.

    ``stage`` is where it died (None if returned or never seen), ``rank`` its 1-based rank there,
    ``k`` what that stage kept, ``ranks`` its rank at each stage that ranked it, ``text`` says the
    same in one sentence.
    """

    doc_id: str
    outcome: Literal["returned", "cut", "below_min_score", "never_retrieved", "not_traced"]
    stage: str | None
    rank: int | None
    k: int | None
    ranks: Mapping[str, int]
    text: str


def to_plain(value: Any) -> dict[str, Any]:
    """A dataclass as plain dicts and lists, for JSON."""
    return asdict(value)
