"""What mining draws from: queries with their known positives, and documents."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.errors import InputError
from funnel.evaluation.beir import split_file
from funnel.log import get_logger
from funnel.training.reading import OnBadLine, read_rows
from funnel.training.records import check_writable, known_pair
from funnel.training.splits import joined

_log = get_logger(__name__)
_RIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Pool:
    """``positives[i]`` are the positions in ``documents`` known to answer ``queries[i]``.

    ``chained[i]`` are those that no negative of it may come from, for a chain of positives leads
    there; there may be none of them.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    positives: tuple[tuple[int, ...], ...]
    chained: tuple[tuple[int, ...], ...] = ()


def read_pool(path: Path, *, split: str = "train", on_bad_line: OnBadLine = "fail") -> Pool:
    """Read a BEIR folder (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv) or a file of pairs.

    In a file of (query, positive) pairs, the positives of all queries are the documents. If its
    rows carry labels, those below 0.5 are documents, too, but answer nothing. What a chain of its
    positives joins is chained, as :func:`make_pool` says; in a folder nothing is. Judgements of
    queries or documents that the folder has no text of are left out, with a warning that counts
    them.

    Raises:
        ConfigError: a file is missing.
        ExamplesError: lines cannot be read.
        InputError: no query has a positive document.
    """
    if path.is_dir():
        return _from_beir(path, split, on_bad_line)
    pairs = read_rows(path, known_pair, on_bad_line=on_bad_line)
    right = [(pair.query, pair.document) for pair in pairs if pair.score >= _RIGHT]
    return make_pool(right, [pair.document for pair in pairs])


def make_pool(
    pairs: list[tuple[str, str]], documents: list[str] | None = None, *, chained: bool = True
) -> Pool:
    """Join repeated queries and documents; ``documents`` adds more to draw negatives from.

    Unless ``chained`` is off, whatever a chain of pairs joins (a with b, c with b, c with d: so a
    with d), case and spaces aside, is no negative of each other: of questions that ask the same it
    asks the same, too. Where one document answers many queries for different reasons, turn it off.
    """
    positions: dict[str, int] = {}
    for text in [*(positive for _, positive in pairs), *(documents or [])]:
        positions.setdefault(text, len(positions))
    wanted: dict[str, dict[int, None]] = {}
    for query, positive in pairs:
        wanted.setdefault(query, {})[positions[positive]] = None
    if not wanted:
        raise InputError("no query has a positive document: there is nothing to mine for")
    positives = tuple(tuple(found) for found in wanted.values())
    together = _chained(pairs, tuple(wanted), tuple(positions)) if chained else ()
    return Pool(tuple(wanted), tuple(positions), positives, together)


def _chained(
    pairs: Sequence[tuple[str, str]], queries: Sequence[str], documents: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """For each query: the documents that a chain of pairs joins with it, itself among them."""
    groups = joined(pairs, lambda pair: map(_plain, pair))
    group_of = {
        _plain(text): place
        for place, group in enumerate(groups)
        for index in group
        for text in pairs[index]
    }
    members: defaultdict[int, list[int]] = defaultdict(list)
    for position, text in enumerate(documents):
        if (place := group_of.get(_plain(text))) is not None:
            members[place].append(position)
    shared = {place: tuple(found) for place, found in members.items()}
    return tuple(shared[group_of[_plain(query)]] for query in queries)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _from_beir(folder: Path, split: str, on_bad_line: OnBadLine) -> Pool:
    documents = dict(read_rows(folder / "corpus.jsonl", _document, on_bad_line=on_bad_line))
    queries = dict(read_rows(folder / "queries.jsonl", _document, on_bad_line=on_bad_line))
    judged = read_rows(split_file(folder, split), _judgement, on_bad_line=on_bad_line)
    right = [(query, document) for query, document, grade in judged if grade > 0]
    pairs = [
        (queries[query], documents[document])
        for query, document in right
        if query in queries and document in documents
    ]
    if len(pairs) < len(right):
        _log.warning(
            "training.judgements_without_text",
            left_out=len(right) - len(pairs),
            of=len(right),
            unknown_queries=len({query for query, _ in right} - queries.keys()),
            unknown_documents=len({document for _, document in right} - documents.keys()),
        )
    # A document that answers two queries does not make them one.
    return make_pool(pairs, list(documents.values()), chained=False)


def _document(values: Mapping[str, Any], _place: str) -> tuple[str, str]:
    name = str(values.get("_id", values.get("id", "")))
    text = " ".join(str(values[key]) for key in ("title", "text") if values.get(key)).strip()
    if not name or not text:
        raise InputError("expected '_id' and 'text'")
    check_writable("text", text)
    return name, text


def _judgement(values: Mapping[str, Any], _place: str) -> tuple[str, str, float]:
    try:
        return str(values["query-id"]), str(values["corpus-id"]), float(values["score"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError("expected the columns query-id, corpus-id and score") from None
