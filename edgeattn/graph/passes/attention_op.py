"""Rewrite attention nodes with ONNX's own Attention, which newer TensorRT runs as one kernel.

    queries, keys, values [B, heads, N, D], bias + mask [1, heads, N, N] -> Attention -> result

Windows become heads or batch (`folded_windows`), queries are scaled before. Neighborhoods, where
each query has keys of its own, are written as products and softmax.

References:
    ONNX, operator Attention of opset 23. onnx-tensorrt, docs/operators.md of TensorRT 10.15: Q, K,
    V and mask have four axes.
"""

from __future__ import annotations

import onnx

from edgeattn.errors import GraphError
from edgeattn.graph.nodes import is_standard, is_standard_domain, node_label
from edgeattn.graph.passes.decompose import decompose_groups
from edgeattn.graph.standard_attention import AttentionForm, DecomposedGroup

ATTENTION_OPSET = 23
_ATTENTION_IR_VERSION = 11

# Operators that mean something else, and not only take more types, from an opset on.
_CHANGED_OPS = {"GridSample": 20, "GroupNormalization": 21}


def write_attention_op(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[DecomposedGroup]]:
    """Replace attention nodes by ONNX's Attention, and raise the graph's opset to 23 for it.

    Args:
        model: Opset 18 or newer; not changed.

    Returns:
        A new graph without attention nodes, and each head group of each of them.

    Raises:
        GraphError: If an attention node is malformed, or another node means something else in
            opset 23.
    """
    written, groups = decompose_groups(model, AttentionForm("attention"))
    if not any(is_standard(node, "Attention") for node in written.graph.node):
        return written, groups
    for entry in written.opset_import:
        if is_standard_domain(entry.domain) and entry.version < ATTENTION_OPSET:
            _check_meanings(written.graph, entry.version)
            entry.version = ATTENTION_OPSET
            written.ir_version = max(written.ir_version, _ATTENTION_IR_VERSION)
    return written, groups


def _check_meanings(graph: onnx.GraphProto, opset: int) -> None:
    for node in graph.node:
        if is_standard(node, *_CHANGED_OPS) and opset < _CHANGED_OPS[node.op_type]:
            raise GraphError(
                f"node {node_label(node)} is a {node.op_type} of opset {opset}, and Attention "
                f"needs opset {ATTENTION_OPSET}, where that means something else",
                "lower attention natively, or export the graph with a newer opset",
            )
