"""The model a run starts from, by the name the YAML would use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from funnel.errors import ConfigError, ModelError
from funnel.log import get_logger
from funnel.models.adapters import Adapter, BaseModel, Combination, PairOrder, read_adapter
from funnel.models.quiet import quiet_loading
from funnel.models.source import EMBEDDED_ENCODER, ModelSource, locate, sha256
from funnel.training.dense import DensePart, FixedPart
from funnel.training.devices import Hardware
from funnel.training.loop import seed_everything

if TYPE_CHECKING:
    from funnel.models.adapters import Weights

_log = get_logger(__name__)
Texts = tuple[str, str]
Floats = NDArray[np.float64]
_LABELS = 2  # of a classifier whose config does not say
_SAFE = {"use_safetensors": True}  # pickled weights can run code


@dataclass(frozen=True, slots=True)
class CrossStudent:
    """A cross-encoder to train.

    ``encoder`` names the model whose weights an adapter would be a difference from. ``dense`` is
    the fixed part of the score of a residual model, else None. ``rank`` is that of the adapter it
    was loaded from, 0 for a plain model, and ``kept`` what that adapter has in four bits.
    ``fresh_head`` says that its head starts at random.
    """

    model: Any
    encoder: str
    dense: DensePart | None
    rank: int
    fresh_head: bool
    kept: "Weights" = field(default_factory=dict)

    @property
    def network(self) -> Any:
        """The transformers network inside."""
        return self.model[0].model

    @property
    def order(self) -> PairOrder:
        """Which orders of a pair its score is made of when served."""
        return self.dense.combine.order if self.dense else "given"

    def scores(self, texts: Sequence[Texts], fixed: FixedPart | None) -> Floats:
        """The score as it will be served, shape (n,); ``fixed`` is what it has beside the logit."""
        cross = self.cross_logits(texts)
        return cross if fixed is None else fixed.scores(cross)

    def cross_logits(self, texts: Sequence[Texts]) -> Floats:
        """The cross-encoder's part of the score, shape (n,), in the orders that it is served."""
        cross = self._logits(texts)
        if self.order == "given":
            return cross
        other = self._logits([(second, first) for first, second in texts])
        return np.minimum(cross, other) if self.order == "both_min" else (cross + other) / 2

    def _logits(self, texts: Sequence[Texts]) -> Floats:
        from torch import nn

        logits = self.model.predict(
            list(texts), activation_fn=nn.Identity(), show_progress_bar=False, batch_size=64
        )
        return np.asarray(logits, np.float64)


def load_cross_student(
    base: str, *, residual: PairOrder | None, max_tokens: int, hardware: Hardware, seed: int
) -> CrossStudent:
    """Load a hub id, a directory, an adapter or an embedded model as a cross-encoder to train.

    ``residual`` asks for a score that adds the base's own similarities, in that order of pairs
    (their weights are fitted later); an adapter that has such a part keeps it in any case. An
    encoder without a head gets one, drawn from ``seed``.

    Raises:
        ConfigError: ``residual`` is asked of an adapter without such a part.
        ModelError: the model cannot be loaded, or is a classifier.
    """
    from funnel.models.low_rank import four_bit_part
    from funnel.models.pair_models import adapter_base, adapter_folder

    seed_everything(seed)
    folder = None if base == EMBEDDED_ENCODER else adapter_folder(base)
    if folder is None:
        return _plain_student(
            base, Combination(order=residual) if residual else None, hardware, max_tokens
        )
    adapter = read_adapter(folder)
    encoder = adapter_base(adapter).name
    if residual and adapter.combine == Combination():
        raise ConfigError(
            f"--residual: {base} is an adapter whose score has no fixed part to add to; "
            f"start from {encoder}, or leave --residual out"
        )
    if not adapter.combine.orders:  # only similarities so far: the cross-encoder starts here
        combine = replace(adapter.combine, cross=1.0)
        return _plain_student(encoder, combine, hardware, max_tokens, adapter.fixed)
    _tell_cut(base, adapter.max_tokens, max_tokens)
    model = _cross_encoder(locate(encoder).folder, encoder, hardware, max_tokens)
    _load_adapter(model[0].model, adapter, locate(encoder).folder)
    plain = adapter.combine == Combination()
    part = None if plain else _dense_part(encoder, adapter.combine, model, adapter.fixed)
    kept = four_bit_part(adapter)
    return CrossStudent(model, encoder, part, adapter.rank, fresh_head=False, kept=kept)


def load_bi_student(base: str, *, max_tokens: int, hardware: Hardware, seed: int) -> Any:
    """Load a hub id, a directory or an embedded model as a bi-encoder.

    Raises:
        ModelError: the model cannot be loaded, or is a cross-encoder.
    """
    from sentence_transformers import SentenceTransformer

    from funnel.models.bert import network_folder
    from funnel.models.encoder_networks import check_whole

    seed_everything(seed)
    source = locate(base)
    if _has_pair_head(source):
        raise ModelError(
            f"{base} is a cross-encoder, which gives no vectors; start from an encoder such as "
            f"{EMBEDDED_ENCODER}, and name the cross-encoder as the teacher"
        )
    with _loading(base, "a bi-encoder"):
        model: Any = SentenceTransformer(
            str(source.folder), device=hardware.device, model_kwargs=_SAFE
        )
        check_whole(base, network_folder(source.folder), getattr(model[0], "model", None))
    _tell_cut(base, int(model.max_seq_length or 0), max_tokens)
    return _ready(model, base, max_tokens)


def _plain_student(
    base: str,
    combine: Combination | None,
    hardware: Hardware,
    max_tokens: int,
    fixed: "Weights | None" = None,
) -> CrossStudent:
    from funnel.models.cross_networks import window

    source = locate(base)
    headed = _has_pair_head(source)
    if headed:
        _check_one_label(base, source.folder)
        _tell_cut(base, window(source.folder, None), max_tokens)
    model = _cross_encoder(source.folder, base, hardware, max_tokens)
    part = _dense_part(base, combine, model, fixed or {}) if combine else None
    return CrossStudent(model, base, part, rank=0, fresh_head=not headed)


def _has_pair_head(source: ModelSource) -> bool:
    from funnel.models.bert import has_pair_head

    return has_pair_head(source.folder)


def _cross_encoder(folder: Path, name: str, hardware: Hardware, max_tokens: int) -> Any:
    from sentence_transformers import CrossEncoder

    with _loading(name, "a cross-encoder"):
        model: Any = CrossEncoder(
            str(folder), num_labels=1, device=hardware.device, model_kwargs=_SAFE
        )
    return _ready(model, name, max_tokens)


def _check_one_label(name: str, folder: Path) -> None:
    from funnel.models.bert import read_config

    config = read_config(folder)
    names = config.get("id2label")
    labels = len(names) if isinstance(names, dict) else config.get("num_labels", _LABELS)
    if labels != 1:
        raise ModelError(
            f"{name} is a classifier with {labels} labels, expected a model with one score; start "
            "from a cross-encoder that gives one, or from the encoder that it was made from"
        )


@contextmanager
def _loading(name: str, what: str) -> Iterator[None]:
    from funnel.models.cross_networks import LOADING_ERRORS

    try:
        with quiet_loading():
            yield
    except LOADING_ERRORS as problem:
        raise ModelError(f"{name} cannot be loaded as {what}: {problem}") from problem


def _load_adapter(network: Any, adapter: Adapter, folder: Path) -> None:
    from funnel.models.bert import read_weights
    from funnel.models.low_rank import load_merged, merged_state_dict

    load_merged(network, merged_state_dict(adapter, read_weights(folder)))


def _dense_part(encoder: str, combine: Combination, model: Any, fixed: "Weights") -> DensePart:
    source = locate(encoder)
    weights = source.folder / "model.safetensors"
    digest = sha256(weights) if weights.is_file() else ""  # refused when the form is settled
    window = int(model.max_seq_length)
    return DensePart(combine, BaseModel(encoder, digest), source, window, fixed)


def _ready(model: Any, name: str, max_tokens: int) -> Any:
    model = model.float()  # in halves, small steps would round to none
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise ModelError(
            f"{name} has weights that are NaN or infinite, so it cannot be trained; fetch or save "
            "it again, or name another base"
        )
    model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    return model


def _tell_cut(name: str, window: int, max_tokens: int) -> None:
    """Warn of a smaller window than the base has: what is trained will be served with it."""
    if window > max_tokens:
        mend = f"--max-tokens {window} keeps it"
        _log.warning("training.window_cut", base=name, was=window, now=max_tokens, mend=mend)
