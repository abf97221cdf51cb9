"""A cross-encoder's network on a CUDA device. Imports torch: import lazily."""

import copy
from collections.abc import Sequence
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

import torch

from funnel.models.cross_networks import CUDA_BUDGET, DTYPES, CrossBert
from funnel.models.tokens import Tokens
from funnel.models.unpadded import best_attention, pack, unpadded_logits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


_AT_ONCE = 2
"""Batches on the device: one computes while the next is launched. All of the worker's threads would
gain nothing by more, for kernels run one after another, and would hold memory for each of them."""


class CudaCross:
    """Half precision, without padding."""

    budget = CUDA_BUDGET

    def __init__(self, model: CrossBert, precision: str) -> None:
        self._model = copy.deepcopy(model).eval().to("cuda")
        self._model.encoder.to(DTYPES[precision])
        shape = model.encoder.shape
        capability = torch.cuda.get_device_capability()
        self._attention = best_attention(shape.hidden // shape.heads, capability)
        self._room = BoundedSemaphore(_AT_ONCE)

    @torch.inference_mode()
    def logits(self, batch: Sequence[Tokens]) -> "FloatArray":
        """Raw logits (n,), float32."""
        rows = pack(batch)
        with self._room:
            values = unpadded_logits(self._model, rows.to("cuda"), self._attention)
            return values.cpu().numpy()
