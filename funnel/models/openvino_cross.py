"""A cross-encoder's network on OpenVINO, converted from the torch module itself.

Imports torch and openvino: import lazily. (The openvino extra of sentence-transformers is not used:
it brings a torchvision that breaks a CPU build of torch.)
"""

import hashlib
import io
import threading
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from funnel.log import get_logger
from funnel.models import sealed
from funnel.models.cross_networks import BUDGET, padded_arrays
from funnel.models.hardware import cpu_flags, cpu_has_fast_bf16
from funnel.models.int8 import GROUP, with_int8_weights
from funnel.models.worker import available_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from funnel.models.cross_networks import CrossBert
    from funnel.models.tokens import Tokens

    FloatArray = NDArray[np.float32]

log = get_logger(__name__)


class OpenVinoCross:
    """Compiled for this CPU: as many streams as cores, one thread each.

    Args:
        model: in our own form.
        precision: ``f32``, ``bf16``, or ``int8`` for the linear layers with attention in bf16
            (f32 where that is not native).
        weights_key: names the weights; the compiled form is kept under it.
    """

    budget = BUDGET

    def __init__(self, model: "CrossBert", precision: str, weights_key: str) -> None:
        self._compiled = _compiled(model, precision, weights_key)
        self._head = model.head
        self._local = threading.local()

    @torch.inference_mode()
    def logits(self, batch: "Sequence[Tokens]") -> "FloatArray":
        """Raw logits (n,), float32."""
        first = self._request().infer(padded_arrays(batch))[0]
        logits: FloatArray = self._head(torch.from_numpy(first)).numpy()
        return logits

    def _request(self) -> Any:
        # A request can serve one caller at a time, so each worker thread has its own.
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        return self._local.request


class _FirstStates(nn.Module):
    """All but the head, which runs in torch, in float32."""

    def __init__(self, model: "CrossBert") -> None:
        super().__init__()
        self._encoder = model.encoder

    def forward(self, ids: Tensor, second: Tensor, mask: Tensor) -> Tensor:
        first: Tensor = self._encoder(ids, second, mask, first_only=True)[:, 0]
        return first


def _settings(precision: str) -> dict[str, str]:
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": str(available_cores()),
        "INFERENCE_NUM_THREADS": str(available_cores()),
        # Off unless asked for: newer versions quantise compressed weights' inputs by themselves.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }
    if precision == "int8":
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if cpu_has_fast_bf16() else "f32"
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(GROUP)
    return settings


def _compiled(model: "CrossBert", precision: str, weights_key: str) -> Any:
    """The compiled model, from disk if this machine and version compiled it before."""
    import openvino

    settings = _settings(precision)
    core = openvino.Core()
    name = f"openvino/{_key(2, weights_key, openvino.__version__, precision, settings)}.blob"
    kept = sealed.read(name)
    if kept is not None:
        try:
            return core.import_model(io.BytesIO(kept), "CPU", settings)
        except RuntimeError as error:
            log.warning("compiled_model_refused", error=str(error)[:200], mend="compiled anew")
    converted = _converted(model)
    if precision == "int8":
        with_int8_weights(converted)
    compiled = core.compile_model(converted, "CPU", settings)
    sealed.write(name, compiled.export_model().getvalue())
    return compiled


def _converted(model: "CrossBert") -> Any:
    import openvino

    ids = torch.zeros(2, 8, dtype=torch.long)
    example = {"ids": ids, "second": ids, "mask": torch.zeros(2, 1, 1, 8)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its use of torch.jit.trace is not ours to mend
        return openvino.convert_model(_FirstStates(model), example_input=example)


def _key(*parts: object) -> str:
    text = repr((*parts, sorted(cpu_flags())))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
