"""A small index and requests for tests of the retrieving stages."""

from collections.abc import Mapping
from typing import Any, cast

from funnel.deadline import Deadline
from funnel.index import DocumentIndex
from funnel.indexing.qdrant import QdrantSettings
from funnel.query import Query, Vector
from funnel.resources import Resources
from funnel.stages.base import StageOutput, StageRequest, StageSettings
from tests.fakes import FakeEncoder

DOCUMENTS = [
    {"id": "cat", "text": "the cat sleeps on a warm mat", "metadata": {"lang": "en"}},
    {"id": "dog", "text": "a dog barks at a cat", "metadata": {"lang": "en"}},
    {"id": "hund", "text": "der Hund schläft", "metadata": {"lang": "de"}},
    {"id": "car", "text": "cars need fuel", "metadata": {"lang": "en"}},
]
ENCODER = FakeEncoder()


async def filled() -> DocumentIndex:
    """A started index in memory with four documents."""
    index = DocumentIndex(QdrantSettings(), "animals", ENCODER)
    await index.start()
    await index.upsert(DOCUMENTS)
    return index


def resources(index: DocumentIndex) -> Resources:
    """What ``Stage.build`` is handed; these stages use the index only."""
    return Resources(index=index, models=cast("Any", None), embedder="fake:hashing")


def request(
    settings: StageSettings,
    text: str,
    *,
    filters: Mapping[str, Any] | None = None,
    ms: float | None = None,
) -> StageRequest:
    """A request for ``settings.k`` documents."""

    async def embed(query: str) -> Vector:
        vector: Vector = (await ENCODER.aencode([query]))[0]
        return vector

    query = Query(text, query_id="q1", embed=embed, filters=filters)
    return StageRequest(query, settings.k, settings, Deadline.after_ms(ms))


def ids(output: StageOutput) -> list[str]:
    """The ranked ids."""
    return [row.document.id for row in output.ranking]
