"""Rankings on real data, where it is: the same as those of the tools that are trusted for it."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest

from funnel.index import DocumentIndex
from funnel.indexing.qdrant import QdrantSettings
from funnel.indexing.terms import Analyzer, Bm25Settings
from funnel.models.base import Side
from tests.fakes import FakeEncoder, FloatArray

ROOT = Path(__file__).parents[2]
SCIFACT = Path(os.environ.get("FUNNEL_TEST_DATA", ROOT.parent / "shared" / "data")) / "scifact"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SCIFACT.is_dir(), reason="FUNNEL_TEST_DATA holds no scifact"),
]


class NoEncoder(FakeEncoder):
    """Gives every text the same vector, for tests of BM25 alone."""

    async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
        return np.ones((len(texts), self.dim), dtype=np.float32)


def lines(name: str) -> list[dict[str, Any]]:
    with (SCIFACT / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def text_of(document: dict[str, Any]) -> str:
    return f"{document['title']} {document['text']}"


def judged() -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    qrels: dict[str, dict[str, int]] = {}
    rows = (SCIFACT / "qrels" / "test.tsv").read_text().splitlines()[1:]
    for query, document, grade in (row.split("\t") for row in rows):
        qrels.setdefault(query, {})[document] = int(grade)
    return {q["_id"]: q["text"] for q in lines("queries.jsonl") if q["_id"] in qrels}, qrels


def ndcg(run: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]]) -> float:
    import pytrec_eval

    measured = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    return float(np.mean([query["ndcg_cut_10"] for query in measured.values()]))


@pytest.fixture
async def index() -> AsyncIterator[DocumentIndex]:
    index = DocumentIndex(QdrantSettings(), "scifact", NoEncoder(dim=4))
    await index.start()
    yield index
    await index.aclose()


async def test_bm25_is_within_a_hundredth_of_bm25s(index: DocumentIndex) -> None:
    """On all of SciFact, with the same terms; a third comes in later, so the average moves."""
    documents = lines("corpus.jsonl")
    first = len(documents) // 3 * 2
    await index.upsert(documents[:first])
    await index.upsert(documents[first:])
    queries, qrels = judged()
    ours = {
        name: {f.document.id: f.score for f in (await index.search(terms=text, k=20)).bm25}
        for name, text in queries.items()
    }
    reference = _by_bm25s(documents, queries)
    assert abs(ndcg(ours, qrels) - ndcg(reference, qrels)) < 0.01
    assert ndcg(ours, qrels) > 0.67


def _by_bm25s(
    documents: list[dict[str, Any]], queries: dict[str, str]
) -> dict[str, dict[str, float]]:
    analyzer, settings = Analyzer(Bm25Settings()), Bm25Settings()
    oracle = bm25s.BM25(k1=settings.k1, b=settings.b)
    oracle.index([analyzer.terms(text_of(d)) for d in documents], show_progress=False)
    run = {}
    for name, text in queries.items():
        scores = oracle.get_scores(analyzer.terms(text))
        best = np.argsort(-scores, kind="stable")[:20]
        run[name] = {documents[n]["_id"]: float(scores[n]) for n in best}
    return run


async def test_dense_ranks_as_semantic_search_does() -> None:
    """The embedded model's vectors through Qdrant, against sentence-transformers' own search."""
    import torch
    from sentence_transformers import util

    from funnel.models import Embedder
    from funnel.models.source import EMBEDDED_ENCODER

    encoder = Embedder(EMBEDDED_ENCODER)
    documents = [{**row, "text": row["text"][:200]} for row in lines("corpus.jsonl")[:60]]
    queries = [query["text"] for query in lines("queries.jsonl")[:10]]
    index = DocumentIndex(QdrantSettings(), "scifact", encoder)
    await index.start()
    await index.upsert(documents)
    vectors = encoder.encode([text_of(document) for document in documents])
    asked = encoder.encode(queries)
    reference = util.semantic_search(torch.from_numpy(asked), torch.from_numpy(vectors), top_k=10)
    for vector, hits in zip(asked, reference, strict=True):
        found = await index.search(vector=vector, k=10)
        expected = [documents[int(hit["corpus_id"])]["_id"] for hit in hits]
        assert [item.document.id for item in found.dense] == expected
    await index.aclose()
