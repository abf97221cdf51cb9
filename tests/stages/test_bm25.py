"""The BM25 stage: best by shared words."""

from collections.abc import AsyncIterator

import pytest

from funnel.index import DocumentIndex
from funnel.stages.bm25 import Bm25Stage, Bm25StageSettings
from tests.stages.retrieval import filled, ids, request, resources


@pytest.fixture
async def index() -> AsyncIterator[DocumentIndex]:
    index = await filled()
    yield index
    await index.aclose()


async def test_only_documents_that_share_a_term_come_back(index: DocumentIndex) -> None:
    """Stemming and stop words count as the index says; the shorter document wins."""
    settings = Bm25StageSettings(k=4)
    stage = Bm25Stage.build(settings, resources(index))
    await stage.start()
    output = await stage.run(request(settings, "the CATS"), [])
    assert ids(output) == ["dog", "cat"]
    assert output.details == {"terms": 1}
    assert (stage.role, stage.score_kind) == ("retrieve", "bm25")


async def test_a_query_without_terms_finds_nothing_and_says_so(index: DocumentIndex) -> None:
    """``terms`` tells stop words only from no match."""
    settings = Bm25StageSettings(k=4)
    stage = Bm25Stage.build(settings, resources(index))
    nothing = await stage.run(request(settings, "of the"), [])
    unknown = await stage.run(request(settings, "zebra"), [])
    assert (list(nothing.ranking), nothing.details["terms"]) == ([], 0)
    assert (list(unknown.ranking), unknown.details["terms"]) == ([], 1)


async def test_the_embedding_is_never_computed(index: DocumentIndex) -> None:
    """A funnel that only counts words needs no model."""
    settings = Bm25StageSettings(k=4)
    stage = Bm25Stage.build(settings, resources(index))
    asked = request(settings, "cat")
    await stage.run(asked, [])
    assert asked.query._task is None
