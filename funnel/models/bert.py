"""BERT's forward pass for serving, read straight from safetensors. Imports torch: import lazily.

The same arithmetic as transformers' ``BertModel``, with what serving does not need left out: no
dropout, no pooler, no cache, one fused projection for query, key and value, and a last layer that
can be computed for the first token only. Covers BERT, RoBERTa and XLM-RoBERTa weights.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from funnel.errors import ModelError

Module = TypeVar("Module", bound=nn.Module)
_PACKED_ROWS = 512
"""Rows that the layout is chosen for: about what a batch has."""
_OFFSETS = {"bert": 0, "roberta": None, "xlm-roberta": None}
_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""The first BERTs, converted from TensorFlow, have the names on the left."""
_COUNTED_AFTER_PADDING = ("mpnet", "camembert", "xlm-roberta-xl", "data2vec-text")
"""Not read here, but their positions begin behind that of the padding, as RoBERTa's do."""


@dataclass(frozen=True, slots=True)
class BertShape:
    """The sizes of an encoder; ``position_offset`` is where RoBERTa's positions begin."""

    layers: int
    heads: int
    hidden: int
    epsilon: float
    max_positions: int
    position_offset: int
    typed: bool


def has_pair_head(folder: Path) -> bool:
    """Whether a model's config says that it scores pairs, so that it has no vectors to give."""
    if network_folder(folder) != folder:
        return False
    kinds = read_config(folder).get("architectures") or [""]
    return isinstance(kinds, list) and str(kinds[0]).endswith("ForSequenceClassification")


def network_folder(folder: Path) -> Path:
    """Where the network's own files are: encoders saved long ago have a folder within for them."""
    modules = read_json(folder / "modules.json")
    first = modules[0] if isinstance(modules, list) and modules else None
    path = first.get("path") if isinstance(first, dict) else None
    inside = folder / str(path or "")
    return inside if (inside / "config.json").is_file() else folder


def read_config(folder: Path) -> dict[str, object]:
    """The model's ``config.json``.

    Raises:
        ModelError: it is missing or no JSON object.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model {str(folder)!r}: config.json is missing or damaged") from error
    if not isinstance(config, dict):
        raise ModelError(f"model {str(folder)!r}: config.json holds no object")
    return config


def read_json(file: Path) -> Any:
    """What a settings file holds; None if it is missing or damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def bert_shape(config: Mapping[str, object]) -> BertShape | None:
    """The sizes, or None if this file cannot run such a model (the caller takes another way)."""
    kind = config.get("model_type")
    plain = (
        kind in _OFFSETS
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
    )
    if not plain:
        return None
    offset = 0 if kind == "bert" else int(str(config.get("pad_token_id", 1))) + 1
    return BertShape(
        layers=int(str(config["num_hidden_layers"])),
        heads=int(str(config["num_attention_heads"])),
        hidden=int(str(config["hidden_size"])),
        epsilon=float(str(config.get("layer_norm_eps", 1e-12))),
        max_positions=int(str(config["max_position_embeddings"])) - offset,
        position_offset=offset,
        typed=kind == "bert",
    )


def max_positions(config: Mapping[str, object]) -> int:
    """Tokens of the longest text that a network can read; 0 if its config does not tell."""
    shape = bert_shape(config)
    if shape is not None:
        return shape.max_positions
    behind = config.get("model_type") in _COUNTED_AFTER_PADDING
    skipped = int(str(config.get("pad_token_id", 1))) + 1 if behind else 0
    return max(0, int(str(config.get("max_position_embeddings") or 0)) - skipped)


def embedding_rows(config: Mapping[str, object]) -> int | None:
    """Token ids that a network has embeddings for; None if its config does not tell."""
    rows = config.get("vocab_size")
    return rows if isinstance(rows, int) else None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files, as float32, by their short names.

    The encoder's prefix (``bert.``, ``roberta.``) is removed; heads keep their own names.

    Raises:
        ModelError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"model {str(folder)!r}: its weights are damaged: {error}") from error
    if not tensors:
        raise ModelError(f"model {str(folder)!r}: got no .safetensors file, expected one")
    return short_names(tensors)


def short_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the encoder's prefix, and as they are today; floating tensors as float32."""
    tail = "embeddings.word_embeddings.weight"
    prefix = next((name.removesuffix(tail) for name in tensors if name.endswith(tail)), "")
    return {
        _todays_name(name.removeprefix(prefix)): tensor.float()
        if tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }


def _todays_name(name: str) -> str:
    for before, today in _RENAMED.items():
        if name.endswith(before):
            return name.removesuffix(before) + today
    return name


class Linear(nn.Module):
    """A linear layer around given weights.

    ``nn.Linear`` would draw weights first; on torch's meta device, where that costs nothing else,
    drawing imports torch's compiler, for one to two seconds of every start.
    """

    def __init__(self, matrix: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(matrix, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of shape (..., inputs) becomes (..., outputs)."""
        return F.linear(x, self.weight, self.bias)


class _Layer(nn.Module):
    """One transformer layer, post-norm."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, shape: BertShape) -> None:
        super().__init__()

        def linear(*names: str) -> Linear:
            matrix = torch.cat([weights[f"{prefix}{name}.weight"] for name in names])
            bias = torch.cat([weights[f"{prefix}{name}.bias"] for name in names])
            return Linear(matrix, bias)

        self.heads, self.size = shape.heads, shape.hidden // shape.heads
        parts = ("query", "key", "value")
        self.qkv: nn.Module = linear(*(f"attention.self.{part}" for part in parts))
        self.out: nn.Module = linear("attention.output.dense")
        self.up: nn.Module = nn.Sequential(linear("intermediate.dense"), nn.GELU())
        self.down: nn.Module = linear("output.dense")
        self.norm1 = _norm(weights, f"{prefix}attention.output.LayerNorm", shape)
        self.norm2 = _norm(weights, f"{prefix}output.LayerNorm", shape)

    def forward(self, x: Tensor, mask: Tensor | None, first_only: bool) -> Tensor:
        rows, length, hidden = x.shape
        qkv = self.qkv(x).view(rows, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        if first_only:
            query, x = query[:, :, :1], x[:, :1]
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        seen = seen.transpose(1, 2).reshape(rows, -1, hidden)
        x = self.norm1(x + self.out(seen))
        x = self.norm2(x + self.down(self.up(x)))
        return x  # noqa: RET504  # an annotated name: nn.Module calls are untyped


class Bert(nn.Module):
    """Token ids to hidden states."""

    def __init__(self, weights: Mapping[str, Tensor], shape: BertShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = _embedding(weights["embeddings.word_embeddings.weight"])
        positions = weights["embeddings.position_embeddings.weight"][shape.position_offset :]
        types = weights["embeddings.token_type_embeddings.weight"]
        self.positions = _embedding(positions + types[0])
        step = types[1] - types[0] if shape.typed and len(types) > 1 else torch.zeros_like(types[0])
        self.second = nn.Parameter(step, requires_grad=False)
        self.norm = _norm(weights, "embeddings.LayerNorm", shape)
        self.layers = nn.ModuleList(
            _Layer(weights, f"encoder.layer.{i}.", shape) for i in range(shape.layers)
        )

    def forward(self, ids: Tensor, second: Tensor, mask: Tensor | None, first_only: bool) -> Tensor:
        """Hidden states.

        Args:
            ids: int64 (rows, length).
            second: 1 where a token belongs to the second text, else 0; (rows, length).
            mask: additive attention mask (rows, 1, 1, length), or None without padding.
            first_only: compute the last layer for the first token only.

        Returns:
            (rows, length, hidden), or (rows, 1, hidden).
        """
        where = torch.arange(ids.shape[1], device=ids.device)
        x = self.words(ids) + self.positions(where)
        x = self.norm(x + second.unsqueeze(-1).to(x.dtype) * self.second)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, first_only and i == last)
        states: Tensor = x
        return states


class _PackedLinear(nn.Module):
    """A linear layer, and perhaps the GELU after it, in oneDNN's own weight layout.

    10 to 20% faster than ``nn.Linear``, which lays its weights out anew in every call.
    """

    def __init__(self, linear: Linear, activation: str) -> None:
        super().__init__()
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _PACKED_ROWS)
        self._weight, self._bias = packed, linear.bias
        self._activation: tuple[str, list[float], str] = (
            activation,
            [],
            "none" if activation == "gelu" else "",
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, *self._activation
        )
        return y


def packed(model: Module, dtype: torch.dtype) -> Module:
    """A copy for running on this CPU, its weights in oneDNN's layout where torch has that."""
    model = copy.deepcopy(model).eval().to(dtype)
    if not _can_pack(dtype):
        return model
    for layer in model.modules():
        if isinstance(layer, _Layer):
            layer.up = _PackedLinear(layer.up[0], "gelu")  # type: ignore[index]
            for name in ("qkv", "out", "down"):
                setattr(layer, name, _PackedLinear(getattr(layer, name), "none"))
    return model


def _can_pack(dtype: torch.dtype) -> bool:
    operators = torch.ops.mkldnn
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return (
        available
        and all(
            hasattr(operators, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
        )
        and (dtype != torch.bfloat16 or bool(operators._is_mkldnn_bf16_supported()))
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded inputs: ids and second are int64 (rows, length), ``lengths`` is (rows,)."""

    ids: Tensor
    second: Tensor
    lengths: Tensor
    padded: bool

    def mask(self, dtype: torch.dtype) -> Tensor | None:
        """An additive mask (rows, 1, 1, length), or None where nothing is padded."""
        if not self.padded:
            return None
        hidden = torch.arange(self.ids.shape[1]) >= self.lengths.unsqueeze(1)
        zeros = torch.zeros(hidden.shape, dtype=dtype)
        return zeros.masked_fill_(hidden, torch.finfo(dtype).min)[:, None, None, :]


def collate(rows: Sequence[Sequence[int]], splits: Sequence[int]) -> Batch:
    """Pad rows of token ids to the longest of them."""
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    width = int(lengths.max())
    ids = np.zeros((len(rows), width), np.int64)
    second = np.zeros((len(rows), width), np.int64)
    for i, (row, split) in enumerate(zip(rows, splits, strict=True)):
        ids[i, : len(row)] = row
        if split:
            second[i, split : len(row)] = 1
    padded = bool((lengths != width).any())
    return Batch(torch.from_numpy(ids), torch.from_numpy(second), torch.from_numpy(lengths), padded)


def _embedding(table: Tensor) -> nn.Embedding:
    layer: nn.Embedding = nn.Embedding.from_pretrained(table)  # type: ignore[no-untyped-call]
    return layer


def _norm(weights: Mapping[str, Tensor], prefix: str, shape: BertShape) -> nn.LayerNorm:
    layer = nn.LayerNorm(shape.hidden, eps=shape.epsilon)
    layer.weight = nn.Parameter(weights[f"{prefix}.weight"], requires_grad=False)
    layer.bias = nn.Parameter(weights[f"{prefix}.bias"], requires_grad=False)
    return layer
