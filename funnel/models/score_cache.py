"""Scores of pairs that were scored before, for repeated documents and re-runs."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from funnel.models.base import ScoredPairs, TextPair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

ENTRY_BYTES = 384
"""What one entry takes at most in memory, its key and its share of the table included."""


@dataclass(frozen=True, slots=True)
class Recall:
    """What is known of some pairs: ``found`` has None where nothing is; ``missing`` says where."""

    keys: Sequence[bytes]
    found: Sequence[tuple[float, bool] | None]
    missing: Sequence[int]

    def merged(self, fresh: ScoredPairs) -> ScoredPairs:
        """All scores, with those of the missing pairs filled in as far as they were scored.

        As of any scorer, what counts as scored is a beginning of the list.
        """
        values = np.full(len(self.keys), np.nan, np.float32)
        for place, known in enumerate(self.found):
            if known is not None:
                values[place] = known[0]
        values[list(self.missing)] = fresh.values
        all_done = fresh.scored == len(self.missing)
        done = len(self.keys) if all_done else self.missing[fresh.scored]
        values[done:] = np.nan
        known_truncated = sum(known[1] for known in self.found[:done] if known is not None)
        hits = sum(known is not None for known in self.found[:done])
        tried = len(self.missing) - fresh.left_out
        left_out = len(self.keys) - self.missing[tried] if fresh.left_out else 0
        return ScoredPairs(values, known_truncated + fresh.truncated, done, hits, left_out)


class PairScoreCache:
    """The latest used scores, bounded by memory. Safe to share between threads.

    Keys are hashes of both texts and of what makes the model's scores differ; no text is kept.

    Args:
        max_bytes: bound of its memory; at ``ENTRY_BYTES`` an entry.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_entries = max_bytes // ENTRY_BYTES
        self.hits = 0
        self.misses = 0
        self._scores: OrderedDict[bytes, tuple[float, bool]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._scores)

    @property
    def size_bytes(self) -> int:
        """An upper bound of the memory in use."""
        return len(self._scores) * ENTRY_BYTES

    def recall(self, model: str, pairs: Sequence[TextPair]) -> Recall:
        """Look pairs up; ``model`` names weights, backend and window."""
        keys = pair_keys(model, pairs)
        with self._lock:
            found = [self._scores.get(key) for key in keys]
            for key, known in zip(keys, found, strict=True):
                if known is not None:
                    self._scores.move_to_end(key)
            missing = [place for place, known in enumerate(found) if known is None]
            self.hits += len(keys) - len(missing)
            self.misses += len(missing)
        return Recall(keys, found, missing)

    def learn(self, keys: Sequence[bytes], values: "FloatArray", truncated: Sequence[bool]) -> None:
        """Remember scores; the longest unused ones make room."""
        with self._lock:
            for key, value, cut in zip(keys, values, truncated, strict=True):
                self._scores[key] = (float(value), cut)
                self._scores.move_to_end(key)
            while len(self._scores) > self.max_entries:
                self._scores.popitem(last=False)


def pair_keys(model: str, pairs: Sequence[TextPair]) -> list[bytes]:
    """Hashes of pairs, in which neither text can run into the other."""
    known = {text: _digest(text) for pair in pairs for text in pair}
    prefix = _digest(model)
    return [
        hashlib.blake2b(prefix + known[first] + known[second], digest_size=16).digest()
        for first, second in pairs
    ]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
