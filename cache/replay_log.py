"""Reading query logs and labelled pairs; broken lines are counted and told, never guessed."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from funnel.errors import InputError
from funnel.indexing.corpus import read_corpus
from funnel.query import normalise_query

T = TypeVar("T")
_TABLES = (".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a log. ``group`` is the intent; None when nobody knows."""

    query: str
    group: str | None


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two questions and whether they are the same one."""

    first: str
    second: str
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Lines(Generic[T]):
    """What could be read, in order, and ``"line 17: …"`` for each line that could not."""

    items: tuple[T, ...]
    problems: tuple[str, ...]


def read_log(path: Path) -> Lines[Asked]:
    """Read ``{"query": …, "group": …}`` a line; a missing or null group is unknown.

    JSONL, or by their ending CSV and TSV with these columns. An empty group is unknown, too.

    Raises:
        InputError: the file cannot be read, or no line of it is good.
        ConfigError: there is no such table.
    """
    return _read(path, _asked, '{"query": "…", "group": "…" or null}')


def read_pairs(path: Path) -> Lines[LabelledPair]:
    """Read ``{"question1": …, "question2": …, "is_duplicate": 0 or 1}`` a line.

    JSONL, or by their ending CSV and TSV with these columns.

    Raises:
        InputError: the file cannot be read, or no line of it is good.
        ConfigError: there is no such table.
    """
    return _read(path, _pair, '{"question1": "…", "question2": "…", "is_duplicate": 0 or 1}')


def is_log(path: Path) -> bool:
    """Whether the first readable line of a file is a request rather than a pair.

    Raises:
        InputError: the file cannot be read.
    """
    return "query" in next((row for _, row in _rows(path) if isinstance(row, dict)), ())


def _read(path: Path, parse: Callable[[dict[str, Any]], T], form: str) -> Lines[T]:
    items: list[T] = []
    problems: list[str] = []
    for place, row in _rows(path):
        try:
            if not isinstance(row, dict):
                raise InputError(row)
            items.append(parse(row))
        except InputError as error:
            problems.append(f"{place}: {error}")
    if not items:
        first = f"; {problems[0]}" if problems else ""
        raise InputError(f"{path}: got no usable line, expected lines of {form}{first}")
    return Lines(tuple(items), tuple(problems))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Where each line is, and its values or what is wrong with it."""
    if path.suffix.lower() in _TABLES:
        yield from _from_table(path)
        return
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            yield from _from_json(lines)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _from_json(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"line {number}", str(error)
        else:
            wrong = f"got {line.strip()!r:.60}, expected an object"
            yield f"line {number}", row if isinstance(row, dict) else wrong


def _from_table(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """As documents are read; but all cells are texts here, and an empty group is unknown."""
    for row in read_corpus(path, texts=True).rows:
        if isinstance(row.content, Mapping):
            yield row.place, {**row.content, **{x: "" for x in row.blank if x != "group"}}
        else:
            yield row.place, row.problem


def _asked(row: dict[str, Any]) -> Asked:
    group = row.get("group")
    if isinstance(group, bool) or not isinstance(group, str | int | None):
        got = json.dumps(group)
        raise InputError(f"group: got {got:.40}, expected a text, a whole number or null")
    return Asked(normalise_query(row.get("query")), _known(group))


def _known(group: str | int | None) -> str | None:
    """The group as text; a blank one is none, in every form of file."""
    return None if group is None or not str(group).strip() else str(group)


def _pair(row: dict[str, Any]) -> LabelledPair:
    label = row.get("is_duplicate")
    if label not in (0, 1, "0", "1"):
        raise InputError(f"is_duplicate: got {label!r:.40}, expected 0 or 1")
    first, second = (normalise_query(row.get(name)) for name in ("question1", "question2"))
    return LabelledPair(first, second, bool(int(label)))
