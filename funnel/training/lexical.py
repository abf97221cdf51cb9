"""BM25 over texts in memory, with the funnel's own tokens: the lexical side of mining."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

from funnel.indexing.terms import Analyzer, Bm25Settings


class LexicalIndex:
    """Postings in numpy arrays. Lucene's BM25 (Kamphuis et al., ECIR 2020), exhaustive."""

    def __init__(self, texts: Sequence[str], settings: Bm25Settings | None = None) -> None:
        self._settings = settings or Bm25Settings()
        self._analyzer = Analyzer(self._settings)
        self._size = len(texts)
        counts = [Counter(self._analyzer.terms(text)) for text in texts]
        lengths = np.array([count.total() for count in counts], np.float32)
        rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, count in enumerate(counts):
            for term in count:
                rows[term].append(row)
        damping = self._damping(lengths)
        self._postings = {
            term: self._posting(np.array(found), [counts[row][term] for row in found], damping)
            for term, found in rows.items()
        }

    def top(self, query: str, k: int) -> NDArray[np.int64]:
        """Positions of the best texts that share a term with the query, best first; at most k."""
        scores = np.zeros(self._size, np.float32)
        for term in self._analyzer.terms(query):
            if term in self._postings:
                rows, weights = self._postings[term]
                scores[rows] += weights
        return best(scores, k)[: int((scores > 0).sum())]

    def _damping(self, lengths: NDArray[np.float32]) -> NDArray[np.float32]:
        k1, b = self._settings.k1, self._settings.b
        average = max(float(lengths.mean()), 1e-9) if len(lengths) else 1.0
        return np.asarray(k1 * (1 - b + b * lengths / average), np.float32)

    def _posting(
        self, rows: NDArray[np.int64], counts: Sequence[int], damping: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        times = np.array(counts, np.float32)
        idf = log(1 + (self._size - len(rows) + 0.5) / (len(rows) + 0.5))
        return rows, np.asarray(idf * times / (times + damping[rows]), np.float32)


def best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the k highest scores, best first, ties by position."""
    if k < len(scores):
        threshold = np.partition(scores, -k)[-k]
        above = np.flatnonzero(scores >= threshold)
    else:
        above = np.arange(len(scores))
    return above[np.argsort(-scores[above], kind="stable")][:k].astype(np.int64)
