"""A question taken apart for the guards: folded tokens, stems, numbers, names, scripts."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache

from funnel.cache.lexicon import ALIASES, DIRECTED, NEGATIONS, STOPWORDS
from funnel.cache.quantities import Counted, Quantity, count, join_wholes, unit_of
from funnel.cache.signs import signs

_TOKEN = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*(?:[+#]+|\.(?=[^\W\d_]\b))?")
# "turn" or "switch" with up to four words before its "on" or "off".
_SWITCH = r"\b(?:turn|switch)(?:ed|ing|s)?\b((?:\s+(?!on\b|off\b)\w+){0,4}?)\s+"
_VERB_PLACE = r"(?:^|(?<=\bto\s)|(?<=\bi\s)|(?<=\bwe\s)|(?<=\byou\s)|(?<=\bthey\s)|(?<=\bplease\s))"
# Up to three words between a verb and the particle that makes another verb of it.
_FEW = r"((?:\s+(?!(?:off|out|up)\b)\w+){0,3}?)[\s-]+"
_PHRASES = (
    (re.compile(rf"{_SWITCH}on\b"), r"enable\1"),
    (re.compile(rf"{_SWITCH}off\b"), r"disable\1"),
    # "of" for "off"; in "the turn of the year" it is no verb.
    (re.compile(rf"{_VERB_PLACE}(?:turn|switch)(?:ed|ing|s)?\s+of\b"), "disable"),
    (re.compile(r"\b(?:in\s+person|face[\s-]to[\s-]face)\b"), "facetoface"),
    (re.compile(r"\b(?:log|sign)(?:ged|ging|ing|ed|s)?[\s-]+(?:in|on)\b"), "login"),
    (re.compile(r"\b(?:log|sign)(?:ged|ging|ing|ed|s)?[\s-]+(?:out|off)\b"), "logout"),
    (re.compile(r"\bget(?:ting|s)?\s+rid\s+of\b"), "remove"),
    (re.compile(r"\b(?:take|taking|takes|took)\s+back\b"), "revert"),
    (re.compile(r"\bopt(?:ing|ed|s)?[\s-]+in\b"), "enable"),
    (re.compile(r"\bopt(?:ing|ed|s)?[\s-]+out\b"), "disable"),
    (re.compile(r"\bhow\s+(many|much|long|far|often|old|big|tall|high)\b"), r"how_\1"),
    (re.compile(r"\b2[\s-]?fa\b"), "two factor authentication"),
    (
        re.compile(r"\b(zoom|check|clock|mov|phas|fad)(?:e|ed|es|ing|s)?[\s-]+(in|out)\b"),
        r"\1\2",
    ),
    (re.compile(rf"\b(?:rent|leas)(?:e|ed|es|ing|s)?{_FEW}out\b"), r"rentout\1"),
    (re.compile(rf"\bpick(?:ed|ing|s)?{_FEW}up\b"), r"pickup\1"),
    (re.compile(rf"\bdrop(?:ped|ping|s)?{_FEW}off\b"), r"dropoff\1"),
    (re.compile(r"\b(get|put|roll|back)(?:t?ing|ed|s)?[\s-]+(on|off|out|back|up)\b"), r"\1\2"),
    (re.compile(r"\b(?:took|tak(?:e|es|en|ing))\s+off\b"), "takeoff"),
    (re.compile(r"\bthe\s+us\b"), "the usa"),
    (
        re.compile(r"\b(last|this|next|previous|current)\s+(week|month|quarter|year)\b"),
        r"\1_period \2",
    ),
    (re.compile(r"\b(\w+)-free\b"), r"without \1"),
    (re.compile(r"\bwi[\s-]fi\b"), "wifi"),
    (re.compile(r"\be-mail"), "email"),
    (re.compile(r"\bnyc\b"), "new york"),
    (re.compile(r"\bw/o\b|\bwo\b"), "without"),
    (re.compile(r"\b(?:in|un)able\s+to\b"), "cannot"),
    (re.compile(r"\bcan\s+not\b"), "cannot"),
    (re.compile(r"\b(united\s+states(?:\s+of\s+america)?|u\.s\.a?\.?)(?!\w)"), "usa"),
    (re.compile(r"\b(united\s+kingdom|u\.k\.?)(?!\w)"), "uk"),
)
# In capitals it is a country, in others also a pronoun.
_US = re.compile(r"\b(?:US|U\.S\.?(?:A\.?)?)(?!\w)")
# Arrows, tags and shifts compare nothing.
_NO_COMPARISON = re.compile(r"-+>|==+>|</?[a-z]\w*\s*/?>|<<+|>>+")
# What compares, and the words that say as much.
_COMPARISONS = (
    (re.compile(r">=|=>|[\u2265\u2a7e]"), "bound", " at least "),
    (re.compile(r"<=|=<|[\u2264\u2a7d]"), "bound", " at most "),
    (re.compile(r"!=|<>|\u2260"), "unlike", " not "),
    (re.compile(r">"), "strict", " more than "),
    (re.compile(r"<"), "strict", " less than "),
    (re.compile(r"=+"), "equal", " "),
)
_APOSTROPHES = re.compile(r"['\u2019]")
# BERT's tokenizer reads all of them as one and the same unknown word.
_UNREADABLE = re.compile(r"[^\W_]{101,}")


@dataclass(frozen=True, slots=True)
class Word:
    """One token: as written, folded, stemmed; ``name`` when its capitals mark a proper name."""

    text: str
    folded: str
    stem: str
    name: bool


@dataclass(frozen=True, slots=True)
class Question:
    """A question as the guards see it.

    ``stems`` are those of all words in order, ``content`` those of content words in order.
    ``counted`` are pairs of a number and what it counts (a stem, or a unit's first name).
    ``comparisons`` are the kinds of its signs: strict (< >), bound (<= >=), equal, unlike.
    ``scripts`` are the Unicode scripts of its letters, ``mixed`` whether one word mixes scripts
    that look alike, ``symbols`` its emoji and the like, ``unreadable`` its words of
    over 100 characters. ``signs`` are mathematical symbols, operators between numbers or of
    programming languages, flags, escapes and emoticons, in one writing each.
    """

    text: str
    words: tuple[Word, ...]
    stems: tuple[str, ...]
    content: tuple[str, ...]
    quantities: frozenset[Quantity]
    counted: frozenset[tuple[str, str]]
    comparisons: frozenset[str]
    negations: int
    scripts: frozenset[str]
    mixed: bool
    symbols: frozenset[str]
    unreadable: frozenset[str]
    signs: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        """Folded proper names."""
        return frozenset(word.folded for word in self.words if word.name)


@lru_cache(maxsize=2_048)
def take_apart(text: str) -> Question:
    """Analyse a question; equal texts cost nothing the second time."""
    plain = _with_country(visible(text))
    folded, comparisons = _spell_comparisons(join_wholes(plain.casefold()))
    words = _words(plain, folded)
    counted = count(plain)
    stems = tuple(word.stem for word in words)
    return Question(
        text=plain,
        words=words,
        stems=stems,
        content=tuple(w.stem for w in words if w.folded not in STOPWORDS | DIRECTED),
        quantities=frozenset(one.quantity for one in counted),
        counted=frozenset((one.quantity.value, _kind(one)) for one in counted if _kind(one)),
        comparisons=comparisons,
        negations=sum(word.folded in NEGATIONS for word in words),
        scripts=frozenset().union(*(_scripts(word.text) for word in words)),
        mixed=any(_mixes(word.text) for word in words),
        symbols=frozenset(c for c in plain if c != "`" and unicodedata.category(c) in ("So", "Sk")),
        unreadable=frozenset(_UNREADABLE.findall(plain)),
        signs=signs(plain),
    )


def _with_country(plain: str) -> str:
    return plain if plain.isupper() else _US.sub("USA", plain)


def visible(text: str) -> str:
    """NFKC without invisible characters: full-width digits become digits, ligatures letters."""
    folded = unicodedata.normalize("NFKC", text)
    return "".join(c for c in folded if unicodedata.category(c) != "Cf")


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """The English Snowball stem of a folded word."""
    return str(_stemmer().stemWord(word))


@cache
def _stemmer():  # type: ignore[no-untyped-def]  # PyStemmer has no types
    import Stemmer

    return Stemmer.Stemmer("english")


def _kind(counted: Counted) -> str:
    """What a number counts: 5 days, 5 per cent, the 5th day."""
    return counted.quantity.unit or unit_of(counted.of) or stem(counted.of)


def _spell_comparisons(text: str) -> tuple[str, frozenset[str]]:
    """The text with < and the like in words, so that opposites and order see them, and their kinds.

    The words alone would not do: "x > 5" and "x >= 5" differ, and no opposite says so.
    """
    text = _NO_COMPARISON.sub(" ", text)
    kinds = set()
    for pattern, kind, words in _COMPARISONS:
        text, times = pattern.subn(words, text)
        if times:
            kinds.add(kind)
    return text, frozenset(kinds)


def _words(plain: str, text: str) -> tuple[Word, ...]:
    written = _marked_names(plain)
    for pattern, replacement in _PHRASES:
        text = pattern.sub(replacement, text)
    folded = (
        _APOSTROPHES.sub("", token) for token in re.findall(r"\w+_(?:\w+)|" + _TOKEN.pattern, text)
    )
    return tuple(_word(token, written) for token in folded)


def _word(token: str, names: frozenset[str]) -> Word:
    folded = ALIASES.get(token, token)
    base = folded[:-1] if folded.endswith("s") and folded[:-1] in names else folded
    return Word(text=token, folded=folded, stem=stem(folded), name=token in names or base in names)


def _marked_names(plain: str) -> frozenset[str]:
    """Words that capitals mark as names: not at a sentence's start, not in a shouted text."""
    tokens = list(_TOKEN.finditer(plain))
    capitals = [m for m in tokens if m[0][0].isupper()]
    if len(capitals) > 0.7 * len(tokens) and len(tokens) > 2:
        return frozenset()
    return frozenset(
        _APOSTROPHES.sub("", m[0]).casefold().removesuffix("s" if m[0][-2:-1] in "'\u2019" else "")
        for m in capitals
        if _is_name(plain, m)
    )


def _is_name(plain: str, match: re.Match[str]) -> bool:
    word = match[0]
    if word.casefold() in STOPWORDS or word == "I" or word.startswith(("I'", "I\u2019")):
        return False
    acronym = len(word) > 1 and word.isupper()
    before = plain[: match.start()].rstrip(" \"'\u201c\u2018(-")
    return acronym or not (before == "" or before[-1] in ".?!:;")


@lru_cache(maxsize=4_096)
def _script(char: str) -> str:
    return unicodedata.name(char, "UNKNOWN").split(" ", 1)[0].split("-", 1)[0]


def _scripts(word: str) -> frozenset[str]:
    return frozenset(_script(c) for c in word if c.isalpha())


_LOOK_ALIKE = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"})


def _mixes(word: str) -> bool:
    return len(_scripts(word) & _LOOK_ALIKE) > 1
