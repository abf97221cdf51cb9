"""Rankings to put in a better order: a first stage's passages for judged queries."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from funnel.errors import InputError
from funnel.evaluation.beir import load_beir
from funnel.indexing.corpus import Row


class Ranking(NamedTuple):
    """A query with a first stage's passages, best first, and its judgements."""

    query: str
    ids: list[str]
    passages: list[str]
    judged: Mapping[str, int]


class _Collection(NamedTuple):
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    judged: Mapping[str, Mapping[str, int]]


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
    dataset = load_beir(folder, split)
    documents = dict(_document(row, folder) for row in dataset.corpus().rows)
    return _Collection(documents, dataset.queries, dataset.qrels)


def _document(row: Row, folder: Path) -> tuple[str, str]:
    """Its id and what is read of it, which of some documents is nothing."""
    if not isinstance(row.content, Mapping):
        raise InputError(f"{folder}: {row.place}: {row.problem}; mend this line of its corpus")
    return str(row.content["_id"]), _whole(row.content)


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
