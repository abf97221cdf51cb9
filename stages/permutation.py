"""From what a language model wrote to a permutation of its passages, whatever it wrote."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

_THINK = re.compile(  # one that is never closed goes to the end: many of them take no longer
    r"<think(?:ing)?>(?:.*?</think(?:ing)?>|.*\Z)", re.DOTALL | re.IGNORECASE
)
_THINK_OPENED_OUTSIDE = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)

_NUMBER = r"[0-9]{1,9}"
_GROUP = rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*\]"  # [3] or [3, 1, 2]
_RUN = re.compile(rf"{_GROUP}(?:[\s>,]*{_GROUP})*")  # [3] > [1] > [2]
_BARE_RUN = re.compile(rf"{_NUMBER}(?:\s*>\s*{_NUMBER})+")  # 3 > 1 > 2
_CUT_SHORT = re.compile(r'"ranking"\s*:\s*\[([^\]]*)\Z')  # an answer that hit max_tokens
_OBJECTS_TRIED = 50
_ID_IN_QUOTES = re.compile(rf"\s*\[?\s*({_NUMBER})\s*\]?\s*")

KEY = "ranking"
"""The key of the JSON answer that holds the ids."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """A permutation of ``range(size)``, best first, and what was done to get it.

    ``dropped`` counts what was no id of a passage, ``repeated`` ids named again, ``missing`` ids
    that were not named and follow in their prior order.
    """

    order: tuple[int, ...]
    dropped: int = 0
    repeated: int = 0
    missing: int = 0

    @property
    def status(self) -> Literal["ok", "repaired", "malformed"]:
        """``malformed`` if no passage was named at all: then ``order`` is the prior order."""
        if self.missing == len(self.order):
            return "malformed"
        return "repaired" if self.dropped or self.repeated or self.missing else "ok"


def read_permutation(answer: str, size: int) -> Repaired:
    """Read a model's answer over passages ``1 … size`` and repair it; never fails."""
    return repair(named_ids(answer), size)


def repair(ids: Sequence[object], size: int) -> Repaired:
    """Make 1-based ids a permutation of ``0 … size - 1``.

    Drops what is no integer or out of range, keeps the first of repeats, and appends what is
    missing in prior order.
    """
    inside = [n - 1 for n in map(_as_id, ids) if n is not None and 1 <= n <= size]
    named = tuple(dict.fromkeys(inside))
    missing = [position for position in range(size) if position not in set(named)]
    return Repaired(
        order=(*named, *missing),
        dropped=len(ids) - len(inside),
        repeated=len(inside) - len(named),
        missing=len(missing),
    )


def named_ids(answer: str) -> list[object]:
    """The ids that an answer names, in its order and unchecked; empty if it names none.

    Reads JSON (``{"ranking": [3, 1]}`` or a bare list, alone or within other text, cut short or
    whole) and the list-wise notation ``[3] > [1]``. A number outside of these is not an id: "20
    passages are provided" names none.
    """
    text = without_thoughts(answer)
    for found in _json_lists(text):
        return found
    if cut := _CUT_SHORT.search(text, text.rfind("]") + 1):  # or each start would read to it
        return _numbers(cut.group(1).rpartition(",")[0])  # the last may lack digits
    return _longest_run(text)


def without_thoughts(answer: str) -> str:
    """The answer without ``<think>…</think>``, also where one of the two tags is missing."""
    return _THINK_OPENED_OUTSIDE.sub(" ", _THINK.sub(" ", answer)).strip()


def _json_lists(text: str) -> Iterator[list[object]]:
    """Lists of ids in the JSON values of a text: the text itself, then objects within it."""
    whole = _decode(text)
    if isinstance(whole, list):
        yield whole
    for brace in islice(re.finditer(r"\{", text), _OBJECTS_TRIED):
        value = _decode_at(text, brace.start())
        if isinstance(value, dict) and isinstance(value.get(KEY), list):
            yield value[KEY]


def _decode(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also integers too long to convert
        return None


def _decode_at(text: str, start: int) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def _longest_run(text: str) -> list[object]:
    """The ids of the longest ``[3] > [1]`` run; of all of them if none has more than one."""
    for pattern in (_RUN, _BARE_RUN):
        runs = [_numbers(match.group()) for match in pattern.finditer(text)]
        longest = max(runs, key=len, default=[])
        if len(longest) > 1:
            return longest
        if runs:
            return [number for run in runs for number in run]
    return []


def _numbers(text: str) -> list[object]:
    return [int(number) for number in re.findall(_NUMBER, text)]


def _as_id(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and (match := _ID_IN_QUOTES.fullmatch(value)):
        return int(match.group(1))
    return None
