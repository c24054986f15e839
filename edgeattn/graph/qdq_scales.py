"""Read from a quantized graph with which scale it rounds each activation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from edgeattn.graph.constants import Constants
from edgeattn.graph.nodes import is_standard, range_keepers

# ONNX Runtime's own domain has the same two operators, for types that old opsets lack.
_DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True)
class ActivationScale:
    """How a graph rounds one activation.

    Attributes:
        names: The tensor that is rounded, then those that it has its values from.
        quant_scale: Real value of one integer step; 0 if it is not one number.
        obstacle: Why this is not symmetric INT8 with one constant scale; empty if it is.
    """

    names: tuple[str, ...]
    quant_scale: float
    obstacle: str


def activation_scales(model: onnx.ModelProto) -> list[ActivationScale]:
    """List the activations that a graph rounds, in its order.

    Args:
        model: A graph with QuantizeLinear nodes, of whichever tool.
    """
    constants = Constants(model)
    sources = _sources(model.graph, constants)
    return [
        ActivationScale(_trace(node.input[0], sources), *_scale(node, constants))
        for node in model.graph.node
        if _is(node, "QuantizeLinear") and node.input[0] not in constants
    ]


def _sources(graph: onnx.GraphProto, constants: Constants) -> dict[str, str]:
    """Map tensors to those that they have their values from, rounding and casts aside."""
    sources = {name: node.input[0] for name, node in range_keepers(graph, constants).items()}
    sources |= {node.output[0]: node.input[0] for node in graph.node if is_standard(node, "Cast")}
    rounded = {node.output[0]: node.input[0] for node in graph.node if _is(node, "QuantizeLinear")}
    for node in graph.node:
        if _is(node, "DequantizeLinear") and node.input[0] in rounded:
            sources[node.output[0]] = rounded[node.input[0]]
    return sources


def _trace(tensor: str, sources: dict[str, str]) -> tuple[str, ...]:
    names = [tensor]
    while names[-1] in sources:
        names.append(sources[names[-1]])
    return tuple(names)


def _scale(node: onnx.NodeProto, constants: Constants) -> tuple[float, str]:
    """Read a QuantizeLinear's scale, and what stands against it."""
    if node.input[1] not in constants:
        return 0.0, "its scale is computed at run time"
    scale = np.asarray(constants.value(node.input[1]), np.float64)
    if scale.size != 1:
        return 0.0, f"it has {scale.size} scales, not one"
    return float(scale.item()), _zero_point_obstacle(node, constants)


def _zero_point_obstacle(node: onnx.NodeProto, constants: Constants) -> str:
    name = node.input[2] if len(node.input) > 2 else ""
    if not name:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        # Without either, the standard says UINT8.
        element = attributes.get("output_dtype", 0) or onnx.TensorProto.UINT8
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element))
        return "" if dtype == np.int8 else f"it is rounded to {dtype.name}, not int8"
    if name not in constants:
        return "its zero point is computed at run time"
    zero_point = constants.value(name)
    if zero_point.dtype != np.int8:
        return f"it is rounded to {zero_point.dtype.name}, not int8"
    return f"its zero point is {zero_point.item()}, not 0" if zero_point.any() else ""


def _is(node: onnx.NodeProto, op_type: str) -> bool:
    return node.op_type == op_type and node.domain in _DOMAINS
