"""BM25 on our side of the wire: tokens, term ids and weights; Qdrant adds the IDF.

A document's sparse vector holds ``tf / (tf + k1 * (1 - b + b * length / average_length))`` for
each term, and Qdrant multiplies by ``ln(1 + (N - n + 0.5) / (n + 0.5))``: together Lucene's BM25
(Kamphuis et al., "Which BM25 Do You Mean?", ECIR 2020), which is also bm25s' default.
"""

import hashlib
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from funnel.indexing.stopwords import STOP_WORDS
from funnel.marks import few_marks
from funnel.settings_model import SettingsModel

_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
    r"\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1050-\u108f\u1780-\u17d3]+"
)
_NEAR_MARKS = re.compile(  # few ranges, which are quickly looked for; all marks are in them
    r"[\u0300-\u036f\u0483-\u0489\u0591-\u1dff\u20d0-\u20f0\u2cef-\u2dff\u302a-\u302f\u3099"
    r"\u309a\ua66f-\uabff\ufb1e\ufe20-\ufe2f\U00010000-\U0001efff]"
)
MAX_TERM_CHARS = 64
TERMS_VERSION = 1
"""Stored with a collection; to be raised when :class:`Analyzer` makes other terms of some text."""
_FLOAT32_STEP = 2.0**-25  # half the distance from 1 to the float below it, as weights are stored


def _known_language(language: str) -> str:
    from Stemmer import algorithms

    known = ["none", *algorithms()]
    if language not in known:
        raise ValueError(f"got {language!r}, expected one of {', '.join(known)}")
    return language


class Bm25Settings(SettingsModel):
    """How texts become terms and weights. Stored with the collection, so that queries agree.

    ``k1`` saturates repeated terms, ``b`` corrects for length. ``language`` picks the Snowball
    stemmer and the stop words; ``none`` keeps every word as written. ``stop_words`` replaces the
    language's list.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    k1: float = Field(default=1.5, gt=0, le=10, allow_inf_nan=False)
    b: float = Field(default=0.75, ge=0, le=1, allow_inf_nan=False)
    language: Annotated[str, AfterValidator(_known_language)] = "english"
    stop_words: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SparseTerms:
    """A sparse vector: ascending term ids (u32) and their values, both of shape (terms,)."""

    ids: list[int]
    values: list[float]


@dataclass(frozen=True, slots=True)
class TermCounts:
    """How often a text holds each term, by ascending term id; ``length`` counts all of them."""

    ids: list[int]
    counts: list[int]
    length: int


class Analyzer:
    """Text to terms: fold case and width, split at word borders, drop stop words, stem.

    Combining marks, such as the vowel signs of Indic scripts, stay with their letters. Runs of
    scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) become overlapping pairs
    of letters. Safe to share between threads.
    """

    def __init__(self, settings: Bm25Settings) -> None:
        words = settings.stop_words
        if words is None:
            words = STOP_WORDS.get(settings.language, ())
        self._stop = frozenset(_fold(word) for word in words)
        self._language = settings.language
        self._local = threading.local()

    def terms(self, text: str) -> list[str]:
        """The text's terms in order, repeats included."""
        words = [word for word in _words(_fold(text)) if word not in self._stop]
        return self._stem(words)

    def _stem(self, words: list[str]) -> list[str]:
        if self._language == "none":
            return words
        stem: Callable[[list[str]], list[str]] | None = getattr(self._local, "stem", None)
        if stem is None:  # PyStemmer's objects are not thread-safe: one for each thread
            from Stemmer import Stemmer

            stem = self._local.stem = Stemmer(self._language).stemWords
        return stem(words)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", few_marks(text)).lower()


def _words(text: str) -> list[str]:
    if text.isascii():
        words = _WORD.findall(text)
    else:
        words = (_marked_word() if _NEAR_MARKS.search(text) else _WORD).findall(text)
        if _UNSPACED.search(text):
            words = [part for word in words for part in _pairs(word)]
    return [word[:MAX_TERM_CHARS] for word in words]


@cache
def _marks() -> str:
    r"""A regular expression of combining marks, which ``\w`` leaves out; found in 15 ms.

    Variation selectors only pick a shape: a word with one is the word without.
    """
    codes = (code for code in range(0x300, 0x1F000) if code not in range(0xFE00, 0xFE10))
    marks = "".join(chr(code) for code in codes if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    return f"[{marks}]"


@cache
def _marked_word() -> re.Pattern[str]:
    """A word with its marks, and with the joiners that say how the letters of one combine."""
    return re.compile(rf"\w+(?:{_marks()}+(?:[\u200c\u200d](?=\w))?\w*)*")


@cache
def _marked_letter() -> re.Pattern[str]:
    return re.compile(rf".{_marks()}*")


def _pairs(word: str) -> Iterator[str]:
    start = 0
    for run in _UNSPACED.finditer(word):
        if run.start() > start:
            yield word[start : run.start()]
        text = run.group()
        if _NEAR_MARKS.search(text):
            letters = _marked_letter().findall(text)
            yield from ("".join(letters[i : i + 2]) for i in range(max(1, len(letters) - 1)))
        else:
            yield from (text[i : i + 2] for i in range(max(1, len(text) - 1)))
        start = run.end()
    if start < len(word):
        yield word[start:]


@lru_cache(maxsize=1 << 16)
def term_id(term: str) -> int:
    """A stable 32-bit id; of a million distinct terms about a hundred pairs collide."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "big")


def count_terms(terms: Iterable[str]) -> TermCounts:
    """Count a text's terms by id."""
    counts = sorted(Counter(term_id(term) for term in terms).items())
    values = [count for _, count in counts]
    return TermCounts([term for term, _ in counts], values, sum(values))


def document_weights(terms: TermCounts, settings: Bm25Settings, average: float) -> SparseTerms:
    """A document's weights, given the average length of the collection's documents in terms."""
    saturation = _saturation(terms.length, settings, average)
    return SparseTerms(terms.ids, [count / (count + saturation) for count in terms.counts])


def query_weights(terms: TermCounts) -> SparseTerms:
    """A query's weights: how often each term is asked for."""
    return SparseTerms(terms.ids, [float(count) for count in terms.counts])


def counts_of(weights: SparseTerms, length: int) -> TermCounts:
    """The counts that a stored document's weights came from, whatever average made them.

    A weight is ``tf / (tf + K)``, so ``tf / K = weight / (1 - weight)``, and these sum up to
    ``length / K``: exact, without the text, the average or the settings.
    """
    ratios = [value / max(1 - value, _FLOAT32_STEP) for value in weights.values]
    saturation = length / sum(ratios) if ratios else 0.0
    counts = [max(1, round(saturation * ratio)) for ratio in ratios]
    return TermCounts(weights.ids, counts, length)


def _saturation(length: int, settings: Bm25Settings, average: float) -> float:
    return settings.k1 * (1 - settings.b + settings.b * length / max(average, 1.0))
