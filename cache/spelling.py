"""Slips of the pen: a word that is none is read as the other question's word one letter away.

To a verifier "reset my pasword" and "reset my password" are hardly the same question: half of the
questions that differ by one such slip fall below its strictest thresholds. And guards would not
know that "blcok popups" is the opposite of "allow popups".

Only where it is certain: the misspelt word is in no dictionary, nor made of words that are, the
other one is in it, no other word fits, and the slip is neither in the first letter nor at the end,
where inflections are. Opposites of the other question's words count as words of it. A word that is
marked as a name is only read as another name. Words of every question, two letters of which changed
places ("teh"), are read as meant whatever the other says, and beside that word so is any other slip
in one of four letters or more ("yoir").
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from string import ascii_lowercase

from funnel.cache.lexicon import (
    NEW_NAMES,
    NEW_WORDS,
    PREFIXES,
    STOPWORDS,
    SUFFIXES,
    opposed_to,
)
from funnel.cache.words import take_apart
from funnel.log import get_logger

Slips = tuple[tuple[str, str], ...]
log = get_logger(__name__)
# A word of small letters that is no part of a name, an address, a path, a tag or a compound; of at
# most forty, as all slips of it are looked up.
_WORD = re.compile(
    r"(?<![\w'\u2019@#/\\=-])(?<!\w[.:])[A-Za-z][a-z]{2,39}(?![\w'\u2019@/\\=-]|[.:]\w)"
)
_PARTS = re.compile(r"[^\W_]+")
_ENGLISH = 0.5
"""Share of a question's words that the dictionary must have: it knows English only."""
# Shorter ones are too near to other words: "cap" and "cpa", "demo" and "deno", "video" and "vimeo".
_SHORTEST_SWAPPED = 5  # unless it is a word of every question: "teh", "waht"
_SHORTEST_EXCHANGED = 6
_SHORTEST_LEFT_OUT = 5
_SHORTEST_PLAIN = 4  # of a word of every question letters are exchanged, left out or put in, too
_SHORTEST_DOUBLED = 4
_SHORTEST_BASE = 3
_SHORTEST_PART = 4  # "pas-word" is a slip, "front-end" none
_COMMON = 1_000  # of 160,000 words the 19,000 most frequent ones
_VERY_COMMON = 100_000  # and the 1,000 most frequent ones


def read_alike(first: str, second: str) -> tuple[tuple[str, str], Slips]:
    """Both questions with slips of either spelt as the other spells the word, and those slips.

    A slip is a word as written and as it is read. Symmetric; questions without one come back as
    they are, as all do without a dictionary (``pip install 'retrieval-funnel[cache]'``).
    """
    ours, theirs = _taken_apart(first), _taken_apart(second)
    if not (ours.unknown or theirs.unknown):
        return (first, second), ()
    in_first, in_second = dict(_slips(ours, theirs)), dict(_slips(theirs, ours))
    if not (ours.is_english(len(in_first)) and theirs.is_english(len(in_second))):
        return (first, second), ()
    slips = (*in_first.items(), *in_second.items())
    return (_respelt(first, in_first), _respelt(second, in_second)), slips


@lru_cache(maxsize=2_048)
def may_hold_slip(text: str) -> bool:
    """Whether it is an English question with a word that the dictionary does not have."""
    taken = _taken_apart(text)
    may_mean = dictionary().may_mean
    return bool(taken.unknown) and (taken.is_english() or all(map(may_mean, taken.unknown)))


@lru_cache(maxsize=2_048)
def in_no_dictionary(text: str) -> frozenset[str]:
    """An English text's words, in small letters, that no dictionary has, nor what they come of.

    New names of the lexicon count as such; what is one slip away from a common word does not.
    """
    taken = _taken_apart(text)
    if not taken.is_english():
        return frozenset()
    english = dictionary()
    unknown = (word for word in taken.unknown if not english.may_mean(word))
    return NEW_NAMES & taken.known.keys() | frozenset(unknown)


@dataclass(frozen=True, slots=True)
class _Spelling:
    """A question's words in small letters: all, those in the dictionary (as written), the others.

    ``unexplained`` are those of the others that nothing makes up, ``names`` those that capitals
    mark; ``size`` is how many known and unknown ones there are.
    """

    words: frozenset[str]
    known: dict[str, str]
    unknown: tuple[str, ...]
    unexplained: frozenset[str]
    names: frozenset[str]
    size: int

    def is_english(self, slips: int = 0) -> bool:
        """Whether half of its words are known, or all are but for ``slips`` of known ones."""
        known = len(self.known)
        return known >= _ENGLISH * self.size or known + slips == self.size


@lru_cache(maxsize=2_048)
def _taken_apart(text: str) -> _Spelling:
    english = dictionary()
    words = {found.lower(): found for found in _WORD.findall(text)}
    known = {word: written for word, written in words.items() if word in english}
    unknown = tuple(word for word in words if word not in known) if english else ()
    return _Spelling(
        words=frozenset(part.lower() for part in _PARTS.findall(text)),
        known=known,
        unknown=unknown,
        unexplained=frozenset(word for word in unknown if not english.makes_up(word)),
        names=take_apart(text).names,
        size=len(words),
    )


def _slips(ours: _Spelling, theirs: _Spelling) -> Iterator[tuple[str, str]]:
    """Our misspelt words with the one word of theirs that each can be a slip of."""
    for word in ours.unknown:
        if word in theirs.words:
            continue
        among = theirs.known.keys() - ours.words
        if word in ours.names:
            among &= theirs.names
        slip = word in ours.unexplained
        meant = [w for w in among if is_doubling(word, w) or (slip and is_slip(word, w))]
        if len(meant) == 1:
            yield word, theirs.known[meant[0]]
        elif not meant and slip and word not in ours.names:
            opposed = {w for known in theirs.known for w in opposed_to(known) if is_slip(word, w)}
            plain = (opposed or _swapped_in(word)) - ours.words
            yield from ((word, w) for w in plain if len(plain) == 1)


@lru_cache(maxsize=2_048)
def _swapped_in(word: str) -> frozenset[str]:
    """The words of every question that two letters in each other's places make this one of."""
    alike = (w for w in STOPWORDS if len(w) == len(word) and w[:1] == word[:1])
    return frozenset(w for w in alike if _is_swap(word, w, _first_difference(word, w)))


def _respelt(text: str, slips: dict[str, str]) -> str:
    if not slips:
        return text
    return _WORD.sub(lambda found: slips.get(found[0].lower(), found[0]), text)


def is_slip(written: str, meant: str) -> bool:
    """Whether one slip makes the first word of the second, both in small letters.

    Two letters in each other's places, or one exchanged, left out or put in.
    """
    difference = len(written) - len(meant)
    if abs(difference) > 1 or written[:1] != meant[:1]:
        return False
    place = _first_difference(written, meant)
    if difference == 0:
        return _is_swap(written, meant, place) or _is_exchange(written, meant, place)
    longer, shorter = (written, meant) if difference > 0 else (meant, written)
    enough = len(shorter) >= _SHORTEST_LEFT_OUT or _is_plain(meant)
    inside = place < len(longer) - 1 and enough
    return inside and longer[place + 1 :] == shorter[place:]


def _is_plain(word: str) -> bool:
    return len(word) >= _SHORTEST_PLAIN and word in STOPWORDS


def is_doubling(written: str, meant: str) -> bool:
    """Whether the words, in small letters, differ by a letter that one has twice: "successfull"."""
    longer, shorter = sorted((written, meant), key=len, reverse=True)
    place = _first_difference(written, meant)
    if len(longer) != len(shorter) + 1 or len(shorter) < _SHORTEST_DOUBLED:
        return False
    if longer[place + 1 :] != shorter[place:] or longer[place] != longer[place - 1] or not place:
        return False
    return place < len(longer) - 1 or longer[-1] not in "aeiou"


def _first_difference(a: str, b: str) -> int:
    shared = min(len(a), len(b))
    return next((place for place in range(shared) if a[place] != b[place]), shared)


def _is_swap(written: str, meant: str, place: int) -> bool:
    two, rest = slice(place, place + 2), slice(place + 2, None)
    plain = len(meant) >= _SHORTEST_SWAPPED or meant in STOPWORDS
    return plain and written[two] == meant[two][::-1] and written[rest] == meant[rest]


def _is_exchange(written: str, meant: str, place: int) -> bool:
    enough = len(written) >= _SHORTEST_EXCHANGED or _is_plain(meant)
    inside = place < len(written) - 1 and enough
    return inside and written[place + 1 :] == meant[place + 1 :]


def _one_edit_from(word: str) -> Iterator[str]:
    """All writings with the same first letter that one slip makes of a word."""
    for place in range(1, len(word) + 1):
        head, letter, rest = word[:place], word[place : place + 1], word[place + 1 :]
        yield from (
            head + other + tail for other in ascii_lowercase for tail in (letter + rest, rest)
        )
        yield head + rest
        yield head + rest[:1] + letter + rest[1:]


class Dictionary:
    """English words, a few hundred new ones and names (``lexicon.toml``), and what they make up.

    Args:
        counts: how often each word was seen in running text.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._words = frozenset(counts) | NEW_WORDS if counts else frozenset[str]()
        self._common = frozenset(word for word, count in counts.items() if count >= _COMMON)
        self._very_common = frozenset(w for w in self._common if counts[w] >= _VERY_COMMON)

    def __bool__(self) -> bool:
        return bool(self._words)

    def __contains__(self, word: str) -> bool:
        return word in self._words

    def makes_up(self, word: str) -> bool:
        """Whether the word is made of others: back-end, re-size, text-ing, scam-mer."""
        return self._is_derived(word) or self._is_compound(word)

    def is_common(self, word: str) -> bool:
        """Whether it is often seen in running text."""
        return word in self._common

    def may_mean(self, word: str) -> bool:
        """Whether it is derived from a common word, or one slip away from one or a new name."""
        near = (edit in self._common or edit in NEW_NAMES for edit in _one_edit_from(word))
        return self._is_derived(word) or any(near)

    def _is_derived(self, word: str) -> bool:
        bases = {word.removesuffix(suffix) for suffix in SUFFIXES}
        bases |= {word.removeprefix(prefix) for prefix in PREFIXES}
        return any(self._is_base(base) for base in bases - {word})

    def _is_base(self, base: str) -> bool:
        undoubled = base[:-1] if base[-2:-1] == base[-1:] else base
        forms = (base, f"{base}e", undoubled)
        return len(base) >= _SHORTEST_BASE and any(form in self._common for form in forms)

    def _is_compound(self, word: str) -> bool:
        places = range(1, len(word))
        return any(self._is_part(word[:at]) and self._is_part(word[at:]) for at in places)

    def _is_part(self, part: str) -> bool:
        """Whether it is a common word; a short one, a very common one."""
        words = self._common if len(part) >= _SHORTEST_PART else self._very_common
        return len(part) >= _SHORTEST_BASE and part in words


@cache
def dictionary() -> Dictionary:
    """English, or nothing where none is installed. Takes most of a second the first time."""
    try:
        from spellchecker import SpellChecker
    except ImportError:
        log.info("cache.spelling_off", mend="pip install 'retrieval-funnel[cache]'")
        return Dictionary({})
    return Dictionary(SpellChecker(language="en", distance=1).word_frequency.dictionary)
