"""Nearest documents by embedding."""

from collections.abc import Sequence
from typing import ClassVar

from funnel.stages.base import Ranked, StageOutput, StageRequest, StageSettings
from funnel.stages.retriever import Retriever
from funnel.types import Candidate, ScoreKind


class DenseSettings(StageSettings):
    """No keys of its own: the embedder is the index's."""

    kind: str = "dense"


class DenseStage(Retriever):
    """Retrieves by cosine similarity of the query's embedding with the documents'."""

    kind: ClassVar[str] = "dense"
    Settings = DenseSettings

    @property
    def score_kind(self) -> ScoreKind:
        """Cosine similarity, -1 to 1."""
        return "cosine"

    async def start(self) -> None:
        """Load the embedder."""
        await self._index.warm_up(dense=True)

    async def run(
        self,
        request: StageRequest,
        candidates: Sequence[Candidate],  # noqa: ARG002
    ) -> StageOutput:
        """Ask the index for the k nearest."""
        found = await self._index.search(
            vector=await request.query.vector(),
            k=request.k,
            filters=request.query.filters,
            deadline=request.deadline,
        )
        return StageOutput([Ranked(item.document, item.score) for item in found.dense])
