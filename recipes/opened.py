"""The base model, opened: its files, its tokenizer, its vectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from funnel.models.source import EMBEDDED_ENCODER, locate
from recipes.network import Base


@dataclass(frozen=True)
class Opened:
    """What every recipe starts from."""

    folder: Path
    tokenizer: Any
    base: Base

    @property
    def weights(self) -> Path:
        """The base's own."""
        return self.folder / "model.safetensors"


def open_base() -> Opened:
    """The base of the ``embedded`` extra."""
    from transformers import AutoTokenizer

    source = locate(EMBEDDED_ENCODER)
    return Opened(source.folder, AutoTokenizer.from_pretrained(source.folder), Base(source))


def long_names(base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's weights under the names of ``BertForSequenceClassification``."""
    return {
        name if name.startswith("bert.") else f"bert.{name}": tensor
        for name, tensor in base.items()
        if not name.endswith("position_ids")
    }
