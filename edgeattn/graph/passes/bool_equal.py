"""Compare truth values by Xor and Not: TensorRT's Equal takes numbers alone.

Exporters write `Equal(mask, false)` for the negation of a mask.

References:
    NvInfer.h of 10.3 to 11.1, ElementWiseOperation: kEQUAL has no kBOOL, kXOR has nothing else.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import is_standard, node_label
from edgeattn.graph.shapes import infer_types


def rewrite_bool_equal(model: onnx.ModelProto) -> None:
    """Rewrite each Equal of BOOL in place: `a == b` is `not (a xor b)`.

    Args:
        model: Its node keeps its name and output, and becomes the Not.
    """
    if not any(is_standard(node, "Equal") for node in model.graph.node):
        return
    types, names = infer_types(model), FreshNames(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        known = types.get(node.input[0]) if is_standard(node, "Equal") else None
        if known is not None and known.element == TensorProto.BOOL:
            differ = names.new(f"{node.output[0]}/differ")
            name = names.new(f"{node_label(node)}/Xor")
            nodes.append(helper.make_node("Xor", node.input, [differ], name))
            node = helper.make_node("Not", [differ], node.output, node.name)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
