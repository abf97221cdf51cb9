"""The dense stage: nearest by embedding."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from funnel.errors import StageTimeout
from funnel.index import DocumentIndex
from funnel.stages.dense import DenseSettings, DenseStage
from tests.stages.retrieval import DOCUMENTS, ENCODER, filled, ids, request, resources


@pytest.fixture
async def index() -> AsyncIterator[DocumentIndex]:
    index = await filled()
    yield index
    await index.aclose()


async def test_ranks_by_cosine_of_the_query_s_embedding(index: DocumentIndex) -> None:
    """Order and scores are those of plain numpy over the same embeddings."""
    settings = DenseSettings(k=4)
    stage = DenseStage.build(settings, resources(index))
    output = await stage.run(request(settings, "a warm cat"), [])
    vectors = ENCODER.encode([str(document["text"]) for document in DOCUMENTS])
    cosines = vectors @ ENCODER.encode(["a warm cat"])[0]
    expected = [str(DOCUMENTS[n]["id"]) for n in np.argsort(-cosines)]
    assert ids(output) == expected
    scores = [row.score for row in output.ranking]
    assert scores == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)
    assert (stage.role, stage.score_kind) == ("retrieve", "cosine")


async def test_keeps_k_and_obeys_filters(index: DocumentIndex) -> None:
    """Both come from the request."""
    stage = DenseStage.build(DenseSettings(k=1), resources(index))
    output = await stage.run(request(DenseSettings(k=1), "a warm cat", filters={"lang": "de"}), [])
    assert ids(output) == ["hund"]


async def test_an_expired_deadline_is_a_timeout(index: DocumentIndex) -> None:
    """The engine decides what then."""
    stage = DenseStage.build(DenseSettings(k=1), resources(index))
    with pytest.raises(StageTimeout):
        await stage.run(request(DenseSettings(k=1), "cat", ms=0), [])
