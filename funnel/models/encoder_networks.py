"""The two ways to run an encoder: our own forward pass, or SentenceTransformer's.

Imports torch: import lazily.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from funnel.errors import ModelError
from funnel.models.bert import (
    Batch,
    Bert,
    bert_shape,
    collate,
    embedding_rows,
    has_pair_head,
    max_positions,
    network_folder,
    packed,
    read_config,
    read_json,
    read_weights,
)
from funnel.models.colbert import ColbertEncoder, token_projection
from funnel.models.cross_networks import LOADING_ERRORS, from_folder, window
from funnel.models.openvino_encoder import Ways, choose_ways
from funnel.models.quiet import quiet_loading
from funnel.models.representations import Representation
from funnel.models.source import ModelSource
from funnel.models.tokens import TextTokenizer, Tokens, prompted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from funnel.models.encoder import EncoderNetwork, Precision

    FloatArray = NDArray[np.float32]

_OPENING = Lock()
_PLAIN_MODULES = ("Transformer", "Pooling", "Normalize")


def open_network(
    source: ModelSource, precision: "Precision", max_tokens: int | None = None
) -> "EncoderNetwork":
    """Load a model's weights and tokenizer, once per process, precision and window.

    Models that are BERT with mean pooling run through our own forward pass, ColBERTs through
    transformers and their projection, all others through SentenceTransformer.
    """
    with _OPENING:  # stages load at the same time
        return _opened(source, precision, max_tokens)


def _is_plain(folder: Path) -> bool:
    modules = read_json(folder / "modules.json")
    if not isinstance(modules, list):
        return False
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    settings = read_json(folder / "config_sentence_transformers.json") or {}
    return (
        tuple(kinds) in (_PLAIN_MODULES, _PLAIN_MODULES[:2])
        and network_folder(folder) == folder
        and _is_mean(read_json(folder / "1_Pooling" / "config.json") or {})
        and _reads_plainly(read_json(folder / "sentence_bert_config.json") or {})
        and not settings.get("default_prompt_name")
        and (folder / "tokenizer.json").is_file()
        and bert_shape(read_config(folder)) is not None
    )


def _is_mean(pooling: Mapping[str, Any]) -> bool:
    """Whether only means are pooled, as saved since sentence-transformers 6 or before."""
    if pooling.get("include_prompt") is False:  # the mean leaves out what precedes the text
        return False
    if "pooling_mode" in pooling:
        return pooling["pooling_mode"] in ("mean", ["mean"])
    modes = {key for key, on in pooling.items() if key.startswith("pooling_mode") and on is True}
    return modes == {"pooling_mode_mean_tokens"}


def _reads_plainly(settings: Mapping[str, Any]) -> bool:
    """Whether text goes into the network as it is and its last states come out."""
    text = (settings.get("modality_config") or {}).get("text") or {}
    return (
        not settings.get("do_lower_case")
        and not settings.get("processing_kwargs")
        and settings.get("transformer_task", "feature-extraction") == "feature-extraction"
        and text.get("method_output_name", "last_hidden_state") == "last_hidden_state"
    )


class PlainEncoder:
    """BERT, mean pooling, unit length.

    ``weights`` take the place of the source's own; its revision must then be theirs.
    ``max_tokens`` is the model's own window by default.
    """

    def __init__(
        self,
        source: ModelSource,
        precision: "Precision",
        weights: Mapping[str, torch.Tensor] | None = None,
        max_tokens: int | None = None,
    ) -> None:
        shape = bert_shape(read_config(source.folder))
        if shape is None:
            raise ModelError(f"model {source.name!r}: config.json names no plain BERT")
        self.dim = shape.hidden
        self.key = f"{source.revision}:{precision}" + (f":{max_tokens}" if max_tokens else "")
        self.max_tokens = window(source.folder, max_tokens)
        self._tokenizer = TextTokenizer(source.folder, self.max_tokens)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        try:
            network = Bert(weights or read_weights(source.folder), shape)
        except (KeyError, RuntimeError) as error:
            raise ModelError(f"model {source.name!r}: a tensor is missing: {error}") from error
        self._tokenizer.check_fits(source.name, network.words.num_embeddings)
        self._network = packed(network, self._dtype)
        self._plain: Bert | None = network if precision == "fp32" else None
        self._revision = source.revision
        self._ways = Ways(self._by_torch, self._by_torch)

    @property
    def choice(self) -> str:
        """What computes the vectors, and why."""
        return self._ways.reason

    def warm_up(self) -> None:
        """Choose how texts are embedded; takes seconds the first time on a machine."""
        plain, self._plain = self._plain, None
        if plain is not None:
            self._ways = choose_ways(self._network, plain, self._by_torch, self._revision)

    def tokenize(self, texts: Sequence[str], prompt: str | None = None) -> list[Tokens]:
        """Tokens of each text behind the prompt, cut to the window."""
        return self._tokenizer.singles(prompted(texts, prompt))

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included, uncut."""
        overhead = self._tokenizer.single_overhead
        return [len(ids) + overhead for ids in self._tokenizer.ids(texts, whole=True)]

    @torch.inference_mode()
    def pooled(self, batch: Sequence[Tokens]) -> "FloatArray":
        """Unit vectors (n, dim)."""
        way = self._ways.single if len(batch) == 1 else self._ways.several
        return way(_collated(batch))

    def _by_torch(self, batch: Batch) -> "FloatArray":
        return _numpy(_mean(self._states(batch), batch.lengths))

    @torch.inference_mode()
    def representations(self, batch: Sequence[Tokens]) -> list[Representation]:
        """Each text's vector and its tokens' vectors."""
        inputs = _collated(batch)
        states = self._states(inputs)
        pooled, tokens = _numpy(_mean(states, inputs.lengths)), _numpy(F.normalize(states, dim=-1))
        rows = zip(pooled, tokens, batch, strict=True)
        return [
            Representation(one, many[: len(each)].copy(), each.truncated)
            for one, many, each in rows
        ]

    @torch.inference_mode()
    def _states(self, batch: Batch) -> torch.Tensor:
        mask = batch.mask(self._dtype)
        states: torch.Tensor = self._network(batch.ids, batch.second, mask, first_only=False)
        return states.float()


class LibraryEncoder:
    """Any other model, through SentenceTransformer itself."""

    def __init__(self, source: ModelSource, max_tokens: int | None = None) -> None:
        folder = network_folder(source.folder)
        self._model = _sentence_transformer(source)
        check_whole(source.name, folder, getattr(self._model[0], "model", None))
        positions = max_positions(read_config(folder)) or math.inf
        if max_tokens or (self._model.max_seq_length or 0) > positions:
            self._model.max_seq_length = window(folder, max_tokens)
        self.key = f"{source.revision}:library" + (f":{max_tokens}" if max_tokens else "")
        self.dim = int(self._model.get_embedding_dimension() or 0)
        self.max_tokens = int(self._model.max_seq_length or 512)
        self._tokenizer = TextTokenizer(folder, self.max_tokens)
        if rows := embedding_rows(read_config(folder)):
            self._tokenizer.check_fits(source.name, rows)

    @property
    def choice(self) -> str:
        """What computes the vectors, and why."""
        return "sentence-transformers, as it is no plain BERT with a mean"

    def warm_up(self) -> None:
        """Nothing to choose: the library embeds single texts as it embeds many."""

    def tokenize(self, texts: Sequence[str], prompt: str | None = None) -> list[Tokens]:
        """Tokens, for their number only: the library tokenises the text again by itself.

        So it puts the prompt before it again, the default one where none is given.
        """
        tokens = self._tokenizer.singles(prompted(texts, prompt), keep_text=True)
        if prompt is None:
            return tokens
        return [replace(each, text=each.text[len(prompt) :], prompt=prompt) for each in tokens]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included, uncut."""
        overhead = self._tokenizer.single_overhead
        return [len(ids) + overhead for ids in self._tokenizer.ids(texts, whole=True)]

    def pooled(self, batch: Sequence[Tokens]) -> "FloatArray":
        """Unit vectors (n, dim)."""
        vectors = self._encoded(batch, normalize_embeddings=True, convert_to_tensor=True)
        return _numpy(F.normalize(torch.stack(vectors).float(), dim=-1))  # half may be off

    def representations(self, batch: Sequence[Tokens]) -> list[Representation]:
        """Each text's vector and its tokens' vectors."""
        states = self._encoded(batch, output_value="token_embeddings")
        tokens = [_numpy(F.normalize(state.float(), dim=-1)) for state in states]
        cut = [each.truncated for each in batch]
        return [Representation(*row) for row in zip(self.pooled(batch), tokens, cut, strict=True)]

    def _encoded(self, batch: Sequence[Tokens], **options: Any) -> list[torch.Tensor]:
        """What the library makes of each text, all of one prompt together."""
        made: dict[int, torch.Tensor] = {}
        for prompt in dict.fromkeys(each.prompt for each in batch):
            places = [i for i, each in enumerate(batch) if each.prompt == prompt]
            rows = self._model.encode(
                [batch[i].text for i in places],
                prompt=prompt,
                batch_size=len(places),
                show_progress_bar=False,
                **options,
            )
            made |= dict(zip(places, rows, strict=True))
        return [made[i] for i in range(len(batch))]


def _sentence_transformer(source: ModelSource) -> Any:
    """The model, in float32 on a CPU, which computes halves slowly and to three digits."""
    from sentence_transformers import SentenceTransformer

    try:
        with quiet_loading():
            model = SentenceTransformer(
                str(source.folder),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            ).eval()
    except LOADING_ERRORS as error:
        raise ModelError(f"model {source.name!r} cannot be loaded: {error}") from error
    return model.float() if model.device.type == "cpu" else model


def check_whole(name: str, folder: Path, network: Any) -> None:
    """Refuse a network some of whose weights the folder lacks: the library draws them at random.

    Raises:
        ModelError: names the first.
    """
    if not hasattr(network, "from_pretrained"):  # static vectors
        return
    tails = {tail for name in _tensor_names(folder) for tail in _tails(name)}
    if all(name in tails for name in network.state_dict()):
        return
    # Tied and renamed ones look as if they were missing, too: the library knows.
    _, report = from_folder(type(network), ModelSource(name, folder, ""))
    if missing := sorted(each for each in report["missing_keys"] if "pooler." not in each):
        raise ModelError(
            f"model {name!r}: {len(missing)} tensors not found, {missing[0]} among them, so its "
            "vectors would be random; its weights do not fit its config: fetch or save it again"
        )


def _tensor_names(folder: Path) -> list[str]:
    from safetensors import safe_open

    names: list[str] = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names += file.keys()
    return names


def _tails(name: str) -> list[str]:
    """A tensor's name without each of its prefixes."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


@lru_cache(maxsize=8)
def _opened(
    source: ModelSource, precision: "Precision", max_tokens: int | None
) -> "EncoderNetwork":
    if _is_plain(source.folder):
        return PlainEncoder(source, precision, max_tokens=max_tokens)
    if precision != "fp32":
        return _opened(source, "fp32", max_tokens)  # the others have one precision
    projection = token_projection(source.folder)
    if projection is not None:
        return ColbertEncoder(source, projection, max_tokens)
    if has_pair_head(source.folder) and not (source.folder / "1_Pooling").is_dir():
        raise ModelError(
            f"model {source.name!r} is a cross-encoder, which gives no vectors; expected an "
            "encoder, such as embedded:all-MiniLM-L6-v2"
        )
    return LibraryEncoder(source, max_tokens)


def _collated(batch: Sequence[Tokens]) -> Batch:
    return collate([each.ids for each in batch], [0] * len(batch))


def _mean(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Unit means over each row's own tokens."""
    inside = torch.arange(states.shape[1]) < lengths.unsqueeze(1)
    return F.normalize((states * inside.unsqueeze(-1)).sum(1), dim=-1)


def _numpy(tensor: torch.Tensor) -> "FloatArray":
    return tensor.float().cpu().numpy()
