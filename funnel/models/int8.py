"""int8 linear layers in an OpenVINO graph. Imports openvino: import lazily.

Weights are rounded to eight bits, their inputs too while running, each group of ``GROUP`` numbers
that are multiplied together with a scale of its own. Input scales that are fixed
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
    values = opset13.multiply(
        opset13.convert(opset13.constant(codes), "f32"), opset13.constant(scales)
    )
    return opset13.reshape(values, opset13.constant(np.array(weights.shape)), False)


def rounded(
    weights: "NDArray[np.float32]",
) -> "tuple[NDArray[np.int8], NDArray[np.float32]]":
    """Codes, shape (out, groups, size), and scales, shape (out, groups, 1), near the weights.

    A matrix whose inputs are no multiple of ``GROUP`` has one group.
    """
    columns = weights.shape[1]
    groups = weights.reshape(len(weights), -1, GROUP if columns % GROUP == 0 else columns)
    widest = np.abs(groups).max(axis=2, keepdims=True)
    scales = np.where(widest > 0, widest / _LEVELS, 1).astype(np.float32)
    codes = np.clip(np.rint(groups / scales), -_LEVELS, _LEVELS).astype(np.int8)
    return codes, scales
