"""Rerank with a cross-encoder, which reads query and document together."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from pydantic import Field

from funnel.deadline import Deadline
from funnel.errors import StageTimeout
from funnel.models.base import Shortening
from funnel.models.names import InstalledBackend, ScorerName
from funnel.stages.base import Ranked, Role, Stage, StageOutput, StageRequest, StageSettings
from funnel.stages.document_text import TITLE_AND_TEXT, Template, document_text
from funnel.stages.early_stop import NOTHING_SCORED, Stopped, expected_entrants, joined
from funnel.types import Candidate, ScoreKind

if TYPE_CHECKING:
    from funnel.models.base import ScoredPairs, TextPair
    from funnel.models.scorer import CrossEncoderScorer
    from funnel.resources import Resources


class CrossEncoderSettings(StageSettings):
    """``model``: ``embedded:relevance``, a hub id or a path; ``template``: what it reads.

    When more is asked than this process can do, the queries that wait are cut, evenly, to as many
    candidates (best first, at least ``min_depth``) as are expected to be done in time, waiting
    included. In time means within ``target_ms``, the funnel's ``p99_target_ms`` and the deadline.
    ``max_tokens`` and ``token_budget``: the window, and the padded tokens of a batch. ``backend``:
    see ``funnel.models.backends``. ``score_cache_mb``: memory for scores of pairs that come again.
    ``early_stop``: a confidence such as 0.95; candidates are then scored in blocks of ``block``,
    and those left are dropped once the ``k`` best stand by that confidence (``early_stop.py``).
    """

    kind: str = "cross_encoder"
    model: ScorerName
    template: Template = TITLE_AND_TEXT
    target_ms: float | None = Field(default=None, gt=0)
    min_depth: int = Field(default=10, ge=1)
    max_tokens: int | None = Field(default=None, ge=8)
    token_budget: int | None = Field(default=None, ge=8)
    backend: InstalledBackend = "auto"
    score_cache_mb: float = Field(default=0, ge=0)
    early_stop: float | None = Field(default=None, gt=0, lt=1)
    block: int = Field(default=24, ge=1)

    per_call: ClassVar[frozenset[str]] = StageSettings.per_call | {
        "target_ms",
        "min_depth",
        "early_stop",
        "block",
    }

    @property
    def reads_dense(self) -> bool:
        """It reads texts."""
        return False


class CrossEncoderStage(Stage):
    """Scores (query, document) pairs by raw logits, the highest first."""

    kind: ClassVar[str] = "cross_encoder"
    role: ClassVar[Role] = "rerank"
    Settings = CrossEncoderSettings
    settings: CrossEncoderSettings

    def __init__(self, settings: CrossEncoderSettings, scorer: "CrossEncoderScorer") -> None:
        super().__init__(settings)
        self._scorer = scorer

    @classmethod
    def build(cls, settings: StageSettings, resources: "Resources") -> Self:
        """Take the scorer from the funnel's models; it loads in ``start``."""
        own = cast("CrossEncoderSettings", settings)
        scorer = resources.models.scorer(
            own.model,
            backend=own.backend,
            max_tokens=own.max_tokens,
            token_budget=own.token_budget,
            score_cache_mb=own.score_cache_mb,
        )
        return cls(own, scorer)

    @property
    def score_kind(self) -> ScoreKind:
        """The model's raw logit."""
        return self._scorer.score_kind

    async def start(self) -> None:
        """Load the model."""
        await asyncio.to_thread(self._scorer.load)

    def identity(self) -> Mapping[str, Any]:
        """The settings and the model's revision; how fast it runs changes no ranking."""
        skip = {"timeout_ms", "on_error", "token_budget", "target_ms", "score_cache_mb"}
        return {
            **self.settings.model_dump(mode="json", exclude=skip),
            "revision": self._scorer.revision,
        }

    async def run(self, request: StageRequest, candidates: Sequence[Candidate]) -> StageOutput:
        """Score best first, by the previous order, until all are done or time is up.

        Raises:
            StageTimeout: not one document was scored in time.
        """
        settings = cast("CrossEncoderSettings", request.settings)
        pairs = [
            (request.query.text, document_text(candidate.document, settings.template))
            for candidate in candidates
        ]
        scored, stopped = await self._scored(request, pairs)
        if pairs and not scored.scored:
            raise StageTimeout(
                f"stage {settings.name!r}: none of {len(pairs)} candidates was scored in time",
                stage=settings.name,
            )
        return _output(candidates, scored, stopped)

    async def _scored(
        self, request: StageRequest, pairs: "Sequence[TextPair]"
    ) -> "tuple[ScoredPairs, Stopped | None]":
        """Scores of a beginning of the pairs, and why it is not all of them if it was enough."""
        settings = cast("CrossEncoderSettings", request.settings)
        deadline = request.deadline.earlier()
        shortening = _shortening(request, deadline)
        if settings.early_stop is None or len(pairs) <= settings.block:
            scored = await self._scorer.ascore(pairs, deadline=deadline, shortening=shortening)
            return scored, None
        done = NOTHING_SCORED
        while done.scored < len(pairs):
            block = pairs[done.scored : done.scored + settings.block]
            more = await self._scorer.ascore(block, deadline=deadline, shortening=shortening)
            done = joined(done, more)
            if more.scored < len(block):
                return done, None
            entrants = expected_entrants(done.values.tolist(), request.k, len(pairs))
            if done.scored < len(pairs) and entrants < 1 - settings.early_stop:
                return done, Stopped(entrants, len(pairs) - done.scored)
        return done, None


def _shortening(request: StageRequest, deadline: Deadline) -> Shortening | None:
    """By when it should be done under overload: the earliest of all that was asked for."""
    settings = cast("CrossEncoderSettings", request.settings)
    own = Deadline.after_ms(settings.target_ms)
    ends = [each.end for each in (own, request.target, deadline) if each.end is not None]
    return Shortening(Deadline(min(ends)), settings.min_depth) if ends else None


def _output(
    candidates: Sequence[Candidate], scored: "ScoredPairs", stopped: Stopped | None
) -> StageOutput:
    rows = [
        Ranked(candidate.document, float(value))
        for candidate, value in zip(
            candidates[: scored.scored], scored.values[: scored.scored], strict=True
        )
    ]
    reason = None
    if stopped is None and scored.scored < len(candidates):
        reason = "load" if scored.left_out else "deadline"
    details: dict[str, Any] = {"scored": scored.scored}
    if scored.remembered:
        details["remembered"] = scored.remembered
    if stopped is not None:
        details |= {"stopped": "score_gap", "expected_entrants": stopped.entrants}
    return StageOutput(
        sorted(rows, key=lambda row: -cast("float", row.score)),
        truncated=scored.truncated,
        degraded=reason,
        details=details,
    )
