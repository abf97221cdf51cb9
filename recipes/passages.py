"""Rankings to put in a better order: a first stage's passages for judged queries."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Ranking(NamedTuple):
    """A query with a first stage's passages, best first, and its judgements."""

    query: str
    ids: list[str]
    passages: list[str]
    judged: dict[str, int]


class _Collection(NamedTuple):
    documents: dict[str, str]
    queries: dict[str, str]
    judged: dict[str, dict[str, int]]


def read_reranking(folder: Path) -> list[Ranking]:
    """The BM25 top 100 that a TREC folder brings, for every judged query."""
    collection, run = _collection(folder, "test"), _run(folder)
    return [_ranking(collection, query, run[query]) for query in sorted(run)]


def first_stage(folder: Path, split: str, *, depth: int, limit: int | None = None) -> list[Ranking]:
    """BM25's first ``depth`` documents for the judged queries of a BEIR folder."""
    collection = _collection(folder, split)
    queries = sorted(collection.judged)[:limit]
    ids = list(collection.documents)
    rows = _bm25(
        list(collection.documents.values()), [collection.queries[q] for q in queries], depth
    )
    return [
        _ranking(collection, query, [ids[i] for i in row])
        for query, row in zip(queries, rows, strict=True)
    ]


def read_sentences(path: Path, *, limit: int) -> list[Ranking]:
    """WikiQA: the judged sentences of the first questions that have a right and a wrong one."""
    candidates: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for line in _lines(path):
        label, question, sentence, *_ = line.split("\t")
        candidates[_mended(question)].append((_mended(sentence), int(label)))
    return [
        Ranking(
            question,
            [str(place) for place in range(len(found))],
            [sentence for sentence, _ in found],
            {str(place): label for place, (_, label) in enumerate(found)},
        )
        for question, found in candidates.items()
        if 0 < sum(label for _, label in found) < len(found) and len(found) > 3
    ][:limit]


def _ranking(collection: _Collection, query: str, ids: list[str]) -> Ranking:
    passages = [collection.documents[document] for document in ids]
    return Ranking(collection.queries[query], ids, passages, collection.judged[query])


def _collection(folder: Path, split: str) -> _Collection:
    documents = {row["_id"]: _whole(row) for row in _json_lines(folder / "corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in _json_lines(folder / "queries.jsonl")}
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for line in _lines(folder / f"qrels/{split}.tsv")[1:]:
        query, document, grade = line.split("\t")
        judged[query][document] = int(grade)
    return _Collection(documents, queries, dict(judged))


def _whole(row: Mapping[str, str]) -> str:
    title, text = row.get("title") or "", row["text"]
    return text if text.startswith(title) else f"{title} {text}".strip()


def _run(folder: Path) -> dict[str, list[str]]:
    run: dict[str, list[str]] = defaultdict(list)
    for line in _lines(folder / "bm25-top100.run"):
        query, _, document, *_ = line.split()
        run[query].append(document)
    return dict(run)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def _json_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in _lines(path)]


def _bm25(passages: Sequence[str], queries: Sequence[str], depth: int) -> list[list[int]]:
    """Positions of the best passages for each query, best first."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def tokens(texts: Sequence[str]) -> object:
        return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, show_progress=False)

    index = bm25s.BM25()
    index.index(tokens(passages), show_progress=False)
    found, _ = index.retrieve(tokens(queries), k=depth, show_progress=False)
    return [list(map(int, row)) for row in found]


def _mended(text: str) -> str:
    """Undo the treebank's tokenisation."""
    marks = {"-LRB-": "(", "-RRB-": ")", "``": '"', "''": '"', " '": "'", " n't": "n't"}
    for old, new in marks.items():
        text = text.replace(old, new)
    text = re.sub(r"\s+([,.?!:;)])", r"\1", text)
    return text.replace("( ", "(").strip()
