"""Who does what to whom, and whose it is: the same words in other roles."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from funnel.cache.lexicon import (
    AUXILIARIES,
    CONVERSE,
    DIRECTED,
    DOERS,
    EITHER_WAY,
    EVEN_HANDED,
    JOINING,
    NEGATIONS,
    OTHERS,
    OWN,
    OWNERS,
    PERIODS,
    STOPWORDS,
)
from funnel.cache.words import Question, Word, stem

_MUCH_THE_SAME = 0.75
_PHRASE = 4
_WORD = re.compile(r"\w+")
_OWNED = re.compile(
    rf"\b(?:{'|'.join(sorted(OWNERS))})\s+(?:\w+\s+)?(\w+)['\u2019]s\s+"
    rf"|\b(?:a|an|another|the|some)\s+(?:other\s+)?({'|'.join(sorted(OTHERS))})['\u2019]s\s+"
)


@dataclass(frozen=True, slots=True)
class Swap:
    """Two questions of much the same words in another order.

    ``directed``: it surely changes who does what. ``exchange``: two words took each other's places,
    as opposed to *to X* against *from X*.
    """

    detail: str
    directed: bool
    exchange: bool = True


def swap(a: Question, b: Question) -> Swap | None:
    """What changed places between two questions, or None.

    Words joined by *and*, *or*, *versus* and the like may change places; so may whole clauses.
    """
    asked = _other_side_asked(a, b) or _other_side_asked(b, a)
    if asked is not None:
        return Swap(asked, directed=True)
    common = set(a.content) & set(b.content)
    if len(common) < 2 or _both_say(a, b, EVEN_HANDED):
        return None
    traded = _traded(a, b)
    if traded is not None:
        return Swap(traded, directed=True)
    roles = _swapped_roles(a, b, common)
    if roles is not None:
        return Swap(roles, directed=True)
    turned = _turned_connective(a, b, common)
    if turned is not None:
        return Swap(turned, directed=True, exchange=False)
    if len(common) < _MUCH_THE_SAME * len(set(a.content) | set(b.content)):
        return None
    exchanged = _exchanged(_sequence(a, common), _sequence(b, common))
    if exchanged is None or _both_say(a, b, JOINING):
        return None
    return Swap(f"{exchanged[0]} and {exchanged[1]} change places", directed=False)


def other_owner(a: Question, b: Question) -> str | None:
    """What is one's own in ``b`` and somebody's in ``a`` of whom ``b`` does not speak, or None."""
    own, also_own = _own(b), _own(a)
    for owner, owned in _owned(a):
        if owned in own - also_own and owner not in b.stems:
            return f"{owner}'s {owned} against one's own"
    return None


def _owned(question: Question) -> list[tuple[str, str]]:
    """Stems of owner and owned: "my tenant's rent", "a user's password"."""
    text, found = question.text.casefold(), []
    for match in _OWNED.finditer(text):
        words = _WORD.findall(text[match.end() :])
        owned = next((word for word in words if word not in STOPWORDS), "")
        owner = match[1] or match[2]
        if owned and owner not in PERIODS:
            found.append((stem(owner), stem(owned)))
    return found


def _own(question: Question) -> set[str]:
    """Stems of what stands after "my" and the like."""
    words = question.words
    after = (_next_content(words[p + 1 :]) for p, word in enumerate(words) if word.folded in OWN)
    return {found for found in after if found}


def _next_content(words: Sequence[Word]) -> str:
    return next((word.stem for word in words if word.folded not in STOPWORDS), "")


def _other_side_asked(active: Question, turned: Question) -> str | None:
    """Whether one asks for the doer and the other for whom it is done to.

    "Who sued Apple" against "who did Apple sue"; the verbs may be of any form ("bought", "buy").
    """
    said, other = _after_doer(active), _after_doer(turned)
    noun = int(bool(other) and other[0] not in AUXILIARIES)  # "which company did"
    if noun >= min(len(said), len(other)) or other[noun] not in AUXILIARIES:
        return None
    if (STOPWORDS | NEGATIONS).intersection(said[: noun + 1]):  # "which company is", "who can"
        return None
    if AUXILIARIES.intersection(said[: noun + 2]):  # both ask for the same side
        return None
    ours, theirs = between_ends(list(active.content), list(turned.content))
    if len(ours) < 2 or ours[1:] != theirs[:-1] or ours[0][0] != theirs[-1][0]:
        return None
    return None if ours[0] in EITHER_WAY else f"{' '.join(ours)} against {' '.join(theirs)}"


def _after_doer(question: Question) -> list[str]:
    """The words after that which asks for somebody or something."""
    words = [word.folded for word in question.words]
    return next((words[p + 1 :] for p, word in enumerate(words) if word in DOERS), [])


def _traded(a: Question, b: Question) -> str | None:
    """Two phrases that took each other's places in an otherwise equal text: X m Y against Y m X.

    What stands between them says whether that matters: it must be more than *and* or *versus*.
    """
    ours, theirs = _middles(a, b)
    if len(ours) != len(theirs) or sorted(ours) != sorted(theirs) or len(ours) < 3:
        return None
    for x in range(1, min(_PHRASE, len(ours) - 2) + 1):
        for y in range(1, min(_PHRASE, len(ours) - x - 1) + 1):
            left, middle, right = ours[:x], ours[x:-y], ours[-y:]
            if [*right, *middle, *left] == theirs and not set(middle) <= JOINING:
                return f"{' '.join(left)} and {' '.join(right)} change places"
    return None


def _middles(a: Question, b: Question) -> tuple[list[str], list[str]]:
    """What is left of two texts without their common beginning and end."""
    return between_ends([w.folded for w in a.words], [w.folded for w in b.words])


def between_ends(ours: list[str], theirs: list[str]) -> tuple[list[str], list[str]]:
    """What two lists have between their equal beginning and their equal end."""
    frame = framed(ours, theirs)
    return frame.ours, frame.theirs


class Frame(NamedTuple):
    """Two lists of words: their equal beginning and end, and what each has between them."""

    start: list[str]
    ours: list[str]
    theirs: list[str]
    end: list[str]


def framed(ours: list[str], theirs: list[str]) -> Frame:
    """What two lists share at their beginning, then at their end."""
    start = _shared(ours, theirs)
    left, right = ours[start:], theirs[start:]
    end = _shared(left[::-1], right[::-1])
    cut = len(left) - end
    return Frame(ours[:start], left[:cut], right[: len(right) - end], left[cut:])


def _shared(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """How many words they begin with alike."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((place for place, (x, y) in pairs if x != y), min(len(ours), len(theirs)))


def _sequence(question: Question, common: set[str]) -> list[str]:
    return list(dict.fromkeys(stem for stem in question.content if stem in common))


def _both_say(a: Question, b: Question, words: frozenset[str]) -> bool:
    return all(words & {word.folded for word in question.words} for question in (a, b))


def _swapped_roles(a: Question, b: Question, common: set[str]) -> str | None:
    ours, theirs = _objects(a), _objects(b)
    for connective, x in ours.items():
        y = theirs.get(connective, x)
        if y == x or not {x, y} <= common:
            continue
        if y in _said_before(a, connective) and x in _said_before(b, connective):
            return f"{y} {connective} {x} against {x} {connective} {y}"
    return None


def _turned_connective(a: Question, b: Question, common: set[str]) -> str | None:
    ours, theirs = _objects(a), _objects(b)
    for connective, x in ours.items():
        converse = CONVERSE.get(connective, "")
        if x in common and theirs.get(converse) == x != theirs.get(connective):
            return f"{connective} {x} against {converse} {x}"
    return None


def _objects(question: Question) -> dict[str, str]:
    """Directed connective -> the first content word after it (connectives used once only)."""
    words = question.words
    found: dict[str, str] = {}
    twice: set[str] = set()
    for place, word in enumerate(words):
        after = _next_content(words[place + 1 :])
        if word.folded not in DIRECTED or not after:
            continue
        if word.folded in found:
            twice.add(word.folded)
        found[word.folded] = after
    return {connective: stem for connective, stem in found.items() if connective not in twice}


def _said_before(question: Question, connective: str) -> set[str]:
    """Content words before the first use of a connective."""
    folded = [word.folded for word in question.words]
    head = question.words[: folded.index(connective)]
    return {word.stem for word in head if word.folded not in STOPWORDS}


def _exchanged(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, str] | None:
    """Two words that took each other's places while all others stayed in theirs."""
    if sorted(ours) != sorted(theirs):
        return None
    moved = [place for place, (x, y) in enumerate(zip(ours, theirs, strict=True)) if x != y]
    if len(moved) != 2:
        return None
    return ours[moved[0]], ours[moved[1]]
