"""Let a cross-encoder score examples, so that a smaller or faster model can learn from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from funnel.training.checkpoints import keep_taught, taught
from funnel.training.figures import sigmoid
from funnel.training.judges import Score, logit_scores
from funnel.training.origin import base_revision
from funnel.training.progress import tracked
from funnel.training.records import LabelledPair, Triple

if TYPE_CHECKING:
    from funnel.models.base import FloatArray

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Teacher:
    """A cross-encoder by name, and the output of the run it teaches.

    Its scores are kept with that run's checkpoints, so that a run that goes on sees the same ones:
    asked again, a model differs in the last digits, for its batches are others.
    """

    name: str
    output: Path

    def logits(self, texts: Sequence[tuple[str, str]]) -> "FloatArray":
        """Logits of shape (n,), with a progress bar on a terminal.

        Raises:
            ConfigError: it is no cross-encoder.
            ModelError: it cannot be loaded, or its scores cannot be kept.
        """
        asked = [base_revision(self.name), *texts]
        kept = taught(self.output, asked)
        if kept is None:
            kept = in_chunks(texts, logit_scores(self.name)).tolist()
            keep_taught(self.output, asked, kept)
        return np.array(kept, np.float32)


def scored_pairs(texts: Sequence[tuple[str, str]], score: Score) -> list[LabelledPair]:
    """Pairs with the teacher's probabilities; ``score`` gives logits of shape (n,)."""
    chances = sigmoid(score(texts))
    return [
        LabelledPair(query, document, float(chance))
        for (query, document), chance in zip(texts, chances, strict=True)
    ]


def scored_triples(triples: Sequence[Triple], score: Score) -> list[Triple]:
    """Triples with the teacher's probabilities; ``score`` gives logits of shape (n,)."""
    texts = [(row.query, text) for row in triples for text in (row.positive, row.negative)]
    chances = sigmoid(score(texts)).reshape(-1, 2)
    return [
        replace(row, positive_score=float(better), negative_score=float(worse))
        for row, (better, worse) in zip(triples, chances, strict=True)
    ]


def in_chunks(texts: Sequence[tuple[str, str]], score: Score) -> "FloatArray":
    """Score with a progress bar on a terminal; shape (n,)."""
    starts = range(0, len(texts), _CHUNK)
    parts = [score(texts[start : start + _CHUNK]) for start in tracked(starts, "score")]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
