"""A cross-encoder's network on ONNX Runtime, exported from the torch module itself.

Imports torch and onnxruntime: import lazily.
"""

import hashlib
import io
import warnings
from typing import TYPE_CHECKING, Any

import torch

from funnel.log import get_logger
from funnel.models import sealed
from funnel.models.cross_networks import BUDGET, padded_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from funnel.models.cross_networks import CrossBert
    from funnel.models.tokens import Tokens

    FloatArray = NDArray[np.float32]

_INPUTS = {"ids": {0: "rows", 1: "length"}, "second": {0: "rows", 1: "length"}}
_MASK = {"mask": {0: "rows", 3: "length"}}
_OPSET = 17
log = get_logger(__name__)


class OnnxCross:
    """float32; one thread, since the model worker runs a batch on each core."""

    budget = BUDGET

    def __init__(self, model: "CrossBert", weights_key: str) -> None:
        self._session = _session(model, weights_key)

    def logits(self, batch: "Sequence[Tokens]") -> "FloatArray":
        """Raw logits (n,), float32."""
        inputs = dict(zip((*_INPUTS, *_MASK), padded_arrays(batch), strict=True))
        logits: FloatArray = self._session.run(None, inputs)[0]
        return logits


def _session(model: "CrossBert", weights_key: str) -> Any:
    """A session, from disk if this version exported it before."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    parts = (weights_key, torch.__version__, _OPSET)
    name = f"onnx/{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}.onnx"
    if (kept := sealed.read(name)) is not None:
        try:
            return onnxruntime.InferenceSession(kept, options, providers=providers)
        except Exception as error:  # its errors have no common base of their own
            log.warning("compiled_model_refused", error=str(error)[:200], mend="exported anew")
    exported = _exported(model)
    sealed.write(name, exported)
    return onnxruntime.InferenceSession(exported, options, providers=providers)


def _exported(model: "CrossBert") -> bytes:
    ids = torch.zeros(2, 8, dtype=torch.long)
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter needs onnxscript, and this plain module gains nothing by it.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (ids, ids, torch.zeros(2, 1, 1, 8)),
            file,  # type: ignore[arg-type]  # the exporter takes a buffer, as its own code shows
            dynamo=False,
            opset_version=_OPSET,
            input_names=[*_INPUTS, *_MASK],
            output_names=["logits"],
            dynamic_axes={**_INPUTS, **_MASK, "logits": {0: "rows"}},
        )
    return file.getvalue()
