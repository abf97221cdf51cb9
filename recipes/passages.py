"""The groups that ``embedded:relevance`` learns from: one query, its passages, their grades.

Negatives are what BM25 puts high and nobody judged relevant; where a source brings judged
negatives, those. The held-out part is fifteen queries of TREC DL21 and 120 training queries of
SciFact; no query of DL20, of Cranfield or of a test split is trained on.
"""

import csv
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SEED = 11
_NEGATIVES = 5
_SQUAD_QUESTIONS = 9_000
_SCIFACT_DEV, _DL21_DEV = 120, 15
_DL21_GROUPS, _DL21_OTHERS = 24, 7


class Group(NamedTuple):
    """A query and passages of shape (n,), with a grade for each: 0 is not relevant."""

    source: str
    query: str
    passages: list[str]
    grades: list[int]


class Ranking(NamedTuple):
    """A query with a first stage's passages, to be reranked, and its judgements."""

    query: str
    ids: list[str]
    passages: list[str]
    judged: dict[str, int]


@dataclass(frozen=True)
class Passages:
    """Training groups and held-out rankings by name."""

    train: list[Group]
    held_out: dict[str, list[Ranking]]


class _Collection(NamedTuple):
    documents: dict[str, str]
    queries: dict[str, str]
    judged: dict[str, dict[str, int]]


def read_passages(data: Path) -> Passages:
    """Everything, from the folder of data sets."""
    rng = random.Random(SEED)
    qa = data / "qa"
    groups = _squad(qa / "squad_nqg", rng)
    groups += _judged(_wikiqa(qa / "wikiqa_abcnn/train.txt"), "wikiqa", rng)
    groups += _judged(_trecqa(qa / "trecqa_wang"), "trecqa", rng)
    groups += _clapnq(qa / "clapnq")
    groups += _climate(qa / "climate_fever/climate-fever.jsonl", rng)
    scifact, scifact_dev = _scifact(data / "scifact", rng)
    dl21, dl21_dev = _dl21(data / "trec-dl21", rng)
    groups += scifact + dl21
    rng.shuffle(groups)
    return Passages(groups, {"dl21": dl21_dev, "scifact": scifact_dev})


def read_reranking(folder: Path) -> list[Ranking]:
    """The BM25 top 100 that a TREC folder brings, for every judged query."""
    collection, run = _collection(folder), _run(folder)
    return [_ranking(collection, query, run[query]) for query in sorted(run)]


def first_stage(folder: Path, *, depth: int, split: str = "test") -> list[Ranking]:
    """BM25's first ``depth`` documents for every judged query of a BEIR folder."""
    collection = _collection(folder, split)
    queries = sorted(collection.judged)
    rows = _bm25(
        list(collection.documents.values()), [collection.queries[q] for q in queries], depth
    )
    ids = list(collection.documents)
    return [
        _ranking(collection, query, [ids[i] for i in row])
        for query, row in zip(queries, rows, strict=True)
    ]


def _ranking(collection: _Collection, query: str, ids: list[str]) -> Ranking:
    passages = [collection.documents[document] for document in ids]
    return Ranking(collection.queries[query], ids, passages, collection.judged[query])


def _collection(folder: Path, split: str = "test") -> _Collection:
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
    marks = {"-lrb-": "(", "-rrb-": ")", "-LRB-": "(", "-RRB-": ")", "``": '"', "''": '"'}
    for old, new in {**marks, " '": "'", " n't": "n't"}.items():
        text = text.replace(old, new)
    text = re.sub(r"\s+([,.?!:;)])", r"\1", text)
    return text.replace("( ", "(").replace(" -- ", "-").strip()


def _squad(folder: Path, rng: random.Random) -> list[Group]:
    """Questions on Wikipedia sentences; negatives are BM25's other sentences."""
    pairs = [
        (_mended(question), _mended(sentence))
        for part in ("dev", "test")
        for sentence, question in zip(
            _lines(folder / f"src-{part}.txt"), _lines(folder / f"tgt-{part}.txt"), strict=True
        )
    ]
    rng.shuffle(pairs)
    pool = sorted({sentence for _, sentence in pairs})
    chosen = pairs[:_SQUAD_QUESTIONS]
    groups = []
    for (question, sentence), row in zip(
        chosen, _bm25(pool, [question for question, _ in chosen], 12), strict=True
    ):
        others = [pool[i] for i in row if pool[i] != sentence][:8]
        rng.shuffle(others)
        groups.append(_group("squad", question, sentence, others))
    return groups


def _group(source: str, query: str, positive: str, negatives: Iterable[str]) -> Group:
    others = list(negatives)[:_NEGATIVES]
    return Group(source, query, [positive, *others], [1] + [0] * len(others))


def _wikiqa(path: Path) -> list[tuple[str, str, int]]:
    rows = [line.split("\t") for line in _lines(path)]
    return [(_mended(row[1]), _mended(row[2]), int(row[0])) for row in rows]


def _trecqa(folder: Path) -> list[tuple[str, str, int]]:
    found = []
    for part in ("train", "dev"):
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found += [(_mended(r["qtext"]), _mended(r["atext"]), int(r["label"])) for r in rows]
    return found


def _judged(rows: Sequence[tuple[str, str, int]], source: str, rng: random.Random) -> list[Group]:
    """Questions with judged candidate sentences; short lists are filled up at random."""
    candidates: dict[str, list[tuple[str, int]]] = {}
    for question, sentence, label in rows:
        candidates.setdefault(question, []).append((sentence, label))
    everything = [sentence for _, sentence, _ in rows]
    groups = []
    for question, found in candidates.items():
        wrong = [sentence for sentence, label in found if not label]
        for right in [sentence for sentence, label in found if label][:3]:
            negatives = rng.sample(wrong, min(len(wrong), _NEGATIVES))
            negatives += rng.sample(everything, max(0, _NEGATIVES - len(negatives)))
            groups.append(_group(source, question, right, negatives))
    return groups


def _clapnq(folder: Path) -> list[Group]:
    """Natural questions with their Wikipedia passage; unanswered ones give passages only."""
    answered = _first_passages(folder / "annotated_data_dev_clapnq_dev_answerable.jsonl")
    others = _first_passages(folder / "annotated_data_dev_clapnq_dev_unanswerable.jsonl")
    pool = [passage for _, passage in answered + others]
    rows = _bm25(pool, [question for question, _ in answered], 9)
    return [
        _group("clapnq", question, passage, [pool[i] for i in row if pool[i] != passage])
        for (question, passage), row in zip(answered, rows, strict=True)
    ]


def _first_passages(path: Path) -> list[tuple[str, str]]:
    found = []
    for line in _lines(path):
        row = json.loads(line)
        passage = row["passages"][0]
        found.append((row["input"], f"{passage['title']} {passage['text']}"[:900]))
    return found


def _climate(path: Path, rng: random.Random) -> list[Group]:
    """Claims and evidence on which the annotators agreed: for or against, or beside the point."""
    claims = []
    for line in _lines(path):
        row = json.loads(line)
        agreed = [each for each in row["evidences"] if each["entropy"] < 0.5]
        sides: tuple[list[str], list[str]] = ([], [])
        for each in agreed:
            beside = each["evidence_label"] == "NOT_ENOUGH_INFO"
            sides[beside].append(f"{each['article']}: {each['evidence']}")
        claims.append((row["claim"], *sides))
    pool = sorted({text for _, about, beside in claims for text in about + beside})
    usable = [claim for claim in claims if claim[1]]
    groups = []
    for (claim, about, beside), row in zip(
        usable, _bm25(pool, [claim for claim, _, _ in usable], 20), strict=True
    ):
        far = [pool[i] for i in row[6:] if pool[i] not in about]
        negatives = beside[:2] + rng.sample(far, min(_NEGATIVES, len(far)))
        if len(negatives) >= _NEGATIVES:
            groups.append(_group("climate", claim, about[0], negatives))
    return groups


def _scifact(folder: Path, rng: random.Random) -> tuple[list[Group], list[Ranking]]:
    collection = _collection(folder, "train")
    ids = list(collection.documents)
    queries = sorted(collection.judged)
    rng.shuffle(queries)
    texts = [collection.queries[query] for query in queries]
    rows = _bm25(list(collection.documents.values()), texts, 50)
    ranked = {q: [ids[i] for i in row] for q, row in zip(queries, rows, strict=True)}
    held_out = [_ranking(collection, q, ranked[q]) for q in queries[:_SCIFACT_DEV]]
    groups = []
    for query in queries[_SCIFACT_DEV:]:
        judged = collection.judged[query]
        relevant = [document for document, grade in judged.items() if grade]
        others = [document for document in ranked[query][:25] if document not in relevant]
        for document in relevant[:2]:
            negatives = [collection.documents[d] for d in rng.sample(others, _NEGATIVES)]
            text = collection.documents[document]
            groups.append(_group("scifact", collection.queries[query], text, negatives))
    return groups, held_out


def _dl21(folder: Path, rng: random.Random) -> tuple[list[Group], list[Ranking]]:
    """Graded judgements: one of the best against a random handful of the others."""
    collection, run = _collection(folder), _run(folder)
    queries = sorted(collection.judged)
    rng.shuffle(queries)
    held_out = [_ranking(collection, query, run[query]) for query in queries[:_DL21_DEV]]
    groups = []
    for query in queries[_DL21_DEV:]:
        by_grade = _by_grade(collection, run[query], query)
        best = by_grade[3] or by_grade[2]
        for _ in range(_DL21_GROUPS if best else 0):
            first = rng.choice(best)
            rest = [d for found in by_grade.values() for d in found if d != first]
            chosen = [first, *rng.sample(rest, min(_DL21_OTHERS, len(rest)))]
            grades = [collection.judged[query].get(document, 0) for document in chosen]
            texts = [collection.documents[document] for document in chosen]
            groups.append(Group("dl21", collection.queries[query], texts, grades))
    return groups, held_out


def _by_grade(
    collection: _Collection, ranked: Sequence[str], query: str
) -> defaultdict[int, list[str]]:
    """Judged documents of which the text is here, and BM25's unjudged ones as grade 0."""
    judged = collection.judged[query]
    by_grade: defaultdict[int, list[str]] = defaultdict(list)
    for document in ranked:
        by_grade[judged.get(document, 0)].append(document)
    for document, grade in judged.items():
        if document in collection.documents and document not in ranked:
            by_grade[grade].append(document)
    return by_grade
