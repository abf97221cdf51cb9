"""Models as functions from pairs to scores, whichever kind they are."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from funnel.errors import ConfigError
from funnel.models.base import Side
from funnel.models.source import EMBEDDED_ENCODER, locate

if TYPE_CHECKING:
    from funnel.models.base import FloatArray

Kind = Literal["cross-encoder", "bi-encoder"]
Score = Callable[[Sequence[tuple[str, str]]], "FloatArray"]


def model_kind(name: str) -> Kind:
    """Tell a bi-encoder (its ``modules.json`` pools tokens into one vector) from a cross-encoder.

    Raises:
        ModelError: there is no such model.
    """
    if name == EMBEDDED_ENCODER:
        return "bi-encoder"
    if name.startswith("embedded:"):
        return "cross-encoder"
    modules = Path(name).expanduser() / "modules.json"
    if not Path(name).expanduser().is_dir():
        modules = locate(name).folder / "modules.json"
    return "bi-encoder" if modules.is_file() and _pools(modules) else "cross-encoder"


def pair_scores(name: str) -> Score:
    """Logits of a cross-encoder, or cosines of a bi-encoder, for pairs; shape (n,).

    Raises:
        ModelError: the model cannot be loaded or its head was never trained.
    """
    if model_kind(name) == "cross-encoder":
        from funnel.models import CrossEncoderScorer

        return CrossEncoderScorer(name).score
    return cosine_scores(name)


def logit_scores(name: str) -> Score:
    """Logits of a cross-encoder: what a teacher or a filter of false negatives must give.

    Raises:
        ConfigError: it is a bi-encoder, whose cosines say nothing as logits.
        ModelError: the model cannot be loaded or its head was never trained.
    """
    if model_kind(name) == "bi-encoder":
        raise ConfigError(
            f"{name} is a bi-encoder, but its cosines are no logits: name a cross-encoder, "
            "such as embedded:relevance or one that `funnel train cross-encoder` made"
        )
    return pair_scores(name)


def cosine_scores(name: str) -> Score:
    """Cosines of a bi-encoder's vectors, of a query with a document; each is encoded once."""
    from funnel.models import Embedder

    embedder = Embedder(name)
    # kept from call to call: a long list comes in parts
    queries: dict[str, FloatArray] = {}
    documents: dict[str, FloatArray] = {}

    def read(texts: Sequence[str], kept: "dict[str, FloatArray]", side: Side) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in kept]
        if new:
            kept.update(zip(new, embedder.encode(new, side=side), strict=True))

    def score(pairs: Sequence[tuple[str, str]]) -> "FloatArray":
        read([left for left, _ in pairs], queries, "query")
        read([right for _, right in pairs], documents, "document")
        cosines = [float(queries[left] @ documents[right]) for left, right in pairs]
        return np.array(cosines, np.float32)

    return score


def _pools(modules: Path) -> bool:
    listed = json.loads(modules.read_text(encoding="utf-8"))
    return any(str(module.get("type", "")).endswith("Pooling") for module in listed)
