"""Weights in small files: the teacher's way to the accelerator, and the students' way back.

Eight bits a weight with a scale for each row. A teacher is fine-tuned on, so that it does not feel
the rounding; a student's difference from its base is small, and goes into four bits later on.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

PIECES: Final = 3
_POSITIONS = 128
_WORDS, _PLACES = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
_NOT_WORTH_IT = 1_000
_SCALE = ".scale"
_UNITS = 127


def compact(weights: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Half precision; of the word embeddings the rows that occur, in this order."""
    cut = {
        _WORDS: torch.tensor(rows),
        _PLACES: torch.arange(min(_POSITIONS, len(weights[_PLACES]))),
    }
    return {
        name: (tensor[cut[name]] if name in cut else tensor).half().contiguous()
        for name, tensor in weights.items()
        if tensor.is_floating_point()
    }


def save_in_pieces(weights: Mapping[str, Tensor], folder: Path, name: str) -> None:
    """``name.0`` and so on: deflated, in files of about one size.

    What carries files to an accelerator may limit the size of each.
    """
    small: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if tensor.dim() < 2 or tensor.numel() < _NOT_WORTH_IT:
            small[key] = tensor
        else:
            small[key], scale = _eight_bits(tensor.float())
            small[key + _SCALE] = scale.half()
    whole = zlib.compress(save(small), 6)
    size = -(-len(whole) // PIECES)
    for number, path in enumerate(pieces(folder, name)):
        path.write_bytes(whole[number * size : (number + 1) * size])


def load_pieces(folder: Path, name: str) -> dict[str, Tensor]:
    """What :func:`save_in_pieces` wrote; single matrices are float32."""
    whole = zlib.decompress(b"".join(path.read_bytes() for path in pieces(folder, name)))
    return dict(_restored(load(whole)))


def pieces(folder: Path, name: str) -> list[Path]:
    """The files of a model that was saved in pieces."""
    return [folder / f"{name}.{number}" for number in range(PIECES)]


def save_difference(
    weights: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    path: Path,
    about: Mapping[str, int] | None = None,
) -> None:
    """What a student learnt, and what the run that taught it has to say ``about`` itself.

    Args:
        weights: the student's, under the names of ``BertForSequenceClassification``.
        base: those it began with, under an encoder's own names; what is not there began at 0.
        path: of the file.
        about: counts, for the model card.
    """
    small: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        start = base.get(key.removeprefix("bert."))
        change = tensor.float().cpu() - (0 if start is None else start.float().cpu())
        if change.dim() < 2:
            small[key] = change.half()
        else:
            small[key], small[key + _SCALE] = _eight_bits(change)
    unfinished = path.with_suffix(".unfinished")
    save_file(small, unfinished, {name: str(value) for name, value in (about or {}).items()})
    unfinished.rename(path)


def load_difference(path: Path) -> dict[str, Tensor]:
    """What :func:`save_difference` wrote, float32."""
    return {name: tensor.float() for name, tensor in _restored(load_file(path))}


def about_difference(path: Path) -> dict[str, int]:
    """What the run that taught it said about itself."""
    with safe_open(path, "pt") as file:
        found = file.metadata() or {}
    return {name: int(value) for name, value in sorted(found.items()) if name != "format"}


def _eight_bits(tensor: Tensor) -> tuple[Tensor, Tensor]:
    scale = tensor.abs().amax(1, keepdim=True).clamp(min=1e-8) / _UNITS
    return (tensor / scale).round().to(torch.int8), scale


def _restored(small: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in small.items():
        if tensor.dtype == torch.int8:
            yield name, tensor.float() * small[name + _SCALE].float()
        elif not name.endswith(_SCALE):
            yield name, tensor
