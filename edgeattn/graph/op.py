"""The ONNX node `edgeattn::MultiScaleWindowAttention` and the spec it stands for.

The op type is unique on purpose: TensorRT's parser ignores the domain.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from edgeattn.errors import GraphError, SpecError
from edgeattn.spec import AttentionSpec

OP_TYPE = "MultiScaleWindowAttention"
OP_DOMAIN = "edgeattn"
OP_VERSION = 1

# How TensorRT's parser finds the plugin; no part of what the node computes.
PLUGIN_ATTRIBUTES = {"plugin_version": "1", "plugin_namespace": ""}


def is_attention(node: onnx.NodeProto) -> bool:
    """Tell whether a node is our operator."""
    return bool(node.op_type == OP_TYPE and node.domain == OP_DOMAIN)


def attention_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """List the attention nodes of a graph in their order."""
    return [node for node in model.graph.node if is_attention(node)]


def make_attention_node(
    spec: AttentionSpec, inputs: Sequence[str], output: str, name: str = ""
) -> onnx.NodeProto:
    """Make a node.

    Args:
        spec: What it computes.
        inputs: Tensor names for `spec.input_names`.
        output: Name of the output tensor.
        name: Name of the node.

    Raises:
        SpecError: If the number of inputs does not fit the spec.
    """
    _check_inputs(spec, inputs)
    node = helper.make_node(OP_TYPE, list(inputs), [output], name=name, domain=OP_DOMAIN)
    attributes = spec.to_attributes() | PLUGIN_ATTRIBUTES
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return node


def spec_of_node(node: onnx.NodeProto) -> AttentionSpec:
    """Read the spec of a node.

    Raises:
        GraphError: If the node is malformed; it names the node.
    """
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for key in PLUGIN_ATTRIBUTES:
        attributes.pop(key, None)
    name = node.name or ", ".join(node.output)
    try:
        if len(node.output) != 1:
            raise SpecError(f"it has {len(node.output)} outputs; expected 1")
        spec = AttentionSpec.from_attributes(attributes)
        _check_inputs(spec, node.input)
    except SpecError as err:
        raise GraphError(f"attention node {name}: {err.message}") from err
    return spec


def _check_inputs(spec: AttentionSpec, inputs: Sequence[str]) -> None:
    # An empty name is ONNX's way to leave an input out; here the attributes say which are there.
    given = [name for name in inputs if name]
    if len(given) != len(spec.input_names) or len(given) != len(inputs):
        raise SpecError(
            f"it has the inputs {', '.join(map(repr, inputs))}; expected "
            f"{len(spec.input_names)}: {', '.join(spec.input_names)}"
        )
