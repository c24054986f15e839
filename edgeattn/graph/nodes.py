"""What single nodes are: of the ONNX standard or not, and whether they only move values."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

import onnx
from onnx import helper

from edgeattn.errors import SpecError
from edgeattn.graph.constants import Constants

# Nodes whose output holds the values of their first input, so that both have the same scale.
MOVING_OPS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def is_standard_domain(domain: str) -> bool:
    """Tell whether a domain is that of the ONNX standard, which has two spellings."""
    return domain in ("", "ai.onnx")


def standard_opset(model: onnx.ModelProto) -> int:
    """Tell a graph's opset of the ONNX standard; 0 if it has none."""
    return max((o.version for o in model.opset_import if is_standard_domain(o.domain)), default=0)


def is_standard(node: onnx.NodeProto, *op_types: str) -> bool:
    """Tell whether a node is one of these operators of the ONNX standard."""
    return node.op_type in op_types and is_standard_domain(node.domain)


def node_label(node: onnx.NodeProto) -> str:
    """Name a node; after its first output if it has no name of its own."""
    return str(node.name or node.output[0])


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Read an attribute of a node; the default if it has none of the name."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def check_node_names(graph: onnx.GraphProto, keep_float: Collection[str]) -> None:
    """Check that a graph has all the nodes that are to stay in float.

    Raises:
        SpecError: If it has not; the hint has near misses.
    """
    names = {node_label(node) for node in graph.node}
    for name in keep_float:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=2)
            raise SpecError(
                f"there is no node named {name!r} to keep in float",
                f"did you mean {' or '.join(close)}?" if close else "see quantize --explain",
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
