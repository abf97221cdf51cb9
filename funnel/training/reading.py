"""Read training files row by row (JSONL, CSV, TSV); every bad line is reported with its place."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from funnel.errors import ExamplesError, InputError
from funnel.indexing.corpus import read_corpus
from funnel.log import get_logger

Parsed = TypeVar("Parsed")
OnBadLine = Literal["fail", "skip"]

_log = get_logger(__name__)


def read_rows(
    path: Path | str,
    parse: Callable[[Mapping[str, Any], str], Parsed],
    *,
    on_bad_line: OnBadLine = "fail",
) -> list[Parsed]:
    """Read every row of ``path`` with ``parse(values, place)``; a place reads ``line 17``.

    ``on_bad_line="skip"`` leaves bad lines out and logs how many.

    Raises:
        ConfigError: the file is missing or of an unknown kind.
        ExamplesError: lines are not UTF-8, not JSON, lack a field or hold a bad value.
        InputError: there is no row at all, or the file cannot be read to its end.
    """
    rows: list[Parsed] = []
    problems: list[str] = []
    for row in read_corpus(path, what="data").rows:
        try:
            if not isinstance(row.content, Mapping):
                raise InputError(row.problem)
            rows.append(parse({**row.content, **dict.fromkeys(row.blank, "")}, row.place))
        except InputError as problem:
            problems.append(f"{row.place}: {problem}")
    if problems and on_bad_line == "fail":
        raise ExamplesError(str(path), problems)
    if problems:
        _log.warning("training.bad_lines_skipped", file=Path(path).name, skipped=len(problems))
    if not rows:
        raise InputError(f"{path}: got no usable row, expected one example per line")
    return rows
