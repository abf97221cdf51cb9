"""Single letters that tell things of a kind apart: "vitamin b", "plan c", "option a or b"."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import zip_longest

from funnel.cache.lexicon import EVEN_HANDED, JOINING, LETTERED, STOPWORDS
from funnel.cache.words import Question, Word, stem

_LETTER = re.compile(r"[a-z]|c\+\+|[cfj]#")
_SAYS_LITTLE = STOPWORDS | frozenset("urny")  # a, i, how r u
_NAMES_NOTHING = JOINING | EVEN_HANDED
_LONG_LIST = 20


def other_letters(a: Question, b: Question) -> Iterator[str]:
    """What bears other letters in the two questions: "vitamin b" against "vitamin c"."""
    ours, theirs = _letters(a), _letters(b)
    for named in ours.keys() & theirs.keys():
        first, second = ours[named], theirs[named]
        article = _is_article(a, named, first, second) or _is_article(b, named, second, first)
        if not first & second and not article:
            yield f"{named} {_list(first)} against {named} {_list(second)}"


def _letters(question: Question) -> dict[str, set[str]]:
    """Stem of a word -> the letters after it, all of a list: "option a or b"."""
    found: dict[str, set[str]] = {}
    words = question.words
    places = (place for place, word in enumerate(words) if _LETTER.fullmatch(word.folded))
    for place in places:
        named = words[place - 1] if place else None
        if named is None or named.folded in _NAMES_NOTHING or _LETTER.fullmatch(named.folded):
            continue
        letters = _listed(named, words[place : place + _LONG_LIST])
        if letters:
            found.setdefault(named.stem, set()).update(letters)
    return found


def _listed(named: Word, after: Sequence[Word]) -> set[str]:
    """The letters that directly follow a word, with others that are joined to them."""
    letters: set[str] = set()
    for word, following in zip_longest(after, after[1:]):
        if _LETTER.fullmatch(word.folded):
            if not _tells_apart(named, word, following):
                break
            letters.add(word.folded)
        elif not letters or word.folded not in JOINING:
            break
    return letters


def _tells_apart(named: Word, letter: Word, following: Word | None) -> bool:
    """Whether the letter is no word here: not in "things i need" and "how a", but in "type i"."""
    if named.folded in STOPWORDS:
        return letter.folded not in _SAYS_LITTLE
    return letter.folded != "i" or named.folded in LETTERED or following is None


def _is_article(question: Question, named: str, letters: set[str], others: set[str]) -> bool:
    """Whether it says what the other says, with an article: "write a C program", "write C"."""
    said = {word.folded for word in question.words}
    return letters == {"a"} and others <= said and named not in _lettered()


@cache
def _lettered() -> frozenset[str]:
    return frozenset(stem(word) for word in LETTERED)


def _list(letters: set[str]) -> str:
    return ", ".join(sorted(letters))
