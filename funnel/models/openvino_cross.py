"""A cross-encoder's network on OpenVINO, converted from the torch module itself.

Imports torch and openvino: import lazily. (The openvino extra of sentence-transformers is not used:
it brings a torchvision that breaks a CPU build of torch.)
"""

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from funnel.models.cross_networks import BUDGET, padded_arrays
from funnel.models.hardware import available_cores, cpu_flags, cpu_has_fast_bf16
from funnel.models.int8 import GROUP, with_int8_weights
from funnel.models.openvino_compiled import Compiled, converted, version

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from funnel.models.cross_networks import CrossBert
    from funnel.models.tokens import Tokens

    FloatArray = NDArray[np.float32]


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
        settings = _settings(precision)
        name = f"openvino/{_key(3, weights_key, version(), precision, settings)}.blob"
        arrays = [each.numpy() for each in _example().values()]
        self._first_states = Compiled(name, settings, lambda: _converted(model, precision), arrays)
        self._head = model.head

    @torch.inference_mode()
    def logits(self, batch: "Sequence[Tokens]") -> "FloatArray":
        """Raw logits (n,), float32."""
        first = self._first_states(padded_arrays(batch))
        logits: FloatArray = self._head(torch.from_numpy(first)).numpy()
        return logits


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


def _example() -> "dict[str, Tensor]":
    ids = torch.zeros(2, 8, dtype=torch.long)
    return {"ids": ids, "second": ids, "mask": torch.zeros(2, 1, 1, 8)}


def _converted(model: "CrossBert", precision: str) -> Any:
    network = converted(_FirstStates(model), _example())
    if precision == "int8":
        with_int8_weights(network)
    return network


def _key(*parts: object) -> str:
    text = repr((*parts, sorted(cpu_flags())))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
