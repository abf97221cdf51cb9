"""Rerank by MaxSim: each token of the query looks for its best counterpart in the document."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
from pydantic import Field

from funnel.errors import StageTimeout
from funnel.models.maxsim import maxsim
from funnel.models.names import EncoderName
from funnel.stages.base import Ranked, Role, Stage, StageOutput, StageRequest, StageSettings
from funnel.stages.document_text import TITLE_AND_TEXT, Template, document_text
from funnel.types import Candidate, ScoreKind, SourceScore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from funnel.index import DocumentIndex
    from funnel.models.encoder import Embedder
    from funnel.resources import Resources

    FloatArray = NDArray[np.float32]


class LateInteractionSettings(StageSettings):
    """``model``: a ColBERT-type model or any encoder; the index's own embedder by default.

    ``mix``: the previous stage's share in the order, 0 to 1. Both scores are standardised over
    the query's candidates first, so a mixed score says nothing across queries and the stage then
    counts as rank-only. ``template``: what the model reads of a document.
    """

    kind: str = "late_interaction"
    model: EncoderName | None = None
    mix: float = Field(default=0.0, ge=0.0, le=1.0)
    template: Template = TITLE_AND_TEXT


class LateInteractionStage(Stage):
    """Scores candidates by the mean over query tokens of the highest cosine in the document.

    Source: Khattab and Zaharia, ColBERT, SIGIR 2020 (there the sum; the mean does not depend on
    the query's length). Document vectors come from the index where it stores them, else they are
    computed and kept in memory for a while.
    """

    kind: ClassVar[str] = "late_interaction"
    role: ClassVar[Role] = "rerank"
    Settings = LateInteractionSettings
    settings: LateInteractionSettings

    def __init__(
        self,
        settings: LateInteractionSettings,
        encoder: "Embedder",
        index: "DocumentIndex | None" = None,
    ) -> None:
        super().__init__(settings)
        self._encoder = encoder
        self._index = index

    @classmethod
    def build(cls, settings: StageSettings, resources: "Resources") -> Self:
        """Take the encoder from the funnel's models, and stored vectors if they are its own."""
        own = cast("LateInteractionSettings", settings)
        name = own.model or resources.embedder
        # Stored vectors were made by the index's embedder from title and text.
        same = name == resources.embedder and own.template == TITLE_AND_TEXT
        return cls(own, resources.models.encoder(name), resources.index if same else None)

    @property
    def score_kind(self) -> ScoreKind:
        """Mean MaxSim, -1 to 1; an order only when mixed."""
        return "rank" if self.settings.mix else "maxsim"

    async def start(self) -> None:
        """Load the model."""
        await asyncio.to_thread(self._encoder.load)

    def identity(self) -> Mapping[str, Any]:
        """The settings and the model's revision."""
        return {**super().identity(), "revision": self._encoder.revision}

    async def run(self, request: StageRequest, candidates: Sequence[Candidate]) -> StageOutput:
        """Score best first, by the previous order, until all are done or time is up.

        Raises:
            StageTimeout: not one document's vectors were there in time.
        """
        stored = await self._stored(candidates, request)
        texts = [
            document_text(candidate.document, self.settings.template)
            for candidate in candidates
            if candidate.id not in stored
        ]
        made = iter(await self._encoder.arepresent([request.query.text, *texts], request.deadline))
        query = next(made)
        found = [stored[c.id] if c.id in stored else _tokens(next(made)) for c in candidates]
        if query is None or (candidates and all(each is None for each in found)):
            raise StageTimeout(f"stage {self.settings.name!r}: no vectors were ready in time")
        return await asyncio.to_thread(self._rank, query.tokens, candidates, found)

    async def _stored(
        self, candidates: Sequence[Candidate], request: StageRequest
    ) -> "Mapping[str, FloatArray]":
        if self._index is None:
            return {}
        ids = [candidate.id for candidate in candidates]
        return await self._index.token_vectors(ids, deadline=request.deadline)

    def _rank(
        self,
        query: "FloatArray",
        candidates: Sequence[Candidate],
        found: "Sequence[FloatArray | None]",
    ) -> StageOutput:
        there = [
            (candidate, vectors)
            for candidate, vectors in zip(candidates, found, strict=True)
            if vectors is not None
        ]
        values = maxsim(query, [vectors for _, vectors in there])
        kept = [candidate for candidate, _ in there]
        cut = sum(len(vectors) >= self._encoder.max_tokens for _, vectors in there)
        return StageOutput(
            _mixed(kept, values, self.settings.mix) if self.settings.mix else _plain(kept, values),
            truncated=cut,
            degraded="deadline" if len(there) < len(candidates) else None,
        )


def _tokens(made: Any) -> "FloatArray | None":
    return None if made is None else cast("FloatArray", made.tokens)


def _plain(candidates: Sequence[Candidate], values: "FloatArray") -> list[Ranked]:
    rows = [Ranked(c.document, float(value)) for c, value in zip(candidates, values, strict=True)]
    return sorted(rows, key=lambda row: -cast("float", row.score))


def _mixed(candidates: Sequence[Candidate], values: "FloatArray", mix: float) -> list[Ranked]:
    before = np.array([_last_score(candidate) for candidate in candidates], np.float32)
    mixed = (1 - mix) * _standardised(values) + mix * _standardised(before)
    ranks = np.empty(len(values), int)
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    order = np.argsort(-mixed, kind="stable")
    return [
        Ranked(
            candidates[i].document,
            float(mixed[i]),
            {"maxsim": SourceScore(int(ranks[i]), float(values[i]))},
        )
        for i in order
    ]


def _last_score(candidate: Candidate) -> float:
    scores = list(candidate.stage_scores.values())
    return scores[-1] if scores else 0.0


def _standardised(values: "FloatArray") -> "FloatArray":
    spread = float(values.std())
    return (values - values.mean()) / spread if spread else np.zeros_like(values)
