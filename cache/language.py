"""Whether a question is evidently in another language than English.

The guards' words are English ones: between "Wie erhöhe ich mein Limit?" and "Wie senke ich mein
Limit?" they see no opposites, and what English pairs certified says nothing of German ones.

Only evidence counts, most of it words of ``languages.toml``. Names, codes, slips of the pen and
single words of whatever language have none, and neither has what asks in English about words of
another language.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, Literal

from funnel.cache.spelling import dictionary
from funnel.cache.words import visible

Language = Literal["en", "other", ""]
"""English, evidently another one, or neither is sure."""

_DATA: dict[str, Any] = tomllib.loads(
    files("funnel.cache").joinpath("languages.toml").read_text("utf-8")
)
# No part of an address, a path, a tag, a name in code or a number.
_WORD = re.compile(r"(?<![\w@#/\\=.$:-])[^\W\d_]+(?:['\u2019-][^\W\d_]+)*(?![\w@/\\=(]|[.:]\w)")
_MARK = re.compile("[\u00df-\u024f\u1ea0-\u1eff]")  # in small letters
_ELIDED = re.compile(r"(?:l|qu|j|n|dell|nell|dall|sull|un)'[^\W\d_]{3}")
_OPENED = re.compile("[\u00bf\u00a1]")  # a Spanish question or exclamation

_ENOUGH = 1.5
"""Points at which a question without an English word is of another language."""
_PER_ENGLISH_WORD = 2.0
"""Points more that each English word asks for: "how do I say 'tum kaise ho' in English"."""
_ALSO = 0.5
_MARKED = 0.5
_UNKNOWN = 0.5
_SHORTEST_UNKNOWN = 3
_FEWEST = 3
"""Of fewer words the dictionary says nothing."""
_FEWEST_UNKNOWN = 2
_FOREIGN = 0.4
"""Share of words that it must lack or that are sure ones of another language."""


def _languages_of(name: str) -> dict[str, tuple[str, ...]]:
    """Word -> the languages that have it in this list."""
    found: dict[str, tuple[str, ...]] = {}
    for language, lists in _DATA.items():
        for word in lists.get(name, "").split() if isinstance(lists, Mapping) else ():
            found[word] = (*found.get(word, ()), language)
    return found


_SURE: Final = _languages_of("sure")
_ALSO_ENGLISH: Final = _languages_of("also")
_FIRST: Final = _languages_of("first")
_LOANS: Final = frozenset(_DATA["loans"].split())
_ENGLISH: Final = frozenset(_DATA["english"].split())
_ONLY_ENGLISH: Final = _ENGLISH - _SURE.keys() - _ALSO_ENGLISH.keys()


@lru_cache(maxsize=2_048)
def language_of(text: str) -> Language:
    """What language a question is in, as far as it is evident; equal texts cost nothing again."""
    words, plain, opened = _read(text)
    english = sum(word in _ONLY_ENGLISH for word in words)
    points = _points(words, plain) + (_ENOUGH if opened else 0.0)
    if points and not english:
        points += _unknown(words, plain)
    if points >= _ENOUGH + _PER_ENGLISH_WORD * english:
        return "other"
    return "en" if english else ""


def _read(text: str) -> tuple[list[str], list[str], bool]:
    """Its words in small letters without acronyms, those no capital marks, and if Spanish opens it.

    A capital marks no word at the start, nor in a text that is all capitals.
    """
    seen = text if text.isascii() else visible(text)
    seen = seen.lower() if seen.isupper() else seen
    written = [word.replace("\u2019", "'") for word in _WORD.findall(seen)]
    words = [word.casefold() for word in written if len(word) == 1 or not word.isupper()]
    plain = [word.casefold() for word in written[:1]] + [w for w in written[1:] if w.islower()]
    opened = _OPENED.search(seen) is not None
    return list(dict.fromkeys(words)), list(dict.fromkeys(plain)), opened


def _points(words: Sequence[str], plain: Sequence[str]) -> float:
    """Those of the language that has most of the words, and those of marked letters."""
    sure = Counter(language for word in words for language in _surely_of(word))
    sure.update(_FIRST.get(words[0], ()) if words[1:] and words[1] not in _ENGLISH else ())
    marked = sum(_is_marked(word) for word in plain)
    if not sure and not marked:
        return 0.0
    also = Counter(language for word in words for language in _also_of(word))
    most = max(sure[language] + _ALSO * also[language] for language in sure | also or ("",))
    return most + _MARKED * marked


def _surely_of(word: str) -> tuple[str, ...]:
    return _SURE.get(word) or (("french", "italian") if _ELIDED.match(word) else ())


def _also_of(word: str) -> tuple[str, ...]:
    return () if word in _ENGLISH else _ALSO_ENGLISH.get(word, ())


def _is_marked(word: str) -> bool:
    return word not in _SURE and word not in _LOANS and _MARK.search(word) is not None


def _unknown(words: Sequence[str], plain: Sequence[str]) -> float:
    """Those of the words that the dictionary lacks, where it lacks enough."""
    english = dictionary()
    if not english or len(words) < _FEWEST:
        return 0.0
    known = sum(bool(_surely_of(word)) for word in words)
    strange = sum(_is_strange(word) for word in plain if word not in english)
    enough = strange >= _FEWEST_UNKNOWN and known + strange >= _FOREIGN * len(words)
    return _UNKNOWN * strange if enough else 0.0


def _is_strange(word: str) -> bool:
    """Whether a word that the dictionary lacks says anything."""
    new = word not in _LOANS and not _surely_of(word) and "-" not in word
    return new and len(word) >= _SHORTEST_UNKNOWN and not word.endswith("'s")
