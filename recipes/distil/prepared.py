"""The file that the accelerator's run reads: word pieces, pairs, folds; and the models' weights.

Made where the project's dependencies are; read where torch and numpy suffice.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from recipes.distil.batches import Ints

EDITS = frozenset({
    "swap", "number", "negation", "antonym", "name", "direction", "restate", "conjunct", "clause",
    "surface",
})  # fmt: skip
PIECES = 3
FOLDS = 3
_POSITIONS = 128


@dataclass(frozen=True)
class Part:
    """Pairs of texts by their numbers, with labels and kinds."""

    first: Ints
    second: Ints
    labels: NDArray[np.float32]
    kinds: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.first)

    def take(self, chosen: Any) -> "Part":
        """Some of the pairs."""
        return Part(
            self.first[chosen], self.second[chosen], self.labels[chosen], self.kinds[chosen]
        )


@dataclass(frozen=True)
class Prepared:
    """``folds``: of each training pair's two sides, (n, 2). ``pool``: texts to find pairs among.

    ``others``: sentences about everything else, for the encoder alone.
    """

    flat: NDArray[np.uint16]
    sizes: Ints
    parts: dict[str, Part]
    kinds: list[str]
    folds: NDArray[np.int8]
    pool: Ints
    others: Ints

    def save(self, path: Path) -> None:
        """Write it as one compressed file."""
        arrays: dict[str, Any] = {
            "flat": self.flat, "sizes": self.sizes.astype(np.uint8), "kinds": np.array(self.kinds),
            "folds": self.folds, "pool": self.pool.astype(np.int32),
            "others": self.others.astype(np.int32), "parts": np.array(list(self.parts)),
        }  # fmt: skip
        for name, part in self.parts.items():
            arrays[f"{name}.sides"] = np.stack([part.first, part.second]).astype(np.int32)
            arrays[f"{name}.labels"] = part.labels.astype(np.float16)
            arrays[f"{name}.kinds"] = part.kinds
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Prepared":
        """Read it again."""
        found = np.load(path)
        parts = {
            name: Part(
                *(side.astype(np.int64) for side in found[f"{name}.sides"]),
                found[f"{name}.labels"].astype(np.float32),
                found[f"{name}.kinds"],
            )
            for name in found["parts"].tolist()
        }
        return cls(
            found["flat"], found["sizes"].astype(np.int64), parts, found["kinds"].tolist(),
            found["folds"], found["pool"].astype(np.int64), found["others"].astype(np.int64),
        )  # fmt: skip


def compact(weights: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Half precision, and of the word embeddings the rows that occur, in this order."""
    kept = {}
    for name, tensor in weights.items():
        if name.endswith("position_ids") or not tensor.is_floating_point():
            continue
        if name == "embeddings.word_embeddings.weight":
            tensor = tensor[torch.tensor(rows)]  # noqa: PLW2901
        if name == "embeddings.position_embeddings.weight":
            tensor = tensor[:_POSITIONS]  # noqa: PLW2901
        kept[name] = tensor.half().contiguous()
    return kept


def save_bytes(weights: Mapping[str, Tensor], folder: Path, name: str) -> None:
    """Eight bits a weight, a scale for each row, deflated, in files of one size."""
    small: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if tensor.dim() < 2 or tensor.numel() < 1_000:
            small[key] = tensor
            continue
        scale = tensor.float().abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
        small[key] = (tensor.float() / scale).round().to(torch.int8)
        small[f"{key}.scale"] = scale.half()
    whole = zlib.compress(save(small), 6)
    half = -(-len(whole) // PIECES)
    for number in range(PIECES):
        (folder / f"{name}.{number}").write_bytes(whole[number * half : (number + 1) * half])


def load_bytes(paths: Sequence[Path]) -> dict[str, Tensor]:
    """What :func:`save_bytes` wrote."""
    small = load(zlib.decompress(b"".join(path.read_bytes() for path in paths)))
    return {
        key: tensor.float() * small[f"{key}.scale"].float() if tensor.dtype == torch.int8 else tensor
        for key, tensor in small.items()
        if not key.endswith(".scale")
    }


def save_difference(weights: Mapping[str, Tensor], base: Mapping[str, Tensor], path: Path) -> None:
    """What a student learnt, eight bits a weight with a scale for each row."""
    small: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        start = base.get(key.removeprefix("bert."))
        change = tensor.float().cpu() - (0 if start is None else start.float().cpu())
        if change.dim() < 2:
            small[key] = change.half()
            continue
        scale = change.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
        small[key] = (change / scale).round().to(torch.int8)
        small[f"{key}.scale"] = scale.float()
    save_file(small, path)


def load_difference(path: Path) -> dict[str, Tensor]:
    """What :func:`save_difference` wrote, float32."""
    small = load_file(path)
    return {
        key: tensor.float() * small[f"{key}.scale"] if tensor.dtype == torch.int8 else tensor.float()
        for key, tensor in small.items()
        if not key.endswith(".scale")
    }
