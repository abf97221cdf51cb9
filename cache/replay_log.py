"""Reading query logs and labelled pairs; broken lines are counted and told, never guessed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from funnel.errors import InputError
from funnel.query import normalise_query

T = TypeVar("T")


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
    """Read JSONL of ``{"query": …, "group": …}``; a missing or null group is unknown.

    Raises:
        InputError: the file cannot be read, or no line of it is good.
    """
    return _read(path, _asked, '{"query": "…", "group": "…" or null}')


def read_pairs(path: Path) -> Lines[LabelledPair]:
    """Read JSONL of ``{"question1": …, "question2": …, "is_duplicate": 0 or 1}``.

    Raises:
        InputError: the file cannot be read, or no line of it is good.
    """
    return _read(path, _pair, '{"question1": "…", "question2": "…", "is_duplicate": 0 or 1}')


def is_log(path: Path) -> bool:
    """Whether the first readable line of a JSONL file is a request rather than a pair.

    Raises:
        InputError: the file cannot be read.
    """
    for _, line in _numbered(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            return "query" in row
    return False


def _read(path: Path, parse: Callable[[dict[str, Any]], T], form: str) -> Lines[T]:
    items: list[T] = []
    problems: list[str] = []
    for number, line in _numbered(path):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise InputError(f"got {line.strip()!r:.60}, expected an object")
            items.append(parse(row))
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
    if not items:
        first = f"; {problems[0]}" if problems else ""
        raise InputError(f"{path}: got no usable line, expected lines of {form}{first}")
    return Lines(tuple(items), tuple(problems))


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield from ((n, line) for n, line in enumerate(lines, start=1) if line.strip())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


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
