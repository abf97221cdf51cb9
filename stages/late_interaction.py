"""Rerank by MaxSim: each token of the query looks for its best counterpart in the document."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

import numpy as np
from pydantic import Field

from funnel.deadline import Deadline
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
    from funnel.models.representations import Representation
    from funnel.resources import Resources

    FloatArray = NDArray[np.float32]

_RANK_OFFSET = 60
"""Flattens reciprocal ranks, as in the hybrid stage's fusion."""


class _Read(NamedTuple):
    """A document's token vectors from the index, and whether they leave out its end."""

    tokens: "FloatArray"
    truncated: bool


class LateInteractionSettings(StageSettings):
    """``model``: a ColBERT or any encoder; the index's own embedder by default.

    Of a ColBERT (PyLate's or Stanford's) the projection is applied, its markers (unless they are
    declared as prompts) and padding of the query are left out.

    ``mix``: the previous stage's share in the order, 0 to 1, by its scores where it scored all
    candidates, else by the order they come in. Both scores are standardised over the query's
    candidates first, so a mixed score says nothing across queries: the stage is then rank-only,
    and a hit's ``sources`` hold both the mixed score (``order``) and ``maxsim``.
    ``template``: what the model reads of a document.
    """

    kind: str = "late_interaction"
    model: EncoderName | None = None
    mix: float = Field(default=0.0, ge=0.0, le=1.0)
    template: Template = TITLE_AND_TEXT

    @property
    def reads_dense(self) -> bool:
        """It reads token vectors, where they are stored."""
        return False


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
        await asyncio.to_thread(self._encoder.load_tokens)

    def identity(self) -> Mapping[str, Any]:
        """The settings and the model's revision."""
        return {**super().identity(), "revision": self._encoder.revision}

    async def run(self, request: StageRequest, candidates: Sequence[Candidate]) -> StageOutput:
        """Score best first, by the previous order, until all are done or time is up.

        Raises:
            StageTimeout: not one document's vectors were there in time.
        """
        deadline = request.deadline.earlier()
        # Without the query's tokens nothing can be scored, however much was read.
        (query,) = await self._encoder.arepresent([request.query.text], deadline, side="query")
        found = [] if query is None else await self._found(request, candidates, deadline)
        if query is None or (candidates and all(each is None for each in found)):
            raise StageTimeout(f"stage {self.settings.name!r}: no vectors were ready in time")
        return await asyncio.to_thread(self._rank, query.tokens, candidates, found)

    async def _found(
        self, request: StageRequest, candidates: Sequence[Candidate], deadline: Deadline
    ) -> "list[_Read | Representation | None]":
        stored = await self._stored(candidates, request)
        texts = [
            document_text(candidate.document, self.settings.template)
            for candidate in candidates
            if candidate.id not in stored
        ]
        made = iter(await self._encoder.arepresent(texts, deadline, side="document"))
        return [
            self._read_before(stored[each.id]) if each.id in stored else next(made)
            for each in candidates
        ]

    async def _stored(
        self, candidates: Sequence[Candidate], request: StageRequest
    ) -> "Mapping[str, FloatArray]":
        if self._index is None:
            return {}
        ids = [candidate.id for candidate in candidates]
        return await self._index.token_vectors(ids, deadline=request.deadline)

    def _read_before(self, tokens: "FloatArray") -> "_Read":
        # The index does not store whether a text went on; at the full window it most likely did.
        return _Read(tokens, len(tokens) >= self._encoder.max_tokens)

    def _rank(
        self,
        query: "FloatArray",
        candidates: Sequence[Candidate],
        found: "Sequence[_Read | Representation | None]",
    ) -> StageOutput:
        there = [
            (candidate, read)
            for candidate, read in zip(candidates, found, strict=True)
            if read is not None
        ]
        values = maxsim(query, [read.tokens for _, read in there])
        kept = [candidate for candidate, _ in there]
        cut = sum(read.truncated for _, read in there)
        return StageOutput(
            _mixed(kept, values, self.settings.mix) if self.settings.mix else _plain(kept, values),
            truncated=cut,
            degraded="deadline" if len(there) < len(candidates) else None,
        )


def _plain(candidates: Sequence[Candidate], values: "FloatArray") -> list[Ranked]:
    rows = [Ranked(c.document, float(value)) for c, value in zip(candidates, values, strict=True)]
    return sorted(rows, key=lambda row: -cast("float", row.score))


def _mixed(candidates: Sequence[Candidate], values: "FloatArray", mix: float) -> list[Ranked]:
    before = np.array(_scores_before(candidates), np.float32)
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


def _scores_before(candidates: Sequence[Candidate]) -> list[float]:
    """The previous stage's scores, or reciprocal ranks where they do not say the incoming order.

    Candidates that it left in the tail have another stage's score or none, and a stage that only
    orders may have scores that mean something else, or those of the stage before it.
    """
    (stage, *others) = {_last_stage(candidate) for candidate in candidates} or {""}
    if not others and all(stage in candidate.stage_scores for candidate in candidates):
        scores = [candidate.stage_scores[stage] for candidate in candidates]
        if scores == sorted(scores, reverse=True):
            return scores
    return [1 / (_RANK_OFFSET + rank) for rank in range(1, len(candidates) + 1)]


def _last_stage(candidate: Candidate) -> str:
    names = [*(candidate.stage_ranks or candidate.stage_scores)]
    return names[-1] if names else ""


def _standardised(values: "FloatArray") -> "FloatArray":
    spread = float(values.std())
    return (values - values.mean()) / spread if spread else np.zeros_like(values)
