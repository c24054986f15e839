"""Raise the opset of a graph, for what newer operators alone can express.

The conversion is onnx's own. Around it stands what it would lose, such as the notes of nodes, or
could not carry: weights as large as protobuf's limit.
"""

from __future__ import annotations

import onnx
from onnx import helper, version_converter

from edgeattn.errors import GraphError, first_line
from edgeattn.graph.nodes import standard_opset

# Axes, sizes and the like, which the conversion reads, are smaller.
_LARGE_BYTES = 4096


def raise_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Rewrite a graph in a newer opset of the ONNX standard.

    Args:
        model: Any graph; nodes of other domains stay as they are. Not changed.
        opset: At least what the graph shall have.

    Returns:
        A graph that computes the same, with the same names of tensors and nodes; the graph itself
        if it is new enough.

    Raises:
        GraphError: If it holds an operator without a counterpart in the newer opset, or functions
            of its own.
    """
    found = standard_opset(model)
    if found >= opset:
        return model
    hint = f"export it again with opset {opset} or newer"
    if model.functions:
        raise GraphError(
            f"the graph has opset {found}, and opset {opset} is needed; it cannot be raised, for "
            f"functions inside the graph, such as {model.functions[0].name}, are of the old one",
            f"inline them first (onnx.inliner.inline_local_functions), or {hint}",
        )
    large = {t.name: t for t in model.graph.initializer if len(t.raw_data) > _LARGE_BYTES}
    try:
        raised = version_converter.convert_version(_without_weights(model, large), opset)
    except Exception as err:  # the converter raises built-in types
        raise GraphError(
            f"the graph has opset {found}, and onnx cannot raise it to {opset}: {first_line(err)}",
            hint,
        ) from err
    _restore(raised, model)
    return raised


def _without_weights(model: onnx.ModelProto, large: dict[str, onnx.TensorProto]) -> onnx.ModelProto:
    """Copy a graph with some weights as inputs, behind its own."""
    light = onnx.ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    for field in ("node", "input", "output", "sparse_initializer"):
        getattr(graph, field).extend(getattr(model.graph, field))
    given = {value.name for value in model.graph.input}
    graph.initializer.extend(t for t in model.graph.initializer if t.name not in large)
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in large.values()
        if tensor.name not in given
    )
    return light


def _restore(raised: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Give a converted graph back what it lost of the one before it, in place."""
    graph, before = raised.graph, model.graph
    known = {tensor.name for tensor in before.initializer}
    added = [tensor for tensor in graph.initializer if tensor.name not in known]
    for field in ("input", "output", "initializer", "value_info", "quantization_annotation"):
        del getattr(graph, field)[:]
        getattr(graph, field).extend(getattr(before, field))
    graph.initializer.extend(added)
    notes = {name: node for node in before.node for name in node.output if name}
    for node in graph.node:
        old = next((notes[name] for name in node.output if name in notes), None)
        if old is not None and not node.metadata_props:
            node.metadata_props.extend(old.metadata_props)
    raised.metadata_props.extend(model.metadata_props)
    raised.producer_name, raised.producer_version = model.producer_name, model.producer_version
    needed = helper.find_min_ir_version_for(raised.opset_import, ignore_unknown=True)
    raised.ir_version = max(model.ir_version, needed)
