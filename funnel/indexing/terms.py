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
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from funnel.indexing.stopwords import STOP_WORDS

_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+"
)
MAX_TERM_CHARS = 64


def _known_language(language: str) -> str:
    from Stemmer import algorithms

    known = ["none", *algorithms()]
    if language not in known:
        raise ValueError(f"got {language!r}, expected one of {', '.join(known)}")
    return language


class Bm25Settings(BaseModel):
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

    Chinese and Japanese runs, written without spaces, become overlapping pairs of characters.
    Safe to share between threads.
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
    return unicodedata.normalize("NFKC", text).lower()


def _words(text: str) -> list[str]:
    words = _WORD.findall(text)
    if not text.isascii() and _UNSPACED.search(text):
        words = [part for word in words for part in _pairs(word)]
    return [word[:MAX_TERM_CHARS] for word in words]


def _pairs(word: str) -> Iterator[str]:
    start = 0
    for run in _UNSPACED.finditer(word):
        if run.start() > start:
            yield word[start : run.start()]
        text = run.group()
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


def counts_of(
    weights: SparseTerms, length: int, settings: Bm25Settings, average: float
) -> TermCounts:
    """The counts that a stored document's weights came from.

    A weight is ``tf / (tf + K)``, so ``tf = K * weight / (1 - weight)``: exact, without the text.
    """
    saturation = _saturation(length, settings, average)
    counts = [max(1, round(saturation * value / (1 - value))) for value in weights.values]
    return TermCounts(weights.ids, counts, length)


def _saturation(length: int, settings: Bm25Settings, average: float) -> float:
    return settings.k1 * (1 - settings.b + settings.b * length / max(average, 1.0))
