"""The base model, opened: its files, its words, its vectors; networks of its shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from funnel.models.bert import bert_shape, read_config
from funnel.models.source import EMBEDDED_ENCODER, locate
from recipes.bert import CrossEncoder, TwinEncoder
from recipes.network import Base, Words


@dataclass(frozen=True)
class Opened:
    """What every recipe starts from."""

    folder: Path
    words: Words
    base: Base

    @property
    def weights(self) -> Path:
        """The base's own."""
        return self.folder / "model.safetensors"

    def cross(self, weights: Mapping[str, Tensor]) -> CrossEncoder:
        """A cross-encoder with these weights."""
        return CrossEncoder(weights, **self._sizes())

    def encoder(self, weights: Mapping[str, Tensor]) -> TwinEncoder:
        """An encoder with these weights, under their long names."""
        return TwinEncoder(weights, **self._sizes())

    def _sizes(self) -> dict[str, int]:
        shape = bert_shape(read_config(self.folder))
        if shape is None:
            raise SystemExit(f"{self.folder} is no plain BERT")
        return {"layers": shape.layers, "heads": shape.heads}


def open_base() -> Opened:
    """The base of the ``embedded`` extra."""
    from transformers import AutoTokenizer

    source = locate(EMBEDDED_ENCODER)
    return Opened(source.folder, Words(AutoTokenizer.from_pretrained(source.folder)), Base(source))
