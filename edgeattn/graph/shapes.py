"""Shape inference that passes through attention nodes, which onnx knows nothing of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from edgeattn.errors import GraphError
from edgeattn.graph.files import MAX_INLINE_BYTES, value_shape, weights_bytes
from edgeattn.graph.implied_types import imply_types
from edgeattn.graph.op import is_attention, spec_of_node


@dataclass(frozen=True)
class TensorType:
    """What is known of a tensor before the graph runs.

    Attributes:
        element: ONNX element type; `UNDEFINED` if unknown.
        shape: Sizes, or names of unknown ones; `None` if not even the rank is known.
    """

    element: int
    shape: tuple[int | str, ...] | None


def infer_types(model: onnx.ModelProto, *, strict: bool = False) -> dict[str, TensorType]:
    """Infer the type and shape of every tensor, by name.

    Attention nodes are stood in for by a Gather along the channels, whose output has the same
    shape, and a Cast where it has another type. Weights of a graph too large for protobuf's limit
    are left out of the inference, which then knows their shapes alone. Behind other people's
    operators, of which nothing is known, types are those that the operators around them imply.

    Args:
        model: The graph.
        strict: Refuse what onnx else passes over: nodes whose inputs do not fit each other. Shapes
            that the graph computes are then not followed; see `settle_shapes`.

    Raises:
        GraphError: If the graph contradicts itself, or an attention node is malformed.
    """
    shadow = onnx.ModelProto()
    shadow.CopyFrom(_without_large_weights(model))
    nodes = [
        part
        for node in shadow.graph.node
        for part in (_stand_in(node, shadow) if is_attention(node) else [node])
    ]
    del shadow.graph.node[:]
    shadow.graph.node.extend(nodes)
    try:
        inferred = shape_inference.infer_shapes(
            shadow,
            strict_mode=strict,
            data_prop=not strict,  # which itself trips over sums of tables of indices
        )
    except shape_inference.InferenceError as err:
        raise GraphError(f"the graph contradicts itself: {err}") from err
    types = {
        tensor.name: TensorType(tensor.data_type, tuple(tensor.dims))
        for tensor in model.graph.initializer
    }
    graph = inferred.graph
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor_type = value.type.tensor_type
        shape = value_shape(value) if tensor_type.HasField("shape") else None
        types[value.name] = TensorType(tensor_type.elem_type, shape)
    _imply(model, types)
    return types


def _imply(model: onnx.ModelProto, types: dict[str, TensorType]) -> None:
    """Add what follows from the operators' definitions where inference came to an end."""
    elements = {name: known.element for name, known in types.items() if known.element}
    if all(name in elements for node in model.graph.node for name in node.output if name):
        return
    imply_types(model, elements)
    for name, element in elements.items():
        if name not in types or not types[name].element:
            shape = types[name].shape if name in types else None
            types[name] = TensorType(element, shape)


def at_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Give a graph's inputs fixed shapes.

    Args:
        model: A graph; not changed.
        shapes: Of its inputs, by name; the others stay as they are.

    Returns:
        A copy of it, or the graph itself if no shapes are given.
    """
    if not shapes:
        return model
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    # Noted for other sizes, and in the way of inference.
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape.dim
            del dims[:]
            dims.extend(
                onnx.TensorShapeProto.Dimension(dim_value=size) for size in shapes[value.name]
            )
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    return fixed


def _stand_in(node: onnx.NodeProto, shadow: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Make nodes whose output has the shape and type of an attention node's."""
    spec = spec_of_node(node)
    index = f"{node.output[0]}/stand_in"
    shadow.graph.initializer.append(
        numpy_helper.from_array(np.zeros(spec.out_channels, np.int64), index)
    )
    gather = helper.make_node("Gather", [node.input[0], index], [node.output[0]], axis=3)
    if bool(spec.qkv_quant_scale) == bool(spec.out_quant_scale):
        return [gather]
    gather.output[0] = f"{index}/output"
    element = onnx.TensorProto.INT8 if spec.out_quant_scale else onnx.TensorProto.FLOAT
    return [gather, helper.make_node("Cast", gather.output, node.output, to=element)]


def _without_large_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn weights into graph inputs where copying them would be slow or impossible."""
    if weights_bytes(model) < min(MAX_INLINE_BYTES, 64 << 20):
        return model
    light = onnx.ModelProto()
    graph = light.graph
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    for field in ("node", "input", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    known = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= 4096:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light
