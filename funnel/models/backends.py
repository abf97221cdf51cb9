"""The ways to run a cross-encoder's network, by name. Imports torch: import lazily."""

import hashlib
import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from funnel.errors import ConfigError, MissingExtra
from funnel.log import get_logger
from funnel.models.calibration import Measured, choose
from funnel.models.cross_networks import LibraryCross, TorchCross
from funnel.models.hardware import cpu_flags, cpu_has_fast_bf16
from funnel.registry import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable

    from funnel.models.cross_networks import CrossBert, CrossNetwork
    from funnel.models.source import ModelSource
    from funnel.models.tokens import TextTokenizer

Backend: TypeAlias = Literal["auto", "torch-fp32", "torch-bf16", "openvino-f32", "openvino-bf16"]
REFERENCE = "torch-fp32"
log = get_logger(__name__)


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
    source: "ModelSource", model: "CrossBert | None", backend: str, tokenizer: "TextTokenizer"
) -> "tuple[CrossNetwork, str]":
    """The network on the backend asked for, and the backend's name.

    Args:
        source: the model's folder, and the revision that compiled forms are kept under.
        model: the model in our own form; None lets transformers load it.
        backend: one of ``Backend``; ``auto`` measures which is fastest at equal ranking.
        tokenizer: makes calibration inputs.

    Raises:
        ConfigError: there is no such backend.
        MissingExtra: it needs a package that is not installed (``auto`` does without).
    """
    check_backend(backend)
    openers = _openers(source, model)
    if backend == "auto":
        backend, _ = calibrated(source, openers, tokenizer)
    if backend.startswith("openvino"):
        _check_openvino(backend, model)
    return openers[backend](), backend


def calibrated(
    source: "ModelSource",
    openers: "dict[str, Callable[[], CrossNetwork]]",
    tokenizer: "TextTokenizer",
) -> tuple[str, list[Measured]]:
    """What ``auto`` means on this machine for this model, and the measurements behind it."""
    likely = [name for name in likely_backends() if name in openers]
    if len(likely) == 1:
        return likely[0], []
    key = _machine_key(source.revision, tokenizer.max_tokens, likely)
    chosen, rows = choose(key, REFERENCE, {name: openers[name] for name in likely}, tokenizer)
    log.info("backend_chosen", model=source.name, backend=chosen)
    return chosen, rows


def _openers(
    source: "ModelSource", model: "CrossBert | None"
) -> "dict[str, Callable[[], CrossNetwork]]":
    if model is None:
        return {
            f"torch-{precision}": partial(LibraryCross, source, precision)
            for precision in ("fp32", "bf16")
        }
    torch_ways: dict[str, Callable[[], CrossNetwork]] = {
        f"torch-{precision}": partial(TorchCross, model, precision)
        for precision in ("fp32", "bf16")
    }
    compiled: dict[str, Callable[[], CrossNetwork]] = {
        f"openvino-{precision}": partial(_openvino, model, precision, source.revision)
        for precision in ("f32", "bf16")
    }
    return torch_ways | compiled


def _openvino(model: "CrossBert", precision: str, revision: str) -> "CrossNetwork":
    from funnel.models.openvino_cross import OpenVinoCross

    return OpenVinoCross(model, precision, revision)


def likely_backends() -> list[str]:
    """Those worth measuring here, simplest first: bfloat16 without hardware for it never wins."""
    names = [name for name in get_args(Backend) if name != "auto"]
    if importlib.util.find_spec("openvino") is None:
        log.info("backend_absent", backend="openvino", mend=str(_missing()))
        names = [name for name in names if not name.startswith("openvino")]
    return [name for name in names if not name.endswith("bf16") or cpu_has_fast_bf16()]


def _check_openvino(backend: str, model: "CrossBert | None") -> None:
    if importlib.util.find_spec("openvino") is None:
        raise _missing()
    if model is None:
        raise ConfigError(
            f"backend {backend!r} runs BERT and RoBERTa models only; take a torch backend or auto"
        )


def _missing() -> MissingExtra:
    return MissingExtra("backend openvino", "openvino")


def _machine_key(revision: str, max_tokens: int, names: list[str]) -> str:
    import torch

    parts = (revision, max_tokens, names, torch.__version__, sorted(cpu_flags()), 1)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
