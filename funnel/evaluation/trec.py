"""TREC run files: ``query Q0 document rank score tag``, one line for each document."""

import math
from collections.abc import Iterator
from pathlib import Path

from funnel.errors import InputError
from funnel.evaluation.metrics import Rankings, trec_order

MAX_PROBLEMS = 10


def write_run(path: Path, rankings: Rankings, tag: str) -> None:
    """Write rankings so that trec_eval reads them in this very order.

    trec_eval ignores the rank column and sorts by score, equal scores by id. A stage may order
    without scores and may have ties, so the score column holds pseudo-scores that decrease
    strictly with the rank: n for the first of n documents, 1 for the last.

    Raises:
        InputError: an id holds white space, which the format cannot carry.
    """
    lines = [
        f"{_field(query_id)} Q0 {_field(doc_id)} {rank} {len(ranking) - rank + 1} {tag}\n"
        for query_id, ranking in rankings.items()
        for rank, doc_id in enumerate(ranking, start=1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def read_run(path: Path) -> dict[str, list[str]]:
    """Rankings from a TREC run, ordered as trec_eval orders them.

    Raises:
        InputError: names every bad line.
    """
    scores: dict[str, dict[str, float]] = {}
    problems = list(_fill(path, scores))
    if problems:
        raise bad_lines(path, problems, "query Q0 document rank score tag")
    return {query_id: trec_order(found) for query_id, found in scores.items()}


def bad_lines(path: Path, problems: list[str], expected: str) -> InputError:
    """An error that names the bad lines of a file."""
    shown = "\n  ".join(problems[:MAX_PROBLEMS])
    more = len(problems) - MAX_PROBLEMS
    rest = f"\n  … and {more} more" if more > 0 else ""
    return InputError(
        f"{path}: {len(problems)} bad line(s), expected lines of the form "
        f"'{expected}':\n  {shown}{rest}"
    )


def _fill(path: Path, scores: dict[str, dict[str, float]]) -> Iterator[str]:
    """Put a run's lines into ``scores``; yields what is wrong with the others."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: got {error}, expected a readable TREC run in UTF-8") from error
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 6:
            yield f"line {number}: got {len(fields)} fields, expected 6"
        elif (score := _score(fields[4])) is None:
            yield f"line {number}: got the score {fields[4]!r}, expected a finite number"
        elif fields[2] in scores.setdefault(fields[0], {}):
            yield f"line {number}: document {fields[2]!r} again for query {fields[0]!r}"
        else:
            scores[fields[0]][fields[2]] = score


def _score(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _field(text: str) -> str:
    if not text or text.split() != [text]:
        raise InputError(
            f"id {text!r}: a TREC run separates its fields by white space, so ids must have none"
        )
    return text
