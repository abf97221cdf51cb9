"""Reading query logs and labelled pairs; broken lines are counted and told, never guessed."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from funnel.errors import InputError
from funnel.query import normalise_query

T = TypeVar("T")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


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

    JSONL, or by their ending CSV and TSV with these columns, where an empty group is unknown.

    Raises:
        InputError: the file cannot be read, or no line of it is good.
    """
    return _read(path, _asked, '{"query": "…", "group": "…" or null}')


def read_pairs(path: Path) -> Lines[LabelledPair]:
    """Read ``{"question1": …, "question2": …, "is_duplicate": 0 or 1}`` a line.

    JSONL, or by their ending CSV and TSV with these columns.

    Raises:
        InputError: the file cannot be read, or no line of it is good.
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
    for number, row in _rows(path):
        try:
            if not isinstance(row, dict):
                raise InputError(row)
            items.append(parse(row))
        except InputError as error:
            problems.append(f"line {number}: {error}")
    if not items:
        first = f"; {problems[0]}" if problems else ""
        raise InputError(f"{path}: got no usable line, expected lines of {form}{first}")
    return Lines(tuple(items), tuple(problems))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each line's number and its values, or what is wrong with it."""
    delimiter = _DELIMITERS.get(path.suffix.lower())
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            yield from _from_table(lines, delimiter) if delimiter else _from_json(lines)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _from_json(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, str(error)
        else:
            wrong = f"got {line.strip()!r:.60}, expected an object"
            yield number, row if isinstance(row, dict) else wrong


def _from_table(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    table = csv.DictReader(lines, delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(table, None)
        except csv.Error as error:
            yield table.reader.line_num, f"broken CSV: {error}"
            continue
        if row is None:
            return
        fits = None not in row and None not in row.values()
        wrong = "got more or fewer values than the header has columns"
        yield table.line_num, {**row, "group": row.get("group") or None} if fits else wrong


def _asked(row: dict[str, Any]) -> Asked:
    group = row.get("group")
    if group is not None and not isinstance(group, str | int):
        raise InputError(f"group: got {group!r:.40}, expected a text, a whole number or null")
    return Asked(normalise_query(row.get("query")), None if group is None else str(group))


def _pair(row: dict[str, Any]) -> LabelledPair:
    label = row.get("is_duplicate")
    if label not in (0, 1, "0", "1"):
        raise InputError(f"is_duplicate: got {label!r:.40}, expected 0 or 1")
    first, second = (normalise_query(row.get(name)) for name in ("question1", "question2"))
    return LabelledPair(first, second, bool(int(label)))
