"""Guards: differences that turn one question into another and that a model easily overlooks.

A *veto* ends it: these are two questions. A *raise* demands a higher score of the verifier, by a
margin in logits. Guards only ever make a hit harder; equal texts have no findings.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from funnel.cache.asking import other_answer
from funnel.cache.designators import other_letters
from funnel.cache.in_place import replaced
from funnel.cache.lexicon import (
    COMPARING,
    DIGEST,
    KINDS,
    NEGATING_PREFIXES,
    NEGATIONS,
    NOT_NEGATED,
    OPPOSITES,
    PERIODS,
    QUESTION_WORDS,
    REVERSING,
    SINGLE,
    STOPWORDS,
    UNDOING,
    UNIVERSAL,
)
from funnel.cache.names import missing_names, other_unlisted
from funnel.cache.order import other_owner, swap
from funnel.cache.permission import other_permission
from funnel.cache.quantities import LOOSELY, MONTHS
from funnel.cache.turned import done_to_me, persons_exchanged
from funnel.cache.words import Question, Word, stem, take_apart

if TYPE_CHECKING:
    from funnel.cache.settings import GuardSettings

VERSION = f"7-{DIGEST}"
"""Of the guards' code, counted up by hand when a finding can change, and of the lexicon.

What is read as a slip of the pen (``spelling.py``), as a name (``names.py``), as asked for
(``asking.py``) and as allowed (``permission.py``), counts as theirs.

It is part of every entry's partition: what older guards let through is not served any more.
"""

_NOTHING_ELSE = 0.75
_FRACTION_PARTS = 2
_SHORT_ADJECTIVE = 4  # "early" comes of no ear, "daily" has a group of its own
_COMPARING = re.compile(r"\b\w+er\b|\b(?:more|less|before|after)\b")

FindingKind = Literal[
    "number", "unit", "symbol", "script", "opposite", "negation", "entity", "role", "order",
    "answer",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. ``margin`` is None for a veto, else what is added to the threshold.

    ``exchange``: two words took each other's places.
    """

    kind: FindingKind
    detail: str
    margin: float | None = None
    exchange: bool = False

    @property
    def veto(self) -> bool:
        """Whether it ends the comparison."""
        return self.margin is None


@dataclass(frozen=True, slots=True)
class Margins:
    """What the raising guards add to the threshold, in logits of the verifier."""

    one_sided_number: float = 0.5
    negation: float = 1.0
    one_sided_name: float = 0.25
    order: float = 0.5


def inspect(first: str, second: str, settings: "GuardSettings", margins: Margins) -> list[Finding]:
    """All findings between two questions, vetoes first; symmetric in its arguments."""
    if first == second:
        return []
    a, b = take_apart(first), take_apart(second)
    found = [*_scripts(a, b)]
    for wanted, guard in _guards(settings):
        if wanted:
            found.extend(guard(a, b, margins))
    return sorted(_turned_twice(found, margins), key=lambda finding: not finding.veto)


def _turned_twice(found: list[Finding], margins: Margins) -> list[Finding]:
    """A comparison and a swap undo each other: A faster than B is B slower than A."""
    compared = [f for f in found if f.kind == "opposite" and _COMPARING.search(f.detail)]
    swapped = [f for f in found if f.kind in ("role", "order") and f.exchange]
    if not compared or not swapped:
        return found
    others = [f for f in found if f not in compared and f not in swapped]
    return [*others, Finding("order", "turned round twice", margins.order)]


_Guard = Callable[[Question, Question, Margins], Iterator[Finding]]


def _guards(settings: "GuardSettings") -> tuple[tuple[bool, _Guard], ...]:
    return (
        (settings.numbers, _numbers),
        (settings.numbers, _comparisons),
        (settings.opposites, _opposites),
        (settings.opposites, _permission),
        (settings.negation, _negation),
        (settings.entities, _entities),
        (settings.entities, _designators),
        (settings.entities, _owners),
        (settings.order, _order),
        (settings.order, _in_place),
        (settings.whole_answer, _answer),
    )


def _scripts(a: Question, b: Question) -> Iterator[Finding]:
    if a.mixed or b.mixed:
        yield Finding("script", "a word mixes scripts that look alike")
    if a.scripts != b.scripts:
        yield Finding("script", f"letters of {_list(a.scripts)} against {_list(b.scripts)}")
    if a.unreadable != b.unreadable:
        yield Finding("symbol", "other words too long for a tokenizer")
    only_a, only_b = a.signs - b.signs, b.signs - a.signs
    if only_a and only_b:
        yield Finding("symbol", f"{_list(only_a)} against {_list(only_b)}")
    if a.symbols != b.symbols:
        yield Finding("symbol", f"{_list(a.symbols)} against {_list(b.symbols)}")


def _numbers(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:
    ours, theirs = _values(a, b), _values(b, a)
    only_a, only_b = _unexcused(ours - theirs, b), _unexcused(theirs - ours, a)
    if only_a and only_b:
        yield Finding("number", f"{_list(only_a)} against {_list(only_b)}")
    elif only_a or only_b:
        yield Finding("number", f"{_list(only_a | only_b)} on one side", margins.one_sided_number)
    if _of_all(a) != _of_all(b):
        alike = _one_and_all(a, b) | _one_and_all(b, a)
        if alike:
            yield Finding("number", f"one {_list(alike)} against all")
        else:
            yield Finding("number", "all, every … on one side", margins.one_sided_number)
    for value in ours & theirs:
        units = [{q.unit for q in x.quantities if q.value == value and q.unit} for x in (a, b)]
        if units[0] and units[1] and not units[0] & units[1]:
            yield Finding("unit", f"{value} {_list(units[0])} against {_list(units[1])}")
    yield from _counted(a, b, ours & theirs)


def _values(question: Question, other: Question) -> set[str]:
    """Its numbers; dates and fractions in parts if the other says them so ("25 December")."""
    if any(q.parts for q in other.quantities):
        return {q.value for q in question.quantities}
    months = {MONTHS[word.folded] for word in other.words if word.folded in MONTHS}
    said = {q.value for q in other.quantities} | months
    values: set[str] = set()
    for quantity in question.quantities:
        parts = set(quantity.parts)
        apart = parts and (parts <= said or (len(parts) > _FRACTION_PARTS and parts & said))
        values |= parts - months if apart else {quantity.value}
    return values


def _counted(a: Question, b: Question, common: set[str]) -> Iterator[Finding]:
    """The same numbers of other things: "20 per 30 days" against "30 per 10 days"."""
    ours, theirs = _numbers_of(a), _numbers_of(b)
    for what in ours.keys() & theirs.keys():
        first, second = ours[what], theirs[what]
        if not first & second and first | second <= common:
            yield Finding("number", f"{_list(first)} {what} against {_list(second)} {what}")


def _numbers_of(question: Question) -> dict[str, set[str]]:
    """What is counted -> its numbers; without words said twice, of which order says which."""
    found: dict[str, set[str]] = {}
    for value, what in question.counted:
        if question.stems.count(what) <= 1:
            found.setdefault(what, set()).add(value)
    return found


def _comparisons(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:
    """Signs that compare; which way they point is for the opposites, which know them as words."""
    ours, theirs = a.comparisons, b.comparisons
    if ours == theirs:
        return
    if ours and theirs:
        yield Finding("symbol", f"comparison {_list(ours)} against {_list(theirs)}")
    elif ours | theirs != {"equal"} and not _compares(b if ours else a):
        yield Finding("symbol", "a comparison on one side", margins.one_sided_number)


def _of_all(question: Question) -> bool:
    return any(word.folded in UNIVERSAL for word in question.words)


def _one_and_all(single: Question, universal: Question) -> set[str]:
    """What one question says of one thing and the other of all: "a file" against "all files"."""
    return _marked(single, SINGLE) & _marked(universal, UNIVERSAL)


def _marked(question: Question, markers: frozenset[str]) -> set[str]:
    """Stems of the content words that such a word stands before."""
    words = question.words
    following = (
        next((other for other in words[place + 1 :] if other.folded not in STOPWORDS), None)
        for place, word in enumerate(words)
        if word.folded in markers
    )
    return {found.stem for found in following if found and found.folded not in PERIODS}


def _unexcused(values: set[str], other: Question) -> set[str]:
    """Numbers that the other question does not even say loosely ("both", "half")."""
    said = {word.folded for word in other.words}
    return {value for value in values if not said & set(LOOSELY.get(value, "").split())}


def _compares(question: Question) -> bool:
    return any(word.folded in COMPARING for word in question.words)


def _opposites(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:  # noqa: ARG001
    ours, theirs = _sides_of(a), _sides_of(b)
    for group in ours.keys() & theirs.keys():
        only_a = ours[group].keys() - theirs[group].keys()
        only_b = theirs[group].keys() - ours[group].keys()
        if only_a and only_b:
            first, second = ours[group][min(only_a)], theirs[group][min(only_b)]
            if not (_undoes(a, first, second) or _undoes(b, second, first)):
                yield Finding("opposite", f"{first} against {second}")
    for word, undone in (*_reversed(a, b), *_reversed(b, a)):
        yield Finding("opposite", f"{word} {undone} against {undone}")
    for plain, negated in (*_prefixed(a, b), *_prefixed(b, a)):
        yield Finding("opposite", f"{plain} against {negated}")


def _reversed(reversing: Question, other: Question) -> Iterator[tuple[str, str]]:
    """What one question undoes and the other does: "undo the cancellation" against "cancel"."""
    done = {word.stem for word in other.words}
    for place, word in enumerate(reversing.words):
        after = (w for w in reversing.words[place + 1 :] if w.folded not in STOPWORDS)
        undone = next(after, None)
        if word.folded not in REVERSING or undone is None or undone.stem not in done:
            continue
        turned = REVERSING | UNDOING
        if not any(w.folded in turned and w.stem != undone.stem for w in other.words):
            yield word.folded, undone.folded


def _prefixed(plain: Question, negated: Question) -> Iterator[tuple[str, str]]:
    """Words that only differ by a negating prefix, unless the plain side undoes its word."""
    ours, theirs = ({word.folded for word in x.words} for x in (plain, negated))
    for word in theirs - ours:
        for prefix in NEGATING_PREFIXES:
            rest = word.removeprefix(prefix)
            found = rest != word and len(rest) > 3 and _same_word(rest, ours - theirs)
            if found and not _undoes(plain, rest, word):
                yield rest, word


def _undoes(question: Question, plain: str, negated: str) -> bool:
    """Whether "remove the block" stands for "unblock"."""
    said = {word.folded for word in question.words}
    return bool(said & UNDOING) and (negated.endswith(plain) or stem(negated).endswith(stem(plain)))


def _same_word(rest: str, words: set[str]) -> bool:
    return rest not in NOT_NEGATED and stem(rest) in {stem(word) for word in words}


def _sides_of(question: Question) -> dict[int, dict[int, str]]:
    """Group of the lexicon -> side -> the word of the question that stands on it."""
    found: dict[int, dict[int, str]] = {}
    for word in question.words:
        for group, side in _places_of(word):
            found.setdefault(group, {})[side] = word.folded
    return found


def _places_of(word: Word) -> list[tuple[int, int]]:
    """Where the lexicon has the word, or the adjective of an adverb that the stemmer leaves."""
    places = _places()
    if word.stem in places or not word.stem.endswith("li"):
        return places.get(word.stem, [])
    rest = word.folded.removesuffix("ly")
    adjective = f"{rest[:-1]}y" if rest.endswith("i") else rest
    return places.get(stem(adjective), []) if len(rest) >= _SHORT_ADJECTIVE else []


@cache
def _places() -> dict[str, list[tuple[int, int]]]:
    """Stem -> the (group, side) places where the lexicon has it."""
    places: dict[str, list[tuple[int, int]]] = {}
    for number, group in enumerate((*OPPOSITES, *KINDS, *QUESTION_WORDS)):
        for side, words in enumerate(group):
            for word in words:
                places.setdefault(stem(word), []).append((number, side))
    return places


def _permission(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:  # noqa: ARG001
    found = other_permission(a, b)
    if found is not None:
        yield Finding("opposite", found)


def _negation(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:
    if _times_negated(a, b) % 2 == _times_negated(b, a) % 2:
        return
    ours, theirs = _without_negations(a), _without_negations(b)
    alike = len(ours & theirs) >= _NOTHING_ELSE * max(1, len(ours | theirs))
    yield Finding("negation", "only one side is negated", None if alike else margins.negation)


def _times_negated(question: Question, other: Question) -> int:
    """Negations of a question, counting words that the other has without their prefix."""
    theirs = {word.folded for word in other.words}
    prefixed = (
        0
        if theirs & UNDOING
        else sum(
            word.folded.startswith(prefix) and _same_word(word.folded.removeprefix(prefix), theirs)
            for word in question.words
            for prefix in NEGATING_PREFIXES
        )
    )
    return question.negations + prefixed


def _without_negations(question: Question) -> set[str]:
    skip = STOPWORDS | NEGATIONS
    return {word.stem for word in question.words if word.folded not in skip}


def _entities(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:
    only_a, only_b = missing_names(a, b), missing_names(b, a)
    unlisted = other_unlisted(a, b)
    if only_a and only_b:
        yield Finding("entity", f"{_list(only_a)} against {_list(only_b)}")
    elif unlisted is not None:
        yield Finding("entity", unlisted)
    elif only_a or only_b:
        yield Finding("entity", f"{_list(only_a | only_b)} on one side", margins.one_sided_name)


def _designators(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:  # noqa: ARG001
    yield from (Finding("entity", found) for found in other_letters(a, b))


def _owners(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:  # noqa: ARG001
    """Somebody else's: "my tenant's rent" against "my rent"."""
    found = other_owner(a, b) or other_owner(b, a)
    if found is not None:
        yield Finding("role", found)


def _order(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:
    found = swap(*sorted((a, b), key=lambda question: question.text))  # the same both ways
    if found is not None:
        yield Finding(
            "role" if found.directed else "order",
            found.detail,
            None if found.directed else margins.order,
            found.exchange,
        )


def _in_place(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:  # noqa: ARG001
    """Another word in the same place, or somebody else who does it."""
    found = replaced(a, b) or done_to_me(a, b)
    if found is not None:
        yield Finding("role", found)
    turned = persons_exchanged(a, b)
    if turned is not None:
        yield Finding("role", turned, exchange=True)


def _answer(a: Question, b: Question, margins: Margins) -> Iterator[Finding]:  # noqa: ARG001
    """Half an answer: "can I export it" against "how do I", "what is it" against "... and how"."""
    found = other_answer(a.text, b.text)
    if found is not None:
        yield Finding("answer", found)


def _list(items: "set[str] | frozenset[str]") -> str:
    return ", ".join(sorted(items)) or "nothing"
