"""The guards' word lists, read from ``lexicon.toml`` beside this file, which explains them."""

import hashlib
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeAlias

Group: TypeAlias = tuple[frozenset[str], ...]
"""Sides that exclude one another; the words of one side mean the same."""

_TEXT = files("funnel.cache").joinpath("lexicon.toml").read_text("utf-8")
_DATA: dict[str, Any] = tomllib.loads(_TEXT)


def _words(name: str) -> frozenset[str]:
    return frozenset(_DATA[name].split())


def _groups(name: str) -> tuple[Group, ...]:
    lines = _DATA[name].replace("\n  ", " ").strip().splitlines()
    return tuple(tuple(frozenset(side.split()) for side in line.split("|")) for line in lines)


DIGEST: Final = hashlib.blake2b(_TEXT.encode(), digest_size=4).hexdigest()
OPPOSITES: Final = _groups("opposites")
KINDS: Final = _groups("kinds")
IN_PLACE: Final = _groups("in_place")
TENSES: Final = _groups("tenses")
TIMES: Final = _groups("times")
QUESTION_WORDS: Final = _groups("question_words")
NEGATING_PREFIXES: Final = tuple(_DATA["negating_prefixes"].split())
NOT_NEGATED: Final = _words("not_negated")
NEGATIONS: Final = _words("negations")
STOPWORDS: Final = _words("stopwords")
UNDOING: Final = _words("undoing")
UNIVERSAL: Final = _words("universal")
SINGLE: Final = _words("single")
PERIODS: Final = _words("periods")
LETTERED: Final = _words("lettered")
COMPARING: Final = _words("comparing")
REVERSING: Final = _words("reversing")
DIRECTED: Final = _words("directed")
JOINING: Final = _words("joining")
EVEN_HANDED: Final = _words("even_handed")
DOERS: Final = _words("doers")
AUXILIARIES: Final = _words("auxiliaries")
EITHER_WAY: Final = _words("either_way")
OWN: Final = _words("own")
OWNERS: Final = _words("owners")
OTHERS: Final = _words("others")
NEW_NAMES: Final = _words("new_names")
NEW_WORDS: Final = _words("new_words") | NEW_NAMES
NAME_ENDINGS: Final = _words("name_endings")
PREFIXES: Final = _words("prefixes")
SUFFIXES: Final = _words("suffixes")
CONVERSE: Final[dict[str, str]] = _DATA["converse"]
DEMONYMS: Final[dict[str, frozenset[str]]] = {
    country: frozenset(people.split()) for country, people in _DATA["demonyms"].items()
}
ALIASES: Final[dict[str, str]] = _DATA["aliases"]


def opposed_to(word: str) -> frozenset[str]:
    """The words that exclude it as its opposites do, as the lexicon writes them."""
    return _opposed().get(word, frozenset())


@cache
def _opposed() -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for group in OPPOSITES:
        everything = frozenset[str]().union(*group)
        for side in group:
            for word in side:
                found[word] = found.get(word, frozenset()) | (everything - side)
    return found
