"""The model a run starts from, by the name the YAML would use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnel.errors import ModelError
from funnel.models.source import locate
from funnel.training.devices import Hardware
from funnel.training.loop import seed_everything

Texts = tuple[str, str]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CrossStudent:
    """A cross-encoder to train.

    ``fresh_head`` says that its head starts at random. ``dense`` is the fixed part of the score
    if the base is a residual over a dense similarity, else None.
    """

    model: Any
    base: str
    fresh_head: bool
    dense: None = None

    @property
    def network(self) -> Any:
        """The transformers network inside."""
        return self.model[0].model

    def offsets(self, texts: Sequence[Texts]) -> Floats:
        """The fixed part of each pair's score, shape (n,); zeros for a plain cross-encoder."""
        return np.zeros(len(texts))

    def cross_logits(self, texts: Sequence[Texts], *, symmetric: bool) -> Floats:
        """The trained part of each pair's score, shape (n,); mean of both orders if symmetric."""
        logits = self._logits(texts)
        if not symmetric:
            return logits
        return (logits + self._logits([(second, first) for first, second in texts])) / 2

    def _logits(self, texts: Sequence[Texts]) -> Floats:
        from torch import nn

        logits = self.model.predict(
            list(texts), activation_fn=nn.Identity(), show_progress_bar=False, batch_size=64
        )
        return np.asarray(logits, np.float64)


def load_cross_student(
    base: str, *, max_tokens: int, hardware: Hardware, seed: int
) -> CrossStudent:
    """Load a hub id, a directory or an embedded model as a cross-encoder with one output.

    An encoder without a head gets one, drawn from ``seed``.

    Raises:
        ModelError: the model cannot be loaded or has more than one output.
    """
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig

    seed_everything(seed)
    folder = str(locate(base).folder)
    try:
        with quiet_loading():
            architectures = AutoConfig.from_pretrained(folder).architectures or [""]
            model = CrossEncoder(folder, num_labels=1, device=hardware.device)
    except (OSError, ValueError, RuntimeError) as problem:
        raise ModelError(f"{base} cannot be loaded as a cross-encoder: {problem}") from problem
    _cut_window(model, max_tokens)
    return CrossStudent(model, base, not architectures[0].endswith("ForSequenceClassification"))


def load_bi_student(base: str, *, max_tokens: int, hardware: Hardware, seed: int) -> Any:
    """Load a hub id, a directory or an embedded model as a bi-encoder.

    Raises:
        ModelError: the model cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    seed_everything(seed)
    folder = str(locate(base).folder)
    try:
        with quiet_loading():
            model = SentenceTransformer(folder, device=hardware.device)
    except (OSError, ValueError, RuntimeError) as problem:
        raise ModelError(f"{base} cannot be loaded as a bi-encoder: {problem}") from problem
    _cut_window(model, max_tokens)
    return model


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep loading reports and bars of transformers off the user's terminal."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # its functions carry no types
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _cut_window(model: Any, max_tokens: int) -> None:
    model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
