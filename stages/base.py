"""The contract of a stage: query and candidates in, a ranking out.

A stage only ranks. The engine keeps the best ``k``, applies ``min_score``, tail policy, timeouts
and error policy, and remembers what every stage said; so a stage stays a page long.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from funnel.deadline import NO_DEADLINE, Deadline
from funnel.query import Query
from funnel.settings_model import SettingsModel
from funnel.types import Candidate, Document, ScoreKind, SourceScore, Usage

if TYPE_CHECKING:
    from funnel.resources import Resources

Role = Literal["retrieve", "rerank"]


class StageSettings(SettingsModel):
    """The keys that every stage understands. Subclasses add their own.

    ``k``: how many candidates the stage keeps. ``min_score``: inclusive, on the stage's own score
    kind. ``timeout_ms``: its own limit inside the query's deadline. ``on_error``: ``skip`` keeps
    the order so far and says degraded, ``raise`` fails the query. ``tail``: ``keep`` leaves what
    the stage cut under its head, in the previous order; after the last stage up to its ``k``.
    ``optional``: may be left out when time is short. ``depth``: a reranker reads only that many of
    what comes in.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )

    kind: str
    name: str = ""
    k: int = Field(ge=1, le=10_000, validation_alias=AliasChoices("k", "top_k", "top_n"))
    depth: int | None = Field(default=None, ge=1)
    min_score: float | None = Field(default=None, allow_inf_nan=False)
    timeout_ms: float | None = Field(default=None, gt=0)
    on_error: Literal["skip", "raise"] | None = None
    tail: Literal["keep", "drop"] = "drop"
    optional: bool = False

    per_call: ClassVar[frozenset[str]] = frozenset(
        {"k", "depth", "min_score", "timeout_ms", "on_error", "tail"}
    )
    """Keys that ``Funnel.run(overrides=…)`` may change; a subclass may add to them."""

    @classmethod
    def key_of(cls, given: str) -> str:
        """The key that ``given`` is another name of, as ``top_k`` is of ``k``; else itself."""
        for name, field_info in cls.model_fields.items():
            alias = field_info.validation_alias
            if isinstance(alias, AliasChoices) and given in alias.choices:
                return name
        return given

    @property
    def reads_dense(self) -> bool:
        """Whether it may ask the index for the nearest vectors: true unless a kind knows better."""
        return True

    @model_validator(mode="after")
    def _name_defaults_to_kind(self) -> Self:
        if not self.name:
            object.__setattr__(self, "name", self.kind)
        return self


@dataclass(frozen=True, slots=True)
class StageRequest:
    """What a stage is asked: at most ``k`` documents for ``query`` before ``deadline``.

    ``settings`` is the stage's own settings with this call's overrides applied. ``target`` is when
    it should be done if the process is overloaded; without pressure it means nothing.
    """

    query: Query
    k: int
    settings: Any
    deadline: Deadline
    target: Deadline = NO_DEADLINE


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document as a stage ranks it.

    ``score`` is None from a rank-only stage, or what it ordered by: that is no score of the hit and
    is kept in its ``sources`` as ``STAGE.order``.
    """

    document: Document
    score: float | None
    sources: Mapping[str, SourceScore] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageOutput:
    """A stage's ranking, best first, without repeats.

    A retriever returns new documents; a reranker returns some or all of its candidates, never
    others. What it leaves out was not ranked and counts as cut. ``truncated`` counts documents
    that the model could not read to the end. ``degraded`` is a short machine-readable reason when
    less was done than asked.
    """

    ranking: Sequence[Ranked]
    usage: Usage = field(default_factory=Usage)
    truncated: int = 0
    degraded: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Stage(ABC):
    """Base of all stages.

    A subclass sets ``kind``, ``role`` and ``Settings``, implements ``run`` and, where it uses
    models or servers, ``build``. Instances are shared by concurrent queries: keep no per-query
    state on ``self``. ``run`` is a coroutine on the funnel's own event loop: never block in it;
    CPU work goes through a scorer or encoder, which own their worker threads.
    """

    kind: ClassVar[str]
    role: ClassVar[Role]
    Settings: ClassVar[type[StageSettings]] = StageSettings

    def __init__(self, settings: StageSettings) -> None:
        self.settings = settings

    @classmethod
    def build(cls, settings: StageSettings, resources: "Resources") -> Self:  # noqa: ARG003
        """Make the stage from its settings and the funnel's shared index and models.

        Must be cheap: models load in ``start`` (or at first use), not here.
        """
        return cls(settings)

    @property
    @abstractmethod
    def score_kind(self) -> ScoreKind:
        """What its scores mean."""

    @abstractmethod
    async def run(self, request: StageRequest, candidates: Sequence[Candidate]) -> StageOutput:
        """Rank. Raises a :class:`funnel.errors.StageError` when it cannot."""

    async def start(self) -> None:  # noqa: B027
        """Load models and check servers, so that the first query does not pay for it."""

    async def aclose(self) -> None:  # noqa: B027
        """Release what the stage itself opened (not shared resources)."""

    def identity(self) -> Mapping[str, Any]:
        """Everything that makes its ranking differ, JSON-ready: part of the cache's partition."""
        return self.settings.model_dump(mode="json", exclude={"timeout_ms", "on_error"})
