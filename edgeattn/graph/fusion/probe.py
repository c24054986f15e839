"""A graph at one size of its inputs: the shape of each tensor, each value that no data changes.

Nothing of the data is computed. Values are computed when they are asked for: shapes, positions,
masks and tables, whether constant or made from the inputs' sizes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, checker, defs, helper, numpy_helper, shape_inference

from edgeattn.errors import GraphError
from edgeattn.graph.constants import is_deterministic, subgraphs
from edgeattn.graph.fusion.misfits import is_misfit
from edgeattn.graph.nodes import is_standard, is_standard_domain, node_label, standard_opset
from edgeattn.graph.op import is_attention, spec_of_node

# Shape inference reads the values of small integer tensors: shapes, axes, starts and ends.
_MAX_SHAPE_ENTRIES = 64
_LARGE_BYTES = 1 << 20
_MISFITS = (
    checker.ValidationError,
    defs.SchemaError,
    shape_inference.InferenceError,
    RuntimeError,
    KeyError,
)


class Probe:
    """A graph looked at with inputs of one size.

    Args:
        model: The graph.
        shapes: Shape of each input.

    Attributes:
        producer: The node that makes each tensor.

    Raises:
        GraphError: If the graph cannot have inputs of these shapes.
    """

    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
        self._opsets = list(model.opset_import)
        self._ir_version = model.ir_version
        self._opset = standard_opset(model)
        self.producer = {name: node for node in model.graph.node for name in node.output if name}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._types: dict[str, onnx.TypeProto] = {
            name: helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            for name, tensor in self._weights.items()
        }
        self._known = set(self._weights)
        self._values: dict[str, NDArray[Any]] = {}
        for value in model.graph.input:
            if value.name not in self._weights:
                element = value.type.tensor_type.elem_type
                self._types[value.name] = helper.make_tensor_type_proto(element, shapes[value.name])
        for node in model.graph.node:
            self._look_at(node)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Give the shape of a tensor; `None` if it depends on data or was not found."""
        kind = self._types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        dims = kind.tensor_type.shape.dim
        if not all(dim.HasField("dim_value") for dim in dims):
            return None
        return tuple(dim.dim_value for dim in dims)

    def element(self, name: str) -> int:
        """Give the ONNX element type of a tensor; `UNDEFINED` if it is not known."""
        kind = self._types.get(name)
        return kind.tensor_type.elem_type if kind is not None else TensorProto.UNDEFINED

    def is_known(self, name: str) -> bool:
        """Tell whether no data changes a tensor at this size."""
        return name in self._known

    def value(self, name: str) -> NDArray[Any]:
        """Compute a tensor that no data changes.

        Raises:
            GraphError: If a node cannot be evaluated.
        """
        waiting = [name]
        while waiting:
            current = waiting[-1]
            if current in self._values or current in self._weights:
                waiting.pop()
                continue
            node = self.producer[current]
            missing = [
                one
                for one in _evaluation_inputs(node)
                if one not in self._values and one not in self._weights
            ]
            if missing:
                waiting += missing
            else:
                self._values.update(zip(node.output, self._evaluate(node), strict=False))
        return self._stored(name)

    def forget_large(self) -> None:
        """Drop values that take memory, such as masks: they are computed again if asked for."""
        large = [name for name, value in self._values.items() if value.nbytes > _LARGE_BYTES]
        for name in large:
            del self._values[name]

    def _stored(self, name: str) -> NDArray[Any]:
        """Give what was computed, or a weight, which is kept once."""
        if name in self._values:
            return self._values[name]
        return np.asarray(numpy_helper.to_array(self._weights[name]))

    def _look_at(self, node: onnx.NodeProto) -> None:
        if is_attention(node):
            self._look_at_attention(node)
            return
        if not is_standard_domain(node.domain) or subgraphs(node):
            return
        if node.op_type in ("Shape", "Size") and self.shape(node.input[0]) is not None:
            known = True
        else:
            known = is_deterministic(node) and all(
                name in self._known for name in node.input if name
            )
        if known:
            self._known.update(filter(None, node.output))
        self._types.update(self._infer(node))
        if is_misfit(node, self.shape):
            raise _misfit(node)

    def _look_at_attention(self, node: onnx.NodeProto) -> None:
        shape = self.shape(node.input[0])
        if shape is not None:
            out = (*shape[:-1], spec_of_node(node).out_channels)
            element = self.element(node.input[0])
            self._types[node.output[0]] = helper.make_tensor_type_proto(element, out)

    def _infer(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """Infer the types of a node's outputs; of a small integer one by its value."""
        given = {name: self._types[name] for name in node.input if name in self._types}
        data = {}
        for name in given:
            if name in self._known and self._is_small_integer(name):
                data[name] = numpy_helper.from_array(self.value(name), name)
        try:
            schema = defs.get_schema(node.op_type, self._opset, "")
            inferred = shape_inference.infer_node_outputs(
                schema, node, given, data, opset_imports=self._opsets, ir_version=self._ir_version
            )
        except _MISFITS as err:
            raise _misfit(node) from err
        return dict(inferred)

    def _is_small_integer(self, name: str) -> bool:
        shape = self.shape(name)
        return (
            shape is not None
            and int(np.prod(shape, dtype=np.int64)) <= _MAX_SHAPE_ENTRIES
            and self.element(name) in (TensorProto.INT64, TensorProto.INT32)
        )

    def _evaluate(self, node: onnx.NodeProto) -> list[NDArray[Any]]:
        if node.op_type == "Shape":
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            shape = self.shape(node.input[0])
            assert shape is not None  # or it would not be known
            return [
                np.array(shape[attributes.get("start", 0) : attributes.get("end", sys.maxsize)])
            ]
        if node.op_type == "Size":
            shape = self.shape(node.input[0])
            assert shape is not None
            return [np.array(int(np.prod(shape, dtype=np.int64)))]
        values = [self._stored(name) if name else None for name in node.input]
        return run_node(node, values, self._opset)


def _misfit(node: onnx.NodeProto) -> GraphError:
    return GraphError(f"node {node_label(node)} does not fit inputs of this size")


def run_node(
    node: onnx.NodeProto, values: Sequence[NDArray[Any] | None], opset: int
) -> list[NDArray[Any]]:
    """Run one node of the ONNX standard.

    Args:
        node: The node.
        values: Of its inputs; `None` for one that is left out.
        opset: Version of the standard.

    Raises:
        GraphError: If it cannot be run.
    """
    try:
        if is_standard(node, "GatherND") and not any(a.i for a in node.attribute):
            data, indices = (np.asarray(value) for value in values)
            return [data[tuple(np.moveaxis(indices, -1, 0))]]  # the evaluator's loop takes seconds
        return _evaluated(node, values, opset)
    except Exception as err:  # the evaluator raises whatever an operator's code meets
        raise GraphError(f"node {node_label(node)} cannot be evaluated: {err}") from err


def _evaluated(
    node: onnx.NodeProto, values: Sequence[NDArray[Any] | None], opset: int
) -> list[NDArray[Any]]:
    from onnx.reference import ReferenceEvaluator  # loads every operator

    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    names = [f"x{i}" if value is not None else "" for i, value in enumerate(values)]
    del alone.input[:]
    alone.input.extend(names)
    graph = helper.make_graph(
        [alone],
        "node",
        [onnx.ValueInfoProto(name=name) for name in names if name],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = {name: v for name, v in zip(names, values, strict=True) if v is not None}
    results = iter(ReferenceEvaluator(model).run(None, feeds))
    return [np.asarray(next(results)) if name else np.empty(0) for name in node.output]


def _evaluation_inputs(node: onnx.NodeProto) -> list[str]:
    """List what must be computed before a node: of Shape and Size, nothing."""
    return [] if node.op_type in ("Shape", "Size") else [name for name in node.input if name]
