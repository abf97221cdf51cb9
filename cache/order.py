"""Who does what to whom: the same words in other roles."""

from collections.abc import Sequence
from dataclasses import dataclass

from funnel.cache.lexicon import CONVERSE, DIRECTED, EVEN_HANDED, JOINING, STOPWORDS
from funnel.cache.words import Question

_MUCH_THE_SAME = 0.75
_PHRASE = 4


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
    ours, theirs = [w.folded for w in a.words], [w.folded for w in b.words]
    while ours and theirs and ours[0] == theirs[0]:
        ours, theirs = ours[1:], theirs[1:]
    while ours and theirs and ours[-1] == theirs[-1]:
        ours, theirs = ours[:-1], theirs[:-1]
    return ours, theirs


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
        after = next((w.stem for w in words[place + 1 :] if w.folded not in STOPWORDS), None)
        if word.folded not in DIRECTED or after is None:
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
