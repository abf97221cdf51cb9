"""The two ways to run a cross-encoder: our own forward pass, or transformers'.

Imports torch: import lazily.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from funnel.errors import ModelError
from funnel.models.bert import (
    Batch,
    Bert,
    BertShape,
    Linear,
    bert_shape,
    collate,
    packed,
    read_config,
    read_weights,
    short_names,
)
from funnel.models.source import ModelSource
from funnel.models.tokens import TextTokenizer, Tokens, reads_types
from funnel.progress import no_loading_bars

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

_BERT_HEAD = ("pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias")
_ROBERTA_HEAD = tuple(
    f"classifier.{layer}.{part}" for layer in ("dense", "out_proj") for part in ("weight", "bias")
)
_TRAIN_IT = "train it first (funnel train cross-encoder), or name a model that is a cross-encoder"
_ENDLESS = 1_000_000
BUDGET = 512
"""Padded tokens of a batch: measured best on one AVX512 core (see benchmarks/README.md)."""
CUDA_BUDGET = 65_536
"""On CUDA: enough to fill a data-centre device, a few hundred MiB of activations."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class CrossNetwork(Protocol):
    """Tokenised pairs to logits.

    ``budget``: the padded tokens of a batch that it is fastest with.
    """

    @property
    def budget(self) -> int:
        """Padded tokens of a batch."""

    def logits(self, batch: Sequence[Tokens]) -> "FloatArray":
        """Raw logits (n,), float32."""


class CrossBert(nn.Module):
    """BERT or RoBERTa with a head of one logit; the last layer is computed for [CLS] only."""

    def __init__(self, weights: Mapping[str, Tensor], shape: BertShape) -> None:
        super().__init__()
        self.encoder = Bert(weights, shape)
        hidden, out = (_BERT_HEAD if shape.typed else _ROBERTA_HEAD)[::2]
        self.hidden = _head_layer(weights, hidden)
        self.out = _head_layer(weights, out)

    def forward(self, ids: Tensor, second: Tensor, mask: Tensor | None) -> Tensor:
        """Logits (rows,); arguments as of :meth:`funnel.models.bert.Bert.forward`."""
        return self.head(self.encoder(ids, second, mask, first_only=True)[:, 0])

    def head(self, first: Tensor) -> Tensor:
        """Logits (rows,) from the first token's states (rows, hidden), always in float32.

        A logit of 8 rounded to bfloat16 is off by up to 0.03, enough to exchange ranks; the head
        costs next to nothing.
        """
        logits: Tensor = self.out(torch.tanh(self.hidden(first.float())))[:, 0]
        return logits


def _head_layer(weights: Mapping[str, Tensor], name: str) -> Linear:
    return Linear(weights[name], weights[name.removesuffix("weight") + "bias"])


def read_cross_bert(source: ModelSource) -> CrossBert | None:
    """The model with our own forward pass, or None if it is of another architecture.

    Raises:
        ModelError: its head is missing (it would be random) or has not exactly one label.
    """
    config = read_config(source.folder)
    shape = bert_shape(config)
    if shape is None:
        return None
    weights = read_weights(source.folder)
    return cross_bert(source.name, weights, shape)


def cross_bert(name: str, weights: Mapping[str, Tensor], shape: BertShape) -> CrossBert:
    """Put a model together from named tensors (prefix ``bert.`` or none)."""
    weights = short_names(weights)
    needed = _BERT_HEAD if shape.typed else _ROBERTA_HEAD
    missing = [tensor for tensor in needed if tensor not in weights]
    if missing:
        raise ModelError(
            f"model {name!r} has no trained head: {', '.join(missing)} not found, so its scores "
            f"would be random; {_TRAIN_IT}"
        )
    check_one_label(name, weights[needed[2]].shape[0])
    try:
        return CrossBert(weights, shape).eval()
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"model {name!r}: its weights do not fit its config: {error}") from error


def check_one_label(name: str, labels: int) -> None:
    """Refuse a classifier.

    Raises:
        ModelError: the head has not exactly one output.
    """
    if labels != 1:
        raise ModelError(
            f"model {name!r}: got a head with {labels} labels, expected 1; it is a classifier, "
            f"whose outputs are no relevance score; {_TRAIN_IT}"
        )


class TorchCross:
    """Our own forward pass in torch, float32 or bfloat16."""

    budget = BUDGET

    def __init__(self, model: CrossBert, precision: str) -> None:
        self._dtype = DTYPES[precision]
        self._encoder = packed(model.encoder, self._dtype)
        self._head = model.head

    @torch.inference_mode()
    def logits(self, batch: Sequence[Tokens]) -> "FloatArray":
        """Raw logits (n,), float32."""
        inputs = collated(batch)
        mask = inputs.mask(self._dtype)
        first: Tensor = self._encoder(inputs.ids, inputs.second, mask, first_only=True)[:, 0]
        return self._head(first).numpy()


class LibraryCross:
    """Any other architecture, through transformers itself."""

    def __init__(self, source: ModelSource, precision: str, device: str = "cpu") -> None:
        self.budget = BUDGET if device == "cpu" else CUDA_BUDGET
        self._device = device
        self._model = _from_transformers(source)
        self._model.to(device, DTYPES[precision])
        self._pad = int(getattr(self._model.config, "pad_token_id", 0) or 0)
        self._typed = int(getattr(self._model.config, "type_vocab_size", 0) or 0) > 1

    @torch.inference_mode()
    def logits(self, batch: Sequence[Tokens]) -> "FloatArray":
        """Raw logits (n,), float32."""
        inputs = collated(batch)
        inside = torch.arange(inputs.ids.shape[1]) < inputs.lengths.unsqueeze(1)
        arguments = {
            "input_ids": inputs.ids.masked_fill(~inside, self._pad),
            "attention_mask": inside.long(),
        }
        if self._typed:
            arguments["token_type_ids"] = inputs.second
        there = {name: each.to(self._device) for name, each in arguments.items()}
        logits: Tensor = self._model(**there).logits[:, 0]
        return logits.float().cpu().numpy()


def from_folder(kind: Any, source: ModelSource) -> tuple[Any, Mapping[str, Any]]:
    """A model that the transformers library opens, and its report of what was found.

    No code of the folder is run, and only safetensors are read. ``kind``: one of its auto classes.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        with no_loading_bars():
            model, report = kind.from_pretrained(
                source.folder,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"model {source.name!r} cannot be loaded: {error}") from error
    return model, report


def _from_transformers(source: ModelSource) -> Any:
    from transformers import AutoModelForSequenceClassification

    model, report = from_folder(AutoModelForSequenceClassification, source)
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"model {source.name!r} has no trained head: {', '.join(missing)} not found, so its "
            f"scores would be random; {_TRAIN_IT}"
        )
    check_one_label(source.name, int(model.config.num_labels))
    return model.eval()


def collated(batch: Sequence[Tokens]) -> Batch:
    """Pad tokenised pairs."""
    return collate([each.ids for each in batch], [each.split for each in batch])


def padded_arrays(batch: Sequence[Tokens]) -> "list[NDArray[Any]]":
    """Token ids, second-text flags and additive mask, as compiled models take them."""
    inputs = collated(batch)
    mask = inputs.mask(torch.float32)
    if mask is None:
        mask = torch.zeros(len(batch), 1, 1, inputs.ids.shape[1])
    return [inputs.ids.numpy(), inputs.second.numpy(), mask.numpy()]


def window(folder: Path, asked: int | None) -> int:
    """The window of a model: what is asked for, at most what it was made for.

    Raises:
        ModelError: more is asked than the model has positions.
    """
    config = read_config(folder)
    shape = bert_shape(config)
    positions = shape.max_positions if shape else int(str(config.get("max_position_embeddings", 0)))
    made_for = _declared_window(folder)
    limit = min(made_for, positions or made_for)
    if asked is not None and asked > (positions or asked):
        raise ModelError(
            f"model {str(folder)!r}: got max_tokens {asked}, expected at most {positions}"
        )
    return asked or (limit if limit < _ENDLESS else 512)


def _declared_window(folder: Path) -> int:
    for file, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        try:
            value = json.loads((folder / file).read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError):
            continue
        if isinstance(value, (int, float)) and 0 < value < _ENDLESS:
            return int(value)
    return _ENDLESS


def pair_tokenizer(folder: Path, asked: int | None) -> TextTokenizer:
    """The model's tokenizer with its window."""
    return TextTokenizer(folder, window(folder, asked), typed=reads_types(folder))
