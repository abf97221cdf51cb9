"""int8 linear layers in an OpenVINO graph. Imports openvino: import lazily.

Weights are rounded to eight bits with one scale for each output; their inputs are rounded while
running, with one scale for each token's group of ``GROUP`` numbers. Scales that are fixed
beforehand, one for a whole tensor, do not do for BERT: a few tokens' activations are twenty times
as large as the rest, and the ranking changes.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUP = 128
_LEVELS = 127
_SMALLEST = 64
"""Matrices with fewer outputs (a head of one logit) gain nothing and stay as they are."""


def with_int8_weights(graph: Any) -> int:
    """Replace the matrices of linear layers, in place, by eight bits and scales.

    Args:
        graph: an ``openvino.Model``, as converted.

    Returns:
        How many were replaced.
    """
    layers = [node for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul"]
    return sum(_replace(node) for node in layers)


def _replace(layer: Any) -> bool:
    constant = layer.input_value(1).get_node()
    if constant.get_type_name() != "Constant" or not layer.get_attributes()["transpose_b"]:
        return False
    weights = constant.get_data().astype(np.float32)
    if weights.ndim != 2 or weights.shape[0] < _SMALLEST:
        return False
    layer.input(1).replace_source_output(_eight_bits(weights).output(0))
    return True


def _eight_bits(weights: "NDArray[np.float32]") -> Any:
    from openvino import opset13

    codes, scales = rounded(weights)
    return opset13.multiply(
        opset13.convert(opset13.constant(codes), "f32"), opset13.constant(scales)
    )


def rounded(
    weights: "NDArray[np.float32]",
) -> "tuple[NDArray[np.int8], NDArray[np.float32]]":
    """Codes, shape (out, in), and scales, shape (out, 1), whose product is near the weights."""
    widest = np.abs(weights).max(axis=1, keepdims=True)
    scales = np.where(widest > 0, widest / _LEVELS, 1).astype(np.float32)
    codes = np.clip(np.rint(weights / scales), -_LEVELS, _LEVELS).astype(np.int8)
    return codes, scales
