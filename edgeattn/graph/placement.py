"""Decide which nodes of a graph compute in symmetric INT8, and say why the others do not.

In INT8 compute Conv, Gemm and MatMul with a constant weight, where nearly all the arithmetic is.
Normalization, softmax, activation functions, residual adds and attention stay in float: placement
decides the accuracy of windowed attention far more than the way scales are found. The choice looks
through nodes that only move values, and at the value of weights, not at how they are written, so
it is the same before and after a graph is simplified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeattn.errors import GraphError
from edgeattn.graph.constants import Constants, subgraphs
from edgeattn.graph.op import is_attention

MIN_OPSET = 13  # scales per channel

LINEAR_OPS = ("Conv", "Gemm", "MatMul")

# Nodes whose output holds the values of their first input, so that both have the same scale.
MOVING_OPS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")

_NORMALIZATION = "normalization stays in float"
_ACTIVATION = "activation functions stay in float"
_SOFTMAX = "softmax stays in float"
_FLOAT_REASONS = {
    "BatchNormalization": _NORMALIZATION,
    "GroupNormalization": _NORMALIZATION,
    "InstanceNormalization": _NORMALIZATION,
    "LayerNormalization": _NORMALIZATION,
    "LpNormalization": _NORMALIZATION,
    "RMSNormalization": _NORMALIZATION,
    "Softmax": _SOFTMAX,
    "LogSoftmax": _SOFTMAX,
    "Erf": _ACTIVATION,
    "Gelu": _ACTIVATION,
    "HardSigmoid": _ACTIVATION,
    "HardSwish": _ACTIVATION,
    "Relu": _ACTIVATION,
    "Sigmoid": _ACTIVATION,
    "Tanh": _ACTIVATION,
    "ConvTranspose": "transposed convolutions stay in float",
    "Einsum": "only Conv, Gemm and MatMul are quantized",
}


@dataclass(frozen=True)
class Decision:
    """What became of one tensor of one node, and why.

    Attributes:
        node: Name of the node, or of its first output if it has none.
        op_type: Its type.
        tensor: The tensor.
        quantized: Whether the node reads it as INT8.
        reason: Why.
        sqnr_db: Of a quantized weight: signal to quantization noise; `None` if there is no noise.
    """

    node: str
    op_type: str
    tensor: str
    quantized: bool
    reason: str
    sqnr_db: float | None = None


@dataclass(frozen=True)
class LinearNode:
    """A node to compute in INT8.

    Attributes:
        activation: Tensor whose range counts: the node's input, traced back through nodes that
            only move values or pad with zeros.
        weight: Its constant input.
        channel_axis: Axis of the output channels in the weight.
    """

    activation: str
    weight: str
    channel_axis: int


@dataclass(frozen=True)
class Placement:
    """Which nodes of a graph compute in INT8.

    Attributes:
        linears: Those nodes, by their place among the graph's nodes.
        floats: What stays in float, and why, likewise.
    """

    linears: dict[int, LinearNode]
    floats: dict[int, Decision]

    @property
    def activations(self) -> tuple[str, ...]:
        """The tensors that need a scale, each once, in the order of their first reader."""
        return tuple(dict.fromkeys(linear.activation for linear in self.linears.values()))


def place_qdq(model: onnx.ModelProto) -> Placement:
    """Decide what to quantize.

    Args:
        model: A float graph, attention nodes included.

    Raises:
        GraphError: If the graph is quantized already, its opset has no scales per channel, a
            weight holds NaN or infinity, or there is nothing to quantize.
    """
    return _Placer(model).place()


class _Placer:
    """Decides node by node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = Constants(model)
        self._check(model)
        self._keeps_range = range_keepers(model.graph, self._constants)

    def place(self) -> Placement:
        linears: dict[int, LinearNode] = {}
        floats: dict[int, Decision] = {}
        for index, node in enumerate(self._graph.node):
            if all(name in self._constants for name in node.output if name):
                continue  # folded before it ever runs
            placed = self._place(node)
            if isinstance(placed, LinearNode):
                linears[index] = placed
            elif placed:
                floats[index] = placed
        if not linears:
            raise GraphError(
                "there is nothing to quantize: no Conv, Gemm or MatMul has a constant float32 "
                "weight that INT8 can hold",
                "run the graph in float",
            )
        return Placement(linears, floats)

    def _place(self, node: onnx.NodeProto) -> LinearNode | Decision | None:
        if is_standard(node, *LINEAR_OPS):
            return self._place_linear(node)
        reason = self._why_float(node)
        return _keep_float(node, node.input[0] if node.input else "", reason) if reason else None

    def _place_linear(self, node: onnx.NodeProto) -> LinearNode | Decision:
        activation, weight = node.input[0], node.input[1]
        if weight not in self._constants:
            if activation in self._constants:
                return _keep_float(node, weight, "its constant factor is the left one")
            if node.op_type == "MatMul":
                return _keep_float(node, activation, "both factors are activations")
            return _keep_float(node, activation, "its weight is not constant")
        values = self._constants.value(weight)
        axis, obstacle = _channel_axis(node, values)
        if obstacle:
            return _keep_float(node, activation, obstacle)
        if not np.isfinite(values).all():
            raise GraphError(
                f"the weight {weight} of node {node_label(node)} holds NaN or infinity",
                "export the model again from sound weights",
            )
        while activation in self._keeps_range:
            activation = self._keeps_range[activation].input[0]
        return LinearNode(activation, weight, axis)

    def _why_float(self, node: onnx.NodeProto) -> str:
        if is_attention(node):
            return "attention stays in float; the layers around it are quantized"
        if any(_holds_linear(body) for body in subgraphs(node)):
            return "the bodies of control flow stay in float"
        if is_standard(node, "Add") and not any(name in self._constants for name in node.input):
            return "sums of activations stay in float: residual paths are not rounded"
        return _FLOAT_REASONS.get(node.op_type, "") if is_standard(node, node.op_type) else ""

    def _check(self, model: onnx.ModelProto) -> None:
        present = sum(
            is_standard(node, "QuantizeLinear", "DequantizeLinear") for node in self._graph.node
        )
        if present:
            raise GraphError(
                f"the graph is quantized already: it holds {present} Q/DQ nodes",
                "calibrate and quantize the float graph",
            )
        opset = max(
            (o.version for o in model.opset_import if _is_standard_domain(o.domain)), default=0
        )
        if opset < MIN_OPSET:
            raise GraphError(
                f"the graph has opset {opset}; INT8 weights need at least {MIN_OPSET}",
                "export it again with a newer opset",
            )


def moving_nodes(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Find the nodes that only move values, by their output."""
    return {node.output[0]: node for node in graph.node if is_standard(node, *MOVING_OPS)}


def range_keepers(graph: onnx.GraphProto, constants: Constants) -> dict[str, onnx.NodeProto]:
    """Find the nodes whose output has the range of their first input, by their output.

    They move values or pad with zeros.
    """
    pads = (node for node in graph.node if _pads_with_zeros(node, constants))
    return moving_nodes(graph) | {node.output[0]: node for node in pads}


def _pads_with_zeros(node: onnx.NodeProto, constants: Constants) -> bool:
    """A simplifier may drop such a node, or fold it into a convolution."""
    if not is_standard(node, "Pad"):
        return False
    if any(a.name == "mode" and a.s != b"constant" for a in node.attribute):
        return False
    fill = node.input[2] if len(node.input) > 2 else ""
    return not fill or (fill in constants and not constants.value(fill).any())


def _keep_float(node: onnx.NodeProto, tensor: str, reason: str) -> Decision:
    return Decision(node_label(node), node.op_type, tensor, False, reason)


def _channel_axis(node: onnx.NodeProto, weight: NDArray[Any]) -> tuple[int, str]:
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


def _holds_linear(graph: onnx.GraphProto) -> bool:
    return any(
        is_standard(node, *LINEAR_OPS) or any(_holds_linear(body) for body in subgraphs(node))
        for node in graph.node
    )


def is_standard(node: onnx.NodeProto, *op_types: str) -> bool:
    """Tell whether a node is one of these operators of the ONNX standard."""
    return node.op_type in op_types and _is_standard_domain(node.domain)


def node_label(node: onnx.NodeProto) -> str:
    """Name a node; after its first output if it has no name of its own."""
    return str(node.name or node.output[0])


def _is_standard_domain(domain: str) -> bool:
    return domain in ("", "ai.onnx")
