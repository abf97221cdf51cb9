"""Texts that are equal but for one word in its place.

Such words are too common, or mean too many things, to exclude one another anywhere in a question
as those of ``opposites`` do. In one frame they do: "the first dose", "the second dose".
"""

import re
from collections.abc import Mapping
from functools import cache

from funnel.cache.lexicon import IN_PLACE, TENSES, TIMES, Group
from funnel.cache.order import framed
from funnel.cache.words import Question

_NOW = frozenset({"i", "my", "me", "we", "our", "us", "this", "these"})
_A_TIME = re.compile(
    r"(?:the )?(?:\d+(?:st|nd|rd|th)|\d{1,2}(?:am|pm)?|noon|midnight|to(?:day|night|morrow)"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|weekend)s?\b"
)


def replaced(a: Question, b: Question) -> str | None:
    """Which of two words that exclude one another stands in each, all else being equal; or None.

    Tenses exclude one another where it is about oneself or about what is there now: "what is my
    balance", but not "who is Napoleon"; prepositions of time before a day or an hour.
    """
    first, second = ([word.folded for word in question.words] for question in (a, b))
    frame = framed(first, second)
    one, other = " ".join(frame.ours), " ".join(frame.theirs)
    apart = (
        _are_apart(IN_PLACE, one, other)
        or (_are_apart(TENSES, one, other) and not _NOW.isdisjoint(first))
        or (_are_apart(TIMES, one, other) and _A_TIME.match(" ".join(frame.end)) is not None)
    )
    return f"{one} against {other}" if apart else None


def _are_apart(groups: tuple[Group, ...], one: str, other: str) -> bool:
    sides = _sides(groups)
    ours, theirs = sides.get(one, {}), sides.get(other, {})
    return any(ours[group] != theirs[group] for group in ours.keys() & theirs.keys())


@cache
def _sides(groups: tuple[Group, ...]) -> Mapping[str, Mapping[int, int]]:
    """Word -> group -> its side there; an underscore joins words."""
    found: dict[str, dict[int, int]] = {}
    for number, group in enumerate(groups):
        for side, words in enumerate(group):
            for word in words:
                found.setdefault(word.replace("_", " "), {})[number] = side
    return found
