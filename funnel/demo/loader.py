"""Typed access to the files shipped with the package; see ``data/README.md`` for their meaning."""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal

from funnel.types import Document

Grades = Mapping[str, Mapping[str, int]]
"""Query id to document id to grade; documents that are not named are irrelevant."""

RELEVANT = 3
PARTIAL = 1
DISTRACTOR = 0


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """A query of the graded set."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class StreamQuestion:
    """One request of a cache stream.

    Questions of one ``group`` ask for the same thing. ``expect`` is None in the hard stream, where
    it follows from the groups alone.
    """

    query: str
    group: str
    expect: Literal["hit", "miss"] | None = None


@dataclass(frozen=True, slots=True)
class SwapPair:
    """Two questions of much the same surface, and whether one answer serves both."""

    question1: str
    question2: str
    is_duplicate: bool
    kind: str


def data_folder() -> Traversable:
    """The shipped BEIR folder."""
    return files("funnel.demo") / "data"


def load_documents() -> tuple[Document, ...]:
    """The help centre: one document per article."""
    return tuple(
        Document(row["_id"], row["text"], row["title"], row["metadata"])
        for row in _rows("corpus.jsonl")
    )


def load_queries() -> tuple[DemoQuery, ...]:
    """The graded queries."""
    return tuple(DemoQuery(row["_id"], row["text"]) for row in _rows("queries.jsonl"))


def load_grades() -> Grades:
    """The grades of the labelled pairs: 3 relevant, 1 partly, 0 a distractor sharing words."""
    grades: dict[str, dict[str, int]] = {}
    text = (data_folder() / "qrels" / "test.tsv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        grades.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return grades


def load_stream() -> tuple[StreamQuestion, ...]:
    """The stream of the demo: 50 questions over 12 topics, 38 of them asked before."""
    return tuple(StreamQuestion(**row) for row in _rows("stream.jsonl"))


def load_hard_stream() -> tuple[StreamQuestion, ...]:
    """A stream of distant paraphrases and near misses, for honest measurement."""
    return tuple(StreamQuestion(**row) for row in _rows("stream_hard.jsonl"))


def load_swap_pairs() -> tuple[SwapPair, ...]:
    """Swaps that change the meaning, and paraphrases that look alike."""
    return tuple(
        SwapPair(row["question1"], row["question2"], bool(row["is_duplicate"]), row["kind"])
        for row in _rows("swap_pairs.jsonl")
    )


def corpus_fingerprint() -> str:
    """A hash of the corpus file, to see whether an index already holds this corpus."""
    return hashlib.sha256((data_folder() / "corpus.jsonl").read_bytes()).hexdigest()[:16]


def _rows(name: str) -> Iterator[dict[str, Any]]:
    text = (data_folder() / name).read_text(encoding="utf-8")
    # not splitlines(): it also breaks at characters that JSON may hold unescaped
    return (json.loads(line) for line in text.split("\n") if line)
