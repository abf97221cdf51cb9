"""Dense and BM25 retrieval in one round trip, fused by reciprocal ranks.

Reciprocal rank fusion after Cormack, Clarke and Büttcher (SIGIR 2009): a document's score is the
sum over sources of ``weight / (k + rank)`` with 1-based ranks. It is computed here rather than in
Qdrant, whose own fusion counts from zero, defaults to k=2 and drops the sources' ranks and scores.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field, ValidationInfo, field_validator

from funnel.stages.base import Ranked, StageOutput, StageRequest, StageSettings
from funnel.stages.retriever import Retriever
from funnel.types import Candidate, ScoreKind, SourceScore

if TYPE_CHECKING:
    from funnel.index import Found

Source = Literal["dense", "bm25"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LEAST_PREFETCH = 100


class HybridSettings(StageSettings):
    """How the two sources are weighed.

    ``rrf_k`` flattens the ranks' influence. ``weights`` scale the sources (1 each by default), 0
    leaves one out. ``prefetch`` is how many documents each source contributes, k or more (two
    sources that agree find no others); by default k, but at least 100. A call that asks for more
    than that gets as many.
    """

    kind: str = "hybrid"
    rrf_k: int = Field(default=60, ge=1, le=1_000_000)
    weights: dict[Source, Weight] = Field(default_factory=dict, validate_default=True)
    prefetch: int | None = Field(default=None, ge=1, le=10_000)

    per_call: ClassVar[frozenset[str]] = StageSettings.per_call | {"weights", "rrf_k", "prefetch"}

    @property
    def reads_dense(self) -> bool:
        """Unless the source weighs nothing."""
        return self.weights["dense"] > 0

    @field_validator("weights")
    @classmethod
    def _fill_and_check(cls, weights: dict[Source, float]) -> dict[Source, float]:
        filled: dict[Source, float] = {"dense": 1.0, "bm25": 1.0, **weights}
        if not any(filled.values()):
            raise ValueError(f"got {weights}, expected at least one weight above 0")
        return filled

    @field_validator("prefetch")
    @classmethod
    def _no_fewer_than_k(cls, prefetch: int | None, info: ValidationInfo) -> int | None:
        k = info.data.get("k", 0)
        if prefetch is not None and prefetch < k:
            raise ValueError(
                f"got {prefetch}, expected at least k ({k}), of which a query might get fewer; "
                "raise prefetch, lower k, or leave prefetch out"
            )
        return prefetch


class HybridStage(Retriever):
    """Retrieves from both sources; each hit keeps its rank and score in each of them."""

    kind: ClassVar[str] = "hybrid"
    Settings = HybridSettings

    @property
    def score_kind(self) -> ScoreKind:
        """The sum of weighted reciprocal ranks."""
        return "rrf"

    async def start(self) -> None:
        """Let the index prepare what the weighted sources read."""
        weights = cast("HybridSettings", self.settings).weights
        await self._index.warm_up(dense=weights["dense"] > 0, bm25=weights["bm25"] > 0)

    async def run(
        self,
        request: StageRequest,
        candidates: Sequence[Candidate],  # noqa: ARG002
    ) -> StageOutput:
        """Ask the index once and fuse; ``details`` says how much each source found."""
        settings = cast("HybridSettings", request.settings)
        found = await self._index.search(
            vector=await request.query.vector() if settings.weights["dense"] else None,
            terms=request.query.text if settings.weights["bm25"] else None,
            k=max(settings.prefetch or LEAST_PREFETCH, request.k),
            filters=request.query.filters,
            deadline=request.deadline,
        )
        lists: dict[Source, Sequence[Found]] = {"dense": found.dense, "bm25": found.bm25}
        ranking = fuse(lists, settings.weights, settings.rrf_k)
        details = {"dense": len(found.dense), "bm25": len(found.bm25), "terms": found.terms}
        return StageOutput(ranking, details=details)


def fuse(
    lists: "Mapping[Source, Sequence[Found]]", weights: Mapping[Source, float], rrf_k: int
) -> list[Ranked]:
    """Fuse rankings, best first; equal scores in the order of ids."""
    sources: dict[str, dict[str, SourceScore]] = {}
    scores: dict[str, float] = {}
    documents = {}
    for source, found in lists.items():
        for rank, item in enumerate(found, start=1):
            doc_id = item.document.id
            documents[doc_id] = item.document
            sources.setdefault(doc_id, {})[source] = SourceScore(rank, item.score)
            scores[doc_id] = scores.get(doc_id, 0.0) + weights[source] / (rrf_k + rank)
    order = sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))
    return [Ranked(documents[doc_id], scores[doc_id], sources[doc_id]) for doc_id in order]
