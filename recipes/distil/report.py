"""Figures on what is held out, to read along; and the scores themselves, to look into later."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from recipes.distil.prepared import Floats, Part
from recipes.distil.reading import cosines
from recipes.distil.training import Log

_FILE = "predictions.npz"
_ALLOWED = 0.01


class Report:
    """Logs figures and keeps the scores of every held-out part."""

    def __init__(self, parts: Mapping[str, Part], folder: Path, log: Log) -> None:
        self.parts, self.log = parts, log
        self._path = folder / _FILE
        self._kept: dict[str, Floats] = {}

    def show(self, name: str, scores_of: Callable[[str, Part], Floats]) -> dict[str, Floats]:
        """Score all parts, by name; says AUC and recall at 1% false positives of each."""
        scores = {part: scores_of(part, pairs) for part, pairs in self.parts.items()}
        figures = {part: _figures(scores[part], pairs) for part, pairs in self.parts.items()}
        self.log("held out", scores=name, **figures)
        self._kept |= {f"{name}.{part}": found for part, found in scores.items()}
        np.savez_compressed(self._path, **self._kept)  # type: ignore[arg-type]
        return scores

    def show_space(self, name: str, space: Tensor) -> None:
        """The same for the cosines of vectors of all texts."""
        self.show(name, lambda _, part: cosines(space, part.first, part.second))


def _figures(scores: Floats, part: Part) -> str:
    area, recall = area_and_recall(scores, part.labels)
    return f"{area:.3f}/{recall:.3f}"


def area_and_recall(scores: Floats, labels: Floats) -> tuple[float, float]:
    """AUC, and recall at 1% false positives."""
    same = labels[np.argsort(-scores, kind="stable")] >= 0.5
    hits, misses = np.cumsum(same), np.cumsum(~same)
    duplicates, others = int(same.sum()), int((~same).sum())
    area = 1 - float((misses * same).sum()) / max(1, duplicates * others)
    allowed = misses <= _ALLOWED * others
    recall = float(hits[allowed].max()) / max(1, duplicates) if allowed.any() else 0.0
    return area, recall
