"""Why a node that no recipe quantizes stays in float."""

from __future__ import annotations

import onnx

from edgeattn.graph.constants import subgraphs
from edgeattn.graph.linear_layers import LINEAR_OPS
from edgeattn.graph.nodes import is_standard, is_standard_domain

_OPS_BY_REASON = {
    "normalization stays in float": (
        "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization "
        "LpNormalization RMSNormalization"
    ),
    "softmax stays in float": "Softmax LogSoftmax",
    "activation functions stay in float": (
        "Celu Elu Erf Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Sigmoid Softplus "
        "Swish Tanh"
    ),
    "reductions stay in float": (
        "ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare TopK"
    ),
    "it only moves values: whoever reads them decides": (
        "Concat DepthToSpace Dropout Expand Gather GatherElements GatherND Pad Slice SpaceToDepth "
        "Split Tile"
    ),
    "the standard's Attention operator stays in float": "Attention",
    "transposed convolutions stay in float": "ConvTranspose",
    "only Conv, Gemm and MatMul are quantized": "Einsum",
}
_REASONS = {op: reason for reason, ops in _OPS_BY_REASON.items() for op in ops.split()}


def float_reason(node: onnx.NodeProto) -> str:
    """Say why a node stays in float, whatever the recipe."""
    if any(_holds_linear(body) for body in subgraphs(node)):
        return "the bodies of control flow stay in float"
    if is_standard_domain(node.domain):
        return _REASONS.get(node.op_type, f"{node.op_type} stays in float: it costs little")
    return f"nothing is known of the operator {node.domain}::{node.op_type}"


def _holds_linear(graph: onnx.GraphProto) -> bool:
    return any(
        is_standard(node, *LINEAR_OPS) or any(_holds_linear(body) for body in subgraphs(node))
        for node in graph.node
    )
