"""BEIR folders: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/SPLIT.tsv``, each also ``.gz``."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from funnel.errors import ConfigError, InputError
from funnel.evaluation.metrics import Qrels
from funnel.evaluation.trec import bad_lines
from funnel.indexing.corpus import (
    READ_ERRORS,
    Corpus,
    opened,
    packed_or_not,
    read_corpus,
    unreadable,
)
from funnel.query import normalise_query

_HEADER = "query-id\tcorpus-id\tscore"
_HEADER_NAMES = ("query-id", "query_id", "qid")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Dataset:
    """Judged queries over a corpus.

    ``queries`` holds the texts of the judged queries by id, in the order of the file; ``unjudged``
    counts the others, which are not evaluated. ``fingerprint`` changes with the corpus.
    """

    name: str
    split: str
    folder: Path
    queries: Mapping[str, str]
    qrels: Qrels
    unjudged: int
    fingerprint: str

    def corpus(self) -> Corpus:
        """The documents, read anew from the file."""
        return read_corpus(self.folder)

    def only(self, query_ids: list[str]) -> "Dataset":
        """The same with only these queries, in this order."""
        return replace(
            self,
            queries={query_id: self.queries[query_id] for query_id in query_ids},
            qrels={query_id: self.qrels[query_id] for query_id in query_ids},
        )

    def first(self, limit: int | None) -> "Dataset":
        """The same with at most ``limit`` queries."""
        return self if limit is None else self.only(list(self.queries)[:limit])


def load_beir(folder: str | Path, split: str = "test") -> Dataset:
    """Read queries and judgements of a BEIR folder, and find its corpus.

    Raises:
        ConfigError: the folder, one of its files or the split is missing.
        InputError: names every bad line; or no query is judged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(
            f"dataset {folder}: no such folder; expected a BEIR folder with corpus.jsonl, "
            "queries.jsonl and qrels/SPLIT.tsv"
        )
    qrels_file = split_file(folder, split)
    texts, corpus_file = read_queries(folder), _file(folder, "corpus.jsonl")
    known = set(texts)
    qrels = _by_query(_read(qrels_file, lambda line: _judgement(line, known), _HEADER))
    judged = {query_id: text for query_id, text in texts.items() if query_id in qrels}
    if not judged:
        raise InputError(f"{qrels_file}: judges no query, expected lines '{_HEADER}'")
    return Dataset(
        name=folder.resolve().name,
        split=split,
        folder=folder,
        queries=judged,
        qrels={query_id: qrels[query_id] for query_id in judged},
        unjudged=len(texts) - len(judged),
        fingerprint=_fingerprint(corpus_file),
    )


def read_queries(folder: Path) -> dict[str, str]:
    """The texts of all queries of a BEIR folder by id, judged or not, in the order of the file.

    Raises:
        ConfigError: there is no such file.
        InputError: names every bad line.
    """
    return _read(_file(folder, "queries.jsonl"), _query, '{"_id": "q1", "text": "…"}')


def split_file(folder: Path, split: str) -> Path:
    """The judgements of a split, packed or not.

    Raises:
        ConfigError: there is no such split; names those that there are.
    """
    file = packed_or_not(folder / "qrels" / f"{split}.tsv")
    if file is None:
        names = {other.name.partition(".tsv")[0] for other in folder.glob("qrels/*.tsv*")}
        found = ", ".join(sorted(names)) or "none"
        raise ConfigError(f"dataset {folder}: no qrels/{split}.tsv; splits found: {found}")
    return file


def _file(folder: Path, name: str) -> Path:
    file = packed_or_not(folder / name)
    if file is None:
        raise ConfigError(f"dataset {folder}: no {name} (or {name}.gz)")
    return file


def _fingerprint(file: Path) -> str:
    """Of what is in it: packed or not, a corpus is the same."""
    digest = hashlib.blake2b(digest_size=6)
    reached = 0
    try:
        with opened(file) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                reached += len(chunk)
    except READ_ERRORS as error:
        raise unreadable(str(file), error, f"after {reached:,} bytes") from None
    return digest.hexdigest()


def _read(
    file: Path, parse: Callable[[str], tuple[Any, Any] | None], expected: str
) -> dict[Any, Any]:
    """A mapping from a file's lines; the same key twice must mean the same."""
    rows: dict[Any, Any] = {}
    problems: list[str] = []
    for number, line in _lines(file):
        try:
            parsed = parse(line)
            if parsed is not None:
                _put(rows, *parsed)
        except (InputError, ValueError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise bad_lines(file, problems, expected)
    return rows


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    reached = "at its start"
    try:
        with io.TextIOWrapper(opened(file), encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
                reached = f"after line {number}"
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: got {error}, expected a readable file in UTF-8") from error
    except READ_ERRORS as error:
        raise unreadable(str(file), error, reached) from None


def _put(rows: dict[Any, Any], key: Any, value: Any) -> None:
    if rows.setdefault(key, value) != value:
        raise InputError(f"{key!r} again, with {value!r:.60} instead of {rows[key]!r:.60}")


def _query(line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"broken JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"got a JSON {type(row).__name__}, expected an object")
    query_id = row.get("_id", row.get("id"))
    if isinstance(query_id, bool) or not isinstance(query_id, str | int) or query_id == "":
        raise InputError(f"got the '_id' {query_id!r:.60}, expected a text")
    normalise_query(row.get("text"))
    return str(query_id), row["text"]


def _judgement(line: str, known: set[str]) -> tuple[tuple[str, str], int] | None:
    fields = line.split("\t")
    if fields[0].lower() in _HEADER_NAMES and fields[0] not in known:
        return None
    if len(fields) != 3:
        raise InputError(f"got {len(fields)} tab-separated fields, expected 3")
    query_id, doc_id, grade = (field.strip() for field in fields)
    if query_id not in known:
        raise InputError(f"query {query_id!r} is not in queries.jsonl")
    return (query_id, doc_id), _grade(grade)


def _grade(text: str) -> int:
    """Also of ``1.0``, as tools write it that read the column as decimals."""
    try:
        if (value := float(text)).is_integer():
            return int(value)
    except ValueError:
        pass
    raise InputError(f"got the grade {text!r}, expected a whole number")


def _by_query(judgements: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for (query_id, doc_id), grade in judgements.items():
        qrels.setdefault(query_id, {})[doc_id] = grade
    return qrels
