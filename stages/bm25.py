"""Best documents by the words they share with the query."""

from collections.abc import Sequence
from typing import ClassVar

from funnel.stages.base import Ranked, StageOutput, StageRequest, StageSettings
from funnel.stages.retriever import Retriever
from funnel.types import Candidate, ScoreKind


class Bm25StageSettings(StageSettings):
    """No keys of its own: k1, b and language belong to the index (``bm25:`` at the top)."""

    kind: str = "bm25"

    @property
    def reads_dense(self) -> bool:
        """It asks by terms alone."""
        return False


class Bm25Stage(Retriever):
    """Retrieves by BM25; documents that share no term with the query are not returned."""

    kind: ClassVar[str] = "bm25"
    Settings = Bm25StageSettings

    @property
    def score_kind(self) -> ScoreKind:
        """Lucene's BM25, 0 upwards."""
        return "bm25"

    async def start(self) -> None:
        """Let the index prepare its terms."""
        await self._index.warm_up(bm25=True)

    async def run(
        self,
        request: StageRequest,
        candidates: Sequence[Candidate],  # noqa: ARG002
    ) -> StageOutput:
        """Ask the index for the k best; ``details.terms`` says how many terms the query had."""
        found = await self._index.search(
            terms=request.query.text,
            k=request.k,
            filters=request.query.filters,
            deadline=request.deadline,
        )
        ranking = [Ranked(item.document, item.score) for item in found.bm25]
        return StageOutput(ranking, details={"terms": found.terms})
