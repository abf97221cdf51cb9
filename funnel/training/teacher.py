"""Let a cross-encoder score examples, so that a smaller or faster model can learn from it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from funnel.training.figures import sigmoid
from funnel.training.judges import Score
from funnel.training.progress import tracked
from funnel.training.records import LabelledPair, Triple

if TYPE_CHECKING:
    from funnel.models.base import FloatArray

_CHUNK = 256


def scored_pairs(texts: Sequence[tuple[str, str]], score: Score) -> list[LabelledPair]:
    """Pairs with the teacher's probabilities; ``score`` gives logits of shape (n,)."""
    chances = sigmoid(in_chunks(texts, score))
    return [
        LabelledPair(query, document, float(chance))
        for (query, document), chance in zip(texts, chances, strict=True)
    ]


def scored_triples(triples: Sequence[Triple], score: Score) -> list[Triple]:
    """Triples with the teacher's probabilities; ``score`` gives logits of shape (n,)."""
    texts = [(row.query, text) for row in triples for text in (row.positive, row.negative)]
    chances = sigmoid(in_chunks(texts, score)).reshape(-1, 2)
    return [
        replace(row, positive_score=float(better), negative_score=float(worse))
        for row, (better, worse) in zip(triples, chances, strict=True)
    ]


def in_chunks(texts: Sequence[tuple[str, str]], score: Score) -> "FloatArray":
    """Score with a progress bar on a terminal; shape (n,)."""
    starts = range(0, len(texts), _CHUNK)
    parts = [score(texts[start : start + _CHUNK]) for start in tracked(starts, "score")]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
