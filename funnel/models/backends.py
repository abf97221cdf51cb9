"""The ways to run a cross-encoder's network, by name. Imports torch: import lazily."""

import hashlib
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TypeAlias, get_args

import torch

from funnel.errors import ConfigError
from funnel.log import get_logger
from funnel.models.bert import embedding_rows, read_config
from funnel.models.calibration import Measured, choose, compared
from funnel.models.cross_networks import LibraryCross, TorchCross
from funnel.models.hardware import cpu_flags, cpu_has_fast_bf16, cpu_has_fast_int8
from funnel.models.names import LIBRARIES, Backend, missing_library
from funnel.registry import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from funnel.models.cross_networks import CrossBert, CrossNetwork
    from funnel.models.encoder import Precision
    from funnel.models.source import ModelSource
    from funnel.models.tokens import TextTokenizer

    FloatArray = NDArray[np.float32]

REFERENCE = "torch-fp32"
ENCODER_BACKENDS = ("auto", "torch-fp32", "torch-bf16")
"""What can run a scorer that is made of encoders' vectors alone."""
_EXACT = ("fp32", "f32")
_LOSSY = ("bf16", "fp16", "int8")
_PRECISIONS: "dict[str, Precision]" = {REFERENCE: "fp32", "torch-bf16": "bf16"}
Openers: TypeAlias = "dict[str, Callable[[], CrossNetwork]]"
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs a network. ``measured`` is what it was chosen by; empty if nothing was measured."""

    backend: str
    measured: tuple[Measured, ...] = ()


def check_backend(backend: str) -> None:
    """Refuse a backend that does not exist.

    Raises:
        ConfigError: names those that do.
    """
    known = get_args(Backend)
    if backend not in known:
        raise ConfigError(
            f"unknown backend {backend!r}{suggestion(backend, known)}; known: {', '.join(known)}"
        )


def open_cross_network(
    source: "ModelSource",
    model: "CrossBert | None",
    backend: str,
    tokenizer: "TextTokenizer",
    *,
    gated: bool = True,
) -> "tuple[CrossNetwork, Choice]":
    """The network on the backend asked for, and what was chosen by which measurements.

    ``auto`` measures which is fastest at equal ranking. A backend named that rounds (bf16, fp16,
    int8) is measured too, and gives way to float32 torch when its ranking is another.

    Args:
        source: the model's folder, and the revision that compiled forms are kept under.
        model: the model in our own form; None lets transformers load it.
        backend: one of ``Backend``.
        tokenizer: makes calibration inputs.
        gated: False takes a backend by name however it ranks.

    Raises:
        ConfigError: there is no such backend, or it cannot run this model or on this machine.
        MissingExtra: it needs a package that is not installed (``auto`` does without).
        ModelError: the tokenizer gives ids that the model has no embeddings for.
    """
    check_backend(backend)
    if rows := _embedding_rows(source, model):
        tokenizer.check_fits(source.name, rows)
    openers = _openers(source, model)
    if backend == "auto":
        choice = _fastest(source, openers, tokenizer)
    else:
        _check_possible(backend, openers)
        gated = gated and backend.endswith(_LOSSY)
        choice = _named(source, backend, openers, tokenizer) if gated else Choice(backend)
    return openers[choice.backend](), choice


def _embedding_rows(source: "ModelSource", model: "CrossBert | None") -> int | None:
    if model is None:
        return embedding_rows(read_config(source.folder))
    return model.encoder.words.num_embeddings


def _fastest(source: "ModelSource", openers: Openers, tokenizer: "TextTokenizer") -> Choice:
    """What ``auto`` means on this machine for this model."""
    likely = [name for name in likely_backends() if name in openers]
    if len(likely) == 1:
        return Choice(likely[0])
    choice = _measured(source, likely, openers, tokenizer)
    log.info("backend_chosen", model=source.name, backend=choice.backend)
    for row in choice.measured:
        if not row.agrees:
            log.info("backend_refused", model=source.name, backend=row.backend, reason=row.reason)
    return choice


def _named(
    source: "ModelSource", backend: str, openers: Openers, tokenizer: "TextTokenizer"
) -> Choice:
    """A backend asked for by name, or the reference if it ranks otherwise."""
    rows = _measured(source, [REFERENCE, backend], openers, tokenizer).measured
    row = next(each for each in rows if each.backend == backend)
    if row.agrees:
        return Choice(backend, rows)
    _warn_refused(source, backend, row)
    return Choice(REFERENCE, rows)


def encoder_precision(
    source: "ModelSource",
    backend: str,
    max_tokens: int,
    scores: "Callable[[Precision], FloatArray]",
    *,
    gated: bool = True,
) -> "tuple[Precision, tuple[Measured, ...]]":
    """That of the encoders that a scorer weighs in, and the measurements it was chosen by.

    bfloat16 where a backend that rounds is asked for, or ``auto`` and it is native, as long as the
    score ranks as with float32.

    Args:
        source: the scorer, whose revision says how its score is made.
        backend: as asked for.
        max_tokens: the window.
        scores: of the calibration texts, with encoders in a precision.
        gated: False takes bfloat16 however it ranks.
    """
    native = cpu_has_fast_bf16() and not backend.endswith(_EXACT)
    if not native and backend != "torch-bf16":
        return "fp32", ()
    if not gated:
        return "bf16", ()
    rounding = "torch-bf16"
    key = _machine_key(source.revision, max_tokens, [REFERENCE, rounding])
    rows = compared(key, REFERENCE, rounding, lambda name: scores(_PRECISIONS[name]))
    if rows[1].agrees:
        return "bf16", tuple(rows)
    if backend == "auto":
        log.info("backend_refused", model=source.name, backend=rounding, reason=rows[1].reason)
    else:
        _warn_refused(source, rounding, rows[1])
    return "fp32", tuple(rows)


def _warn_refused(source: "ModelSource", backend: str, row: Measured) -> None:
    log.warning(
        "backend_refused",
        model=source.name,
        backend=backend,
        reason=row.reason,
        mend=f"{REFERENCE} is used; name another backend, or auto",
    )


def _measured(
    source: "ModelSource", names: list[str], openers: Openers, tokenizer: "TextTokenizer"
) -> Choice:
    key = _machine_key(source.revision, tokenizer.max_tokens, names)
    exact = {name for name in names if not name.endswith(_LOSSY)}
    chosen, rows = choose(key, REFERENCE, {n: openers[n] for n in names}, tokenizer, exact)
    return Choice(chosen, tuple(rows))


def _openers(source: "ModelSource", model: "CrossBert | None") -> Openers:
    if model is None:
        openers: Openers = {
            f"torch-{precision}": partial(LibraryCross, source, precision)
            for precision in ("fp32", "bf16")
        }
        return openers | {
            f"cuda-{precision}": partial(LibraryCross, source, precision, "cuda")
            for precision in ("fp16", "bf16")
        }
    return {
        "torch-fp32": partial(TorchCross, model, "fp32"),
        "torch-bf16": partial(TorchCross, model, "bf16"),
        "openvino-f32": partial(_openvino, model, "f32", source.revision),
        "openvino-bf16": partial(_openvino, model, "bf16", source.revision),
        "openvino-int8": partial(_openvino, model, "int8", source.revision),
        "onnxruntime-f32": partial(_onnx, model, source.revision),
        "cuda-fp16": partial(_cuda, model, "fp16"),
        "cuda-bf16": partial(_cuda, model, "bf16"),
    }


def _openvino(model: "CrossBert", precision: str, revision: str) -> "CrossNetwork":
    from funnel.models.openvino_cross import OpenVinoCross

    return OpenVinoCross(model, precision, revision)


def _onnx(model: "CrossBert", revision: str) -> "CrossNetwork":
    from funnel.models.onnx_cross import OnnxCross

    return OnnxCross(model, revision)


def _cuda(model: "CrossBert", precision: str) -> "CrossNetwork":
    from funnel.models.cuda_cross import CudaCross

    return CudaCross(model, precision)


def likely_backends() -> list[str]:
    """Those worth measuring here, simplest first: what has no hardware for it never wins."""
    for library in LIBRARIES:
        if (missing := missing_library(library)) is not None:
            log.info("backend_absent", backend=library, mend=str(missing))
    return [name for name in get_args(Backend) if name != "auto" and _worth_measuring(name)]


def _worth_measuring(name: str) -> bool:
    library, _, precision = name.partition("-")
    if library == "cuda":
        return torch.cuda.is_available()
    native = {"bf16": cpu_has_fast_bf16, "int8": cpu_has_fast_int8}.get(precision)
    return missing_library(library) is None and (native is None or native())


def _check_possible(backend: str, openers: Openers) -> None:
    if backend not in openers:
        raise ConfigError(
            f"backend {backend!r} runs BERT and RoBERTa models only; take a torch backend or auto"
        )
    library = backend.partition("-")[0]
    if (missing := missing_library(library)) is not None:
        raise missing
    if library == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"backend {backend!r} needs a CUDA device and a CUDA build of torch; got torch "
            f"{torch.__version__}, which sees no device; take backend auto"
        )


def _machine_key(revision: str, max_tokens: int, names: list[str]) -> str:
    # Asking for a device's name takes some of its memory, so only where one is to be measured.
    on_device = any(name.startswith("cuda") for name in names)
    device = torch.cuda.get_device_name() if on_device else "cpu"
    versions = (torch.__version__, *(_version(library) for library in LIBRARIES))
    parts = (revision, max_tokens, names, versions, device, sorted(cpu_flags()), 2)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
