"""Small BEIR folders and funnels over them."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from funnel import Funnel, FunnelSettings
from funnel.evaluation.beir import Dataset
from funnel.evaluation.evaluate import evaluation_settings
from funnel.types import Candidate
from tests.fakes import FakeEncoder

CORPUS = [
    {"_id": "d1", "title": "Apples", "text": "red apples grow on trees"},
    {"_id": "d2", "title": "Pears", "text": "green pears grow on trees"},
    {"_id": "d3", "title": "Cars", "text": "red cars drive on roads"},
    {"_id": "d4", "title": "", "text": "boats swim in the sea"},
    {"_id": "d5", "title": "Trains", "text": "trains run on rails"},
]
QUERIES = [
    {"_id": "q1", "text": "red apples"},
    {"_id": "q2", "text": "green pears"},
    {"_id": "q3", "text": "boats in the sea"},
    {"_id": "unjudged", "text": "planes"},
]
QRELS = [("q1", "d1", 2), ("q1", "d2", 1), ("q2", "d2", 1), ("q3", "d4", 1), ("q3", "gone", 1)]


class FakeModels:
    """A pool that holds one encoder."""

    def __init__(self) -> None:
        self._encoder = FakeEncoder()

    def encoder(self, name: str) -> FakeEncoder:
        return self._encoder


def beir_folder(
    path: Path,
    corpus: Sequence[Mapping[str, Any]] = CORPUS,
    queries: Sequence[Mapping[str, Any]] = QUERIES,
    qrels: Sequence[tuple[str, str, int]] = QRELS,
) -> Path:
    """Write a BEIR folder."""
    (path / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    lines = "".join(f"{query}\t{doc}\t{grade}\n" for query, doc, grade in qrels)
    header = "query-id\tcorpus-id\tscore\n"
    (path / "qrels" / "test.tsv").write_text(header + lines, encoding="utf-8")
    return path


def packed(folder: Path, *names: str) -> Path:
    """Pack files of a folder, each in place of the one without ``.gz``."""
    for name in names:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    return folder


def shared_letters(query: str, candidates: Sequence[Candidate]) -> list[float]:
    """A reranker that needs no model: the share of the query's words in the text."""
    words = set(query.lower().split())
    texts = [f"{found.document.title} {found.document.text}".lower() for found in candidates]
    return [len(words & set(text.split())) / len(words) for text in texts]


def settings(**changes: Any) -> FunnelSettings:
    """Retrieval and one reranker in memory."""
    data: dict[str, Any] = {
        "stages": [
            {"kind": "hybrid", "k": 4},
            {"kind": "callable", "name": "words", "function": "words", "k": 2},
        ],
        "qdrant": ":memory:",
    }
    return FunnelSettings.from_mapping({**data, **changes})


def funnel_over(
    dataset: Dataset, base: FunnelSettings, *, pool: FakeModels | None = None, **functions: Any
) -> Funnel:
    """A funnel for measuring on a dataset, with models that need no download."""
    return Funnel(
        evaluation_settings(base, dataset),
        functions={"words": shared_letters, **functions},
        models=pool or FakeModels(),  # type: ignore[arg-type]
    )
