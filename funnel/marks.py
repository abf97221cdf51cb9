"""A bound on combining marks in a row."""

import re
from unicodedata import combining

_MOST_IN_A_ROW = 128
_NO_WORDS = re.compile(rf"[^\w\s]{{{_MOST_IN_A_ROW + 1},}}")  # all marks are among these


def few_marks(text: str) -> str:
    """The text with at most 128 combining marks in a row; no script writes more than a few.

    Normal forms sort such a row in quadratic time: one of 80,000 would hold the process for 15 s.
    """
    return text if text.isascii() else _NO_WORDS.sub(lambda row: _cut(row.group()), text)


def _cut(row: str) -> str:
    kept, marks = [], 0
    for char in row:
        marks = marks + 1 if combining(char) else 0
        if marks <= _MOST_IN_A_ROW:
            kept.append(char)
    return "".join(kept)
