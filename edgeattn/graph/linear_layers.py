"""Layers with a constant weight: which of them INT8 can hold, and along which axis.

Nearly all the arithmetic of a network is in its Conv, Gemm and MatMul nodes with constant weights.
The weight's value counts, not how it is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeattn.errors import GraphError
from edgeattn.graph.constants import Constants
from edgeattn.graph.nodes import is_standard, node_label

LINEAR_OPS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class ConstantWeight:
    """The weight of a layer that can compute in INT8.

    Attributes:
        tensor: Its name.
        channel_axis: Axis of the output channels.
    """

    tensor: str
    channel_axis: int


def is_product_of_activations(node: onnx.NodeProto, constants: Constants) -> bool:
    """Tell whether a node is a MatMul without a constant factor."""
    return is_standard(node, "MatMul") and not any(name in constants for name in node.input)


def constant_weight(node: onnx.NodeProto, constants: Constants) -> ConstantWeight | str:
    """Find the weight of a Conv, Gemm or MatMul, or what stands against INT8.

    Products of two activations are `is_product_of_activations`'.

    Raises:
        GraphError: If the weight holds NaN or infinity.
    """
    activation, weight = node.input[0], node.input[1]
    if weight not in constants:
        left = activation in constants
        return "its constant factor is the left one" if left else "its weight is not constant"
    values = constants.value(weight)
    axis, obstacle = channel_axis(node, values)
    if obstacle:
        return obstacle
    if not np.isfinite(values).all():
        raise GraphError(
            f"the weight {weight} of node {node_label(node)} holds NaN or infinity",
            "export the model again from sound weights",
        )
    return ConstantWeight(weight, axis)


def channel_axis(node: onnx.NodeProto, weight: NDArray[Any]) -> tuple[int, str]:
    """Find the axis of the output channels, or what stands against INT8."""
    if weight.dtype != np.float32:
        return 0, f"its weight is {weight.dtype.name}, not float32"
    if not weight.size:
        return 0, "its weight is empty"
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        groups = attributes.get("group", 1)
        sizes = (weight.shape[1], weight.shape[0] // groups)
        if groups > 1 and any(size % 4 for size in sizes):
            # The rule of IConvolutionLayer::setNbGroups.
            return 0, (
                f"its groups have {sizes[0]} input and {sizes[1]} output channels; "
                "TensorRT's INT8 wants multiples of 4"
            )
        return 0, ""
    if weight.ndim != 2:
        return 0, f"its weight has {weight.ndim} dimensions; only matrices have output channels"
    return (0 if attributes.get("transB", 0) else 1), ""
