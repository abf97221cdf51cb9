"""What is allowed against what is required: "can I take unpaid leave", "must I".

Models read both as a question about unpaid leave. Only English is read, and what says both, or is
negated, is of neither kind.
"""

import re
from typing import Literal

from funnel.cache.words import Question

Kind = Literal["allowed", "required"]

_START = r"^(?:(?:and|but|so|then|also|well|please|hi|hello|hey) )*"
_SOMEBODY = r"(?:\w+ ){1,4}?"
_ALLOWED = re.compile(
    rf"{_START}(?:can|could|may) (?!you\b)"
    rf"|{_START}(?:am|is|are) {_SOMEBODY}(?:able|free|ok|okay|fine) to\b"
    r"|\b(?:allowed|permitted)\b"
)
_REQUIRED = re.compile(
    rf"{_START}must\b"
    rf"|{_START}(?:do|does|did) {_SOMEBODY}(?:have|need) to\b"
    rf"|{_START}is it (?:necessary|essential) to\b"
    r"|\b(?:required|obliged|obligated|obligatory|mandatory|compulsory|must|ha(?:ve|s) to)\b"
)


def other_permission(a: Question, b: Question) -> str | None:
    """What one question asks for if the other asks for the opposite, or None."""
    kinds = _kind(a), _kind(b)
    return "allowed against required" if set(kinds) == {"allowed", "required"} else None


def _kind(question: Question) -> Kind | None:
    if question.negations:
        return None
    text = " ".join(word.folded for word in question.words)
    allowed, required = _ALLOWED.search(text), _REQUIRED.search(text)
    if bool(allowed) == bool(required):
        return None
    return "allowed" if allowed else "required"
