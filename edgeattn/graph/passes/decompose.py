"""Rewrite attention nodes into standard ONNX."""

from __future__ import annotations

import onnx

from edgeattn.graph.constants import used_names
from edgeattn.graph.head_group_notes import note_head_groups
from edgeattn.graph.nodes import node_label
from edgeattn.graph.op import OP_DOMAIN, is_attention
from edgeattn.graph.shapes import infer_types
from edgeattn.graph.standard_attention import AttentionForm, DecomposedGroup, StandardAttention
from edgeattn.graph.tape import Tape


def decompose(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace every attention node by standard operators, for any ONNX runtime.

    All other nodes and all tensor names are kept, so that a calibration table of the graph fits
    the result too. What each new node is part of stands in its metadata, for reports.

    Args:
        model: Opset 18 or newer; batch, height and width may be dynamic. Not changed.

    Returns:
        A new graph without attention nodes.

    Raises:
        GraphError: If an attention node is malformed.
    """
    result, groups = decompose_groups(model, AttentionForm())
    note_head_groups(result, groups)
    return result


def decompose_groups(
    model: onnx.ModelProto, form: AttentionForm
) -> tuple[onnx.ModelProto, list[DecomposedGroup]]:
    """Replace every attention node by standard operators, and tell by which.

    Args:
        model: As `decompose` takes it.
        form: How attention is to be written.

    Returns:
        A new graph without attention nodes, and each head group of each of them.

    Raises:
        GraphError: If an attention node is malformed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    groups: list[DecomposedGroup] = []
    if not any(is_attention(node) for node in model.graph.node):
        return result, groups
    types = infer_types(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if is_attention(node):
            tape = Tape(node_label(node))
            groups += StandardAttention(tape, node, types, weights, form).write()
            nodes.extend(tape.nodes)
            result.graph.initializer.extend(tape.constants)
        else:
            nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    _drop_unused_weights(result)
    return result, groups


def _drop_unused_weights(model: onnx.ModelProto) -> None:
    used = used_names(model.graph)
    weights = model.graph.initializer
    for index in reversed(range(len(weights))):  # a list of those kept would copy them
        if weights[index].name not in used:
            del weights[index]
    opsets = [o for o in model.opset_import if o.domain != OP_DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
