"""What a question asks to be told: whether, how or why; and whether it asks for more besides.

Who asks how something is done is not answered by whether it can be, half of two questions is no
answer to both, and one of two things is not the two. Only English is read; what is not surely of a
kind has none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from funnel.cache.words import visible

Kind = Literal["how", "whether", "why"]

_SENTENCE_END = re.compile(r"(?<=[?.!])\s+|\n")
_NO_WORD = re.compile(r"[^\w\s]|_")
_APOSTROPHE = re.compile("['\u2019]")
_BE = "(?:is|are|was|were)"
_CAN = "(?:can|could|should|would|will|might|may|must)"
_AUXILIARY = (
    f"(?:{_BE}|{_CAN}|am|do|does|did|shall|has|have|had"
    "|(?:is|are|was|do|does|did|could|wo|would|should|has|have|ca)nt)"
)
_ASKING = rf"(?:{_AUXILIARY}|how|why|what|which|where|when|who|whom|whose)\b"
_TOPIC = re.compile(rf"^[^?]{{1,80}}?[:,;\u2013-]\s*(?={_ASKING})", re.IGNORECASE)
_ASKS_AT_ONCE = re.compile(_ASKING, re.IGNORECASE)
_LINK = re.compile(r"^(?:(?:and|but|so|then|also|well|please|actually|if so|if not|if yes) )+")
_A = "(?:(?:the|a|any|some|your) )*"
_WAY = (
    r"(?:\w+ ){0,3}?"
    "(?:ways?|methods?|steps?|process|procedure|tips|tricks|strateg(?:y|ies)|techniques?)"
)
_ONE = "(?:i|we|you|one|someone|a person)"
_ASSISTANT = "(?:you|anyone|someone|anybody|somebody)"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(rf"{pattern}\b" for pattern in patterns))


_KINDS: Final[tuple[tuple[Kind | None, re.Pattern[str]], ...]] = (
    (
        "how",
        _any(
            f"how (?:do|does|did|to|{_CAN}|i can|you can)",
            f"(?:what|which) {_BE} {_A}{_WAY} (?:to|of|for|in which)",
            f"whats {_A}{_WAY} (?:to|of|for)",
            f"{_BE} there {_A}{_WAY} to",
            rf"what (?:do|{_CAN}) {_ONE} (?:\w+ )?do (?:to|for|if|when|about)",
        ),
    ),
    (
        "why",
        _any(
            "why",
            "how come",
            "for what reasons?",
            f"what {_BE} (?:(?:the|some|main|real) )*(?:reasons?|causes?)",
            r"what (?:\w+ )?(?:causes|caused|makes|made)",
        ),
    ),
    (  # a request, or about what there is: its answer may be that to any other
        None,
        _any(
            f"(?:can|could|will|would) {_ASSISTANT}",
            "do you (?:know|have)",
            f"(?:do|does|has|have) {_ASSISTANT}",
            f"{_BE} there",
        ),
    ),
    ("whether", _any(_AUXILIARY)),
)
# asks for what a good answer says anyway
_ANYWAY = (
    "(?:why|how|why or why not|why not|how so|why is that|explain|comment|right|what do you think"
    "|any (?:suggestions|ideas|tips|advice|thoughts))"
)
_TAIL = re.compile(_ANYWAY)
_JOINED_TAIL = re.compile(f" and {_ANYWAY}$")
_TAIL_KINDS: Final[dict[str, Kind]] = {
    "how": "how",
    "how so": "how",
    "why": "why",
    "why is that": "why",
}
_JOINED = re.compile(
    r"(?<=\w) and (?:(?:if so|also) )?(?:in )?((?:how|what|where|when|who|which|why)\b.*)"
)
_ENUMERATES = re.compile(r"\band\b|[&/,]")


@dataclass(frozen=True, slots=True)
class Asking:
    """What one text asks for.

    ``kinds`` of its questions as far as they are sure, ``further`` questions after the first,
    whether a question joins two things by "and", and whether the text may enumerate anything.
    """

    kinds: frozenset[Kind]
    further: int
    joins: bool
    enumerates: bool


@lru_cache(maxsize=2_048)
def asking(text: str) -> Asking:
    """What a text asks for; equal texts cost nothing the second time."""
    plain = visible(text)
    questions = [_lead(question) for question in _questions(plain)]
    kinds = {kind for question in questions for kind in _kinds(question)}
    joins = any(" and " in _JOINED_TAIL.sub("", question) for question in questions)
    enumerates = _ENUMERATES.search(plain.casefold()) is not None
    return Asking(frozenset(kinds), sum(_further(questions)), joins, enumerates)


def _questions(text: str) -> list[str]:
    """Its sentences with a question mark, or else the last one."""
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    return [s for s in sentences if s.rstrip(" \"'\u201d)").endswith("?")] or sentences[-1:]


def _lead(question: str) -> str:
    """The question in plain words, without a topic or an address before it."""
    question = question.strip()
    topic = None if _ASKS_AT_ONCE.match(question) else _TOPIC.match(question)
    asked = question[topic.end() if topic else 0 :].casefold().replace("&", " and ")
    words = _NO_WORD.sub(" ", _APOSTROPHE.sub("", asked)).split()
    return _LINK.sub("", " ".join(words))


def _kinds(question: str) -> Iterator[Kind]:
    """Those of its first question and of a second one that is joined to it."""
    joined = _JOINED.search(question)
    for asked in (question, joined[1]) if joined else (question,):
        if (kind := _kind(asked)) is not None:
            yield kind


def _kind(question: str) -> Kind | None:
    if _TAIL.fullmatch(question):
        return _TAIL_KINDS.get(question)
    return next((kind for kind, pattern in _KINDS if pattern.match(question)), None)


def _further(questions: list[str]) -> Iterator[int]:
    for place, question in enumerate(questions):
        joined = _JOINED.search(question)
        yield int(place > 0 and not _TAIL.fullmatch(question))
        yield int(joined is not None and not _TAIL.fullmatch(joined[1]))


def other_answer(first: str, second: str) -> str | None:
    """Why a whole answer to one text is none to the other, or None; symmetric.

    How and why are one kind against whether: "how do tornadoes form" is why they do.
    """
    ours, theirs = asking(first), asking(second)
    apart = ours.kinds and theirs.kinds and not ours.kinds & theirs.kinds
    if apart and "whether" in ours.kinds | theirs.kinds:
        return " against ".join(sorted(map(_names, (ours.kinds, theirs.kinds))))
    if bool(ours.further) != bool(theirs.further):
        return "a further question on one side"
    if (ours.joins and _asks_one_thing(theirs)) or (theirs.joins and _asks_one_thing(ours)):
        return "one thing more on one side"
    return None


def _asks_one_thing(asked: Asking) -> bool:
    return not (asked.further or asked.enumerates)


def _names(kinds: frozenset[Kind]) -> str:
    return " and ".join(sorted(kinds))
