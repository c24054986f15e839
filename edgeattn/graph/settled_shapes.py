"""Every shape of a graph whose inputs have fixed sizes, those that the graph computes itself too.

Graphs with open axes compute shapes from shapes, and what onnx infers ends at the first such
computation that it does not follow. Here the values of small tensors are followed through the
nodes: once the inputs' sizes are known, so is everything that depends on them alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

from edgeattn.graph.nodes import is_standard, is_standard_domain
from edgeattn.graph.op import is_attention, spec_of_node
from edgeattn.graph.shapes import at_shapes

_LARGEST_VALUE = 4096  # elements: shapes, axes and masks are small, weights are not
_NOT_FOLLOWED = ("Bernoulli", "If", "Loop", "Multinomial", "RandomNormal", "RandomUniform", "Scan")


def settle_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Note the shape of every tensor for inputs of fixed sizes.

    Args:
        model: A graph; not changed.
        shapes: Of its inputs, by name; the others stay as they are.

    Returns:
        A copy whose `value_info` holds what follows, for `infer_types` to find. Of large weights it
        has type and shape alone: it is there to be counted, not to be run.

    Raises:
        GraphError: If an attention node is malformed.
    """
    fixed = at_shapes(_without_large_data(model), shapes)
    follower = _Follower(fixed)
    for node in fixed.graph.node:
        follower.follow(node)
    for value in fixed.graph.output:
        if value.name in follower.types:
            value.type.CopyFrom(follower.types[value.name])
    ends = {value.name for value in (*fixed.graph.input, *fixed.graph.output)}
    del fixed.graph.value_info[:]
    fixed.graph.value_info.extend(
        onnx.ValueInfoProto(name=name, type=found)
        for name, found in follower.types.items()
        if name not in ends and name not in follower.weights
    )
    return fixed


def _without_large_data(model: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    for name in ("node", "input", "output", "value_info"):
        getattr(light.graph, name).extend(getattr(model.graph, name))
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _LARGEST_VALUE:
            light.graph.initializer.append(tensor)
        else:
            light.graph.initializer.add(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims
            )
    return light


class _Follower:
    """Follows types and small values from node to node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._opset = max(
            (o.version for o in model.opset_import if is_standard_domain(o.domain)), default=1
        )
        self.weights = {tensor.name for tensor in model.graph.initializer}
        self.types = {value.name: value.type for value in model.graph.input}
        self._values: dict[str, NDArray[Any]] = {}
        for tensor in model.graph.initializer:
            self.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            if math.prod(tensor.dims) <= _LARGEST_VALUE:
                self._values[tensor.name] = numpy_helper.to_array(tensor)

    def follow(self, node: onnx.NodeProto) -> None:
        """Note what follows for a node's outputs; nothing where its operator is not known."""
        if is_attention(node):
            self._follow_attention(node)
        elif is_standard_domain(node.domain):
            self._follow_type(node)
            self._follow_value(node)

    def _follow_attention(self, node: onnx.NodeProto) -> None:
        """All but the channels stays as it is."""
        source = self.types.get(node.input[0])
        if source is None or len(source.tensor_type.shape.dim) != 4:
            return
        spec = spec_of_node(node)
        element = source.tensor_type.elem_type
        if bool(spec.qkv_quant_scale) != bool(spec.out_quant_scale):
            element = TensorProto.INT8 if spec.out_quant_scale else TensorProto.FLOAT
        found = onnx.TypeProto()
        found.CopyFrom(source)
        found.tensor_type.elem_type = element
        found.tensor_type.shape.dim[3].dim_value = spec.out_channels
        self.types[node.output[0]] = found

    def _follow_type(self, node: onnx.NodeProto) -> None:
        names = [name for name in node.input if name]
        if any(name not in self.types for name in names):
            return
        values = {
            name: numpy_helper.from_array(self._values[name], name)
            for name in names
            if name in self._values
        }
        try:
            schema = defs.get_schema(node.op_type, self._opset, "")
            found = shape_inference.infer_node_outputs(
                schema,
                node,
                {name: self.types[name] for name in names},
                values,
                opset_imports=list(self._model.opset_import),
                ir_version=self._model.ir_version,
            )
        except (defs.SchemaError, shape_inference.InferenceError):
            return  # the questions about operators and shapes say what is wrong with it
        self.types |= {name: each for name, each in found.items() if name}

    def _follow_value(self, node: onnx.NodeProto) -> None:
        if len(node.output) != 1 or node.op_type in _NOT_FOLLOWED:
            return
        if is_standard(node, "Shape", "Size"):
            value = self._size_of(node)
        elif all(name in self._values for name in node.input if name):
            value = self._evaluate(node)
        else:
            return
        if value is not None and value.size <= _LARGEST_VALUE:
            self._values[node.output[0]] = value
            element = helper.np_dtype_to_tensor_dtype(value.dtype)
            found = helper.make_tensor_type_proto(element, value.shape)
            self.types[node.output[0]] = found

    def _size_of(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        source = self.types.get(node.input[0])
        if source is None or not source.tensor_type.HasField("shape"):
            return None
        dims = source.tensor_type.shape.dim
        if not all(dim.HasField("dim_value") for dim in dims):
            return None
        sizes = [dim.dim_value for dim in dims]
        if node.op_type == "Size":
            return np.array(math.prod(sizes), np.int64)
        limits = {a.name: int(a.i) for a in node.attribute}
        return np.array(sizes[limits.get("start", 0) : limits.get("end", len(sizes))], np.int64)

    def _evaluate(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        from onnx.reference import ReferenceEvaluator  # loads every operator

        names = [name for name in dict.fromkeys(node.input) if name]
        graph = helper.make_graph(
            [node],
            "value",
            [onnx.ValueInfoProto(name=name) for name in names],
            [onnx.ValueInfoProto(name=node.output[0])],
        )
        opsets = [helper.make_opsetid("", self._opset)]
        alone = helper.make_model(graph, opset_imports=opsets, ir_version=self._model.ir_version)
        try:
            (value,) = ReferenceEvaluator(alone).run(None, {n: self._values[n] for n in names})
        except Exception:  # the evaluator raises whatever an operator's code meets
            return None
        return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None
