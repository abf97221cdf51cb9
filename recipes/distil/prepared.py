"""The folder that the run reads: word pieces, pairs and folds in one file; both models' weights.

``recipes/gather.py`` makes it, where the project's dependencies are.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from recipes.distil.batches import Ints
from recipes.distil.networks import Weights
from recipes.distil.weights import load_pieces

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
FOLDS: Final = 3
TRAIN: Final = "train"
FILE: Final = "prepared.npz"
STUDENT_FILE: Final = "minilm.safetensors"
TEACHER_NAME: Final = "mpnet"


@dataclass(frozen=True)
class Part:
    """Pairs of texts by their numbers, with labels and the numbers of their kinds."""

    first: Ints
    second: Ints
    labels: Floats
    kinds: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Prepared:
    """All texts as compact word pieces, and what is known of them.

    Attributes:
        flat: word pieces of all texts, one text after another.
        sizes: how many each text has.
        parts: ``train`` and what is held out.
        kinds: names of the kinds of pairs.
        folds: of each training pair's two sides, (pairs, 2).
        pool: texts to find pairs among.
        barred: pairs of the pool that are held out, however they are spelt there, (pairs, 2).
        others: sentences about everything else, for the encoder alone.
    """

    flat: NDArray[np.uint16]
    sizes: Ints
    parts: dict[str, Part]
    kinds: list[str]
    folds: NDArray[np.int8]
    pool: Ints
    barred: Ints
    others: Ints

    @property
    def train(self) -> Part:
        """The pairs that teachers and students learn from."""
        return self.parts[TRAIN]

    @property
    def held_out(self) -> dict[str, Part]:
        """The others."""
        return {name: part for name, part in self.parts.items() if name != TRAIN}

    def of_kinds(self, names: Collection[str]) -> Flags:
        """Which training pairs are of these kinds."""
        chosen = [number for number, kind in enumerate(self.kinds) if kind in names]
        return np.isin(self.train.kinds, chosen)

    def save(self, folder: Path) -> None:
        """Write it as one compressed file, whole or not at all."""
        arrays: dict[str, Any] = {
            "flat": self.flat, "sizes": self.sizes.astype(np.uint8), "kinds": np.array(self.kinds),
            "folds": self.folds, "pool": self.pool.astype(np.int32),
            "barred": self.barred.astype(np.int32), "others": self.others.astype(np.int32),
            "parts": np.array(list(self.parts)),
        }  # fmt: skip
        for name, part in self.parts.items():
            arrays[f"{name}.sides"] = np.stack([part.first, part.second]).astype(np.int32)
            arrays[f"{name}.labels"] = part.labels.astype(np.float16)
            arrays[f"{name}.kinds"] = part.kinds
        unfinished = folder / f"unfinished.{FILE}"
        np.savez_compressed(unfinished, **arrays)
        unfinished.rename(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "Prepared":
        """Read it again."""
        found = np.load(folder / FILE)
        parts = {
            name: Part(
                first=found[f"{name}.sides"][0].astype(np.int64),
                second=found[f"{name}.sides"][1].astype(np.int64),
                labels=found[f"{name}.labels"].astype(np.float32),
                kinds=found[f"{name}.kinds"],
            )
            for name in found["parts"].tolist()
        }
        numbers = {name: found[name].astype(np.int64) for name in ("sizes", "pool", "others")}
        barred = found["barred"].astype(np.int64)
        kinds = found["kinds"].tolist()
        return cls(
            found["flat"], parts=parts, kinds=kinds, folds=found["folds"], barred=barred, **numbers
        )


def read_models(folder: Path) -> tuple[Weights, Weights]:
    """Weights of the student's base and of the teacher's."""
    return load_file(folder / STUDENT_FILE), load_pieces(folder, TEACHER_NAME)
