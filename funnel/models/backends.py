"""The ways to run a cross-encoder's network, by name. Imports torch: import lazily."""

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import structlog

from funnel.errors import ConfigError
from funnel.models.cross_networks import LibraryCross, TorchCross
from funnel.models.hardware import cpu_has_fast_bf16
from funnel.registry import suggestion

if TYPE_CHECKING:
    from funnel.models.cross_networks import CrossBert, CrossNetwork
    from funnel.models.source import ModelSource
    from funnel.models.tokens import TextTokenizer

Backend: TypeAlias = Literal["auto", "torch-fp32", "torch-bf16"]
log = structlog.get_logger("funnel.models")


def check_backend(backend: str) -> None:
    """Refuse a backend that does not exist.

    Raises:
        ConfigError: names those that do.
    """
    known = get_args(Backend)
    if backend not in known:
        raise ConfigError(
            f"unknown backend {backend!r}{suggestion(backend, known)} known: {', '.join(known)}"
        )


def open_cross_network(
    source: "ModelSource",
    model: "CrossBert | None",
    backend: str,
    tokenizer: "TextTokenizer",  # noqa: ARG001
) -> "tuple[CrossNetwork, str]":
    """The network on the backend asked for, and the backend's name.

    Args:
        source: the model's folder, and the revision that compiled forms are kept under.
        model: the model in our own form; None lets transformers load it.
        backend: one of ``Backend``; ``auto`` chooses by hardware.
        tokenizer: makes calibration inputs.
    """
    check_backend(backend)
    if backend == "auto":
        backend = "torch-bf16" if cpu_has_fast_bf16() else "torch-fp32"
    precision = backend.removeprefix("torch-")
    if model is None:
        return LibraryCross(source, precision), backend
    return TorchCross(model, precision), backend
