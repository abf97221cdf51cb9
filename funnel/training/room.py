"""How much room on the disk a run needs: told from the base's files, before anything is loaded."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from funnel.errors import ModelError
from funnel.training.checkpoints import checkpoint_folder
from funnel.training.lora import trained_whole
from funnel.training.origin import network_folder
from funnel.training.settings import TrainSettings

KEPT = 2
"""Checkpoints that a run keeps: the last and the best. The next is written before one goes."""
_FLOAT = 4  # bytes: whatever the files hold, training and its checkpoints are in float32
_COPIES = 3  # a parameter and Adam's two moments
_SMALL_FILES = 20_000_000  # tokenizer, card, states of trainer and generators

Shape = tuple[int, ...]


def check_room(base: str, settings: TrainSettings, output: Path) -> None:
    """Refuse a disk on which the run would die in the middle.

    Raises:
        ModelError: it has less free than the run needs beside what its checkpoints hold already.
    """
    needed = needed_bytes(base, settings) - _held(checkpoint_folder(output))
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise ModelError(
            f"{output.parent} has {free / 1e6:.0f} MB free, about {needed / 1e6:.0f} MB are needed "
            f"for the model and the {_at_once(settings)} checkpoints there are at once; free some "
            "space, name another output, or train with --lora-rank, which needs less"
        )


def needed_bytes(base: str, settings: TrainSettings) -> int:
    """The most that checkpoints and output take at any time; 0 for a base that is not known."""
    folder = network_folder(base)
    if folder is None:
        return 0
    shapes = list(_shapes(folder))
    trained = sum(_trained(name, shape, settings.lora_rank) for name, shape in shapes)
    checkpoint = _FLOAT * _COPIES * trained
    model = _FLOAT * sum(math.prod(shape) for _, shape in shapes)
    at_once = _at_once(settings)
    return max(at_once * checkpoint, min(KEPT, at_once) * checkpoint + model) + _SMALL_FILES


def _at_once(settings: TrainSettings) -> int:
    return min(KEPT + 1, settings.evaluations)


def _trained(name: str, shape: Shape, rank: int | None) -> int:
    """The parameters that are trained of a tensor; low-rank ones go beside linear layers."""
    if rank is None or trained_whole(name):
        return math.prod(shape)
    is_linear = len(shape) == 2 and "embedding" not in name
    return rank * sum(shape) if is_linear else 0


def _shapes(folder: Path) -> Iterator[tuple[str, Shape]]:
    """The tensors with their names, from the headers; who loads them tells what cannot be read."""
    for file in folder.rglob("*.safetensors"):
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            for name, tensor in _header(file).items():
                if name != "__metadata__":
                    yield name, tuple(tensor["shape"])


def _header(file: Path) -> dict[str, dict[str, list[int]]]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError("longer than the file")
        header: dict[str, dict[str, list[int]]] = json.loads(stream.read(length))
    return header


def _held(folder: Path) -> int:
    """What lies there already: a run that goes on replaces it, one that begins anew removes it."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)
