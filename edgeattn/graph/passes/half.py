"""Write FP16 or BF16 into a float32 graph, for strongly typed networks.

`edgeattn.graph.half_placement` says which nodes compute in the half type. Here their constants are
converted, once each, and a Cast is put where a tensor changes its type, once for all that read it.
Q/DQ need none: QuantizeLinear takes the type that is there, and DequantizeLinear is written once
for each type that its readers want, all with the same scale.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.constants import (
    captured_names,
    constant_tensors,
    drop_orphans,
    subgraphs,
    used_names,
)
from edgeattn.graph.half_placement import NodeDecision, place_half
from edgeattn.graph.half_slots import FOLLOWERS, Slots, is_flexible
from edgeattn.graph.half_types import HALF_TYPES, HalfType, as_half, scale_misfit
from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import MOVING_OPS, is_standard, node_label
from edgeattn.graph.shapes import infer_types


def convert_to_half(
    model: onnx.ModelProto,
    half: HalfType,
    overflows: Mapping[str, float] | None = None,
    *,
    keep_float: Collection[str] = (),
    keep_io: bool = True,
) -> tuple[onnx.ModelProto, list[NodeDecision]]:
    """Convert a graph.

    The scales of Q/DQ become numbers of the half type, also where they are held in float32: both
    ends of a pair have the same.

    Args:
        model: A float32 graph, attention nodes and Q/DQ included; not changed.
        half: `float16` or `bfloat16`.
        overflows: Tensors that have to stay float32, and the largest magnitude of each.
        keep_float: Names of nodes to leave in float32.
        keep_io: Leave the graph's inputs and outputs float32.

    Returns:
        The converted graph, and what became of each node and why.

    Raises:
        GraphError: If the graph holds tensors of a half type already, or Q/DQ below opset 19.
        SpecError: If there is no node of a name to keep.
    """
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    _drop_idle_casts(converted)
    placement = place_half(converted, half, overflows, keep_float=keep_float, keep_io=keep_io)
    _Converter(converted, half, placement.slots, set(placement.float_nodes), keep_io).convert()
    return converted, placement.decisions


def _drop_idle_casts(model: onnx.ModelProto) -> None:
    """Turn Casts from float32 to float32 into what they do, which any type can do."""
    types = infer_types(model)
    for node in model.graph.node:
        if is_standard(node, "Cast") and all(
            name in types and types[name].element == TensorProto.FLOAT
            for name in (*node.input, *node.output)
        ):
            identity = helper.make_node("Identity", node.input, node.output, name=node.name)
            node.CopyFrom(identity)


class _Converter:
    """Rewrites a graph in place."""

    def __init__(
        self,
        model: onnx.ModelProto,
        half: HalfType,
        slots: Mapping[int, Slots],
        float_nodes: set[int],
        keep_io: bool,
    ) -> None:
        self._model, self._graph = model, model.graph
        self._half, self._element = half, HALF_TYPES[half]
        self._slots, self._float_nodes = slots, float_nodes
        self._keep_io = keep_io
        self._names = FreshNames(model.graph)
        self._constants = constant_tensors(model.graph)
        self._dequantizers = {
            node.output[0]: node for node in self._graph.node if is_flexible(node, self._constants)
        }
        self._moves: dict[str, onnx.NodeProto] = {}  # of dequantized values, as they are now
        for node in self._graph.node:
            if is_standard(node, *MOVING_OPS) and (
                node.input[0] in self._dequantizers or node.input[0] in self._moves
            ):
                self._moves[node.output[0]] = onnx.NodeProto()
                self._moves[node.output[0]].CopyFrom(node)
        self._casts = {
            node.output[0]: node.input[0] for node in self._graph.node if is_standard(node, "Cast")
        }
        self._nodes: list[onnx.NodeProto] = []
        # The element type of each tensor made so far, and its name in the other one.
        self._made: dict[str, int] = {}
        self._versions: dict[tuple[str, int], str] = {}
        self._scales: dict[str, np.ndarray] = {}
        self._scale_names: dict[tuple[str, int], str] = {}

    def convert(self) -> None:
        graph = self._graph
        used_before = used_names(graph)
        if not self._keep_io:
            for value in graph.input:
                if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                    value.type.tensor_type.elem_type = self._element
                    self._made[value.name] = self._element
        ends = {} if self._keep_io else self._half_outputs()
        for i, node in enumerate(graph.node):
            if node.output[:1] and node.output[0] in self._dequantizers:
                continue  # written where its readers are known
            self._convert_node(node, self._slots[i], is_half=i not in self._float_nodes)
        for value in graph.output:
            self._finish(value.name, ends.get(value.name, TensorProto.FLOAT))
        nodes = self._nodes
        del graph.node[:], graph.value_info[:]  # the types written there change
        graph.node.extend(nodes)
        drop_orphans(self._model, used_before | used_names(graph))

    def _half_outputs(self) -> dict[str, int]:
        for value in self._graph.output:
            is_float = value.type.tensor_type.elem_type == TensorProto.FLOAT
            if is_float and value.name not in self._constants:
                value.type.tensor_type.elem_type = self._element
        return {value.name: value.type.tensor_type.elem_type for value in self._graph.output}

    def _convert_node(self, node: onnx.NodeProto, slots: Slots, *, is_half: bool) -> None:
        if is_standard(node, *FOLLOWERS):
            self._follow(node)
        for k in slots.inputs:
            wanted = self._element if is_half else TensorProto.FLOAT
            node.input[k] = self._as(node.input[k], wanted)
        for k in slots.fixed:
            node.input[k] = self._as(node.input[k], TensorProto.FLOAT)
        if is_half and is_standard(node, "Attention"):
            _guard_softmax(node)
        self._serve_bodies(node)
        self._nodes.append(node)
        if is_half:
            self._made.update((node.output[k], self._element) for k in slots.outputs)

    def _follow(self, node: onnx.NodeProto) -> None:
        """Let a node read the type that is there."""
        source = node.input[0]
        has_fixed_scale = node.op_type == "QuantizeLinear" and node.input[1] not in self._constants
        if source in self._dequantizers or has_fixed_scale:
            node.input[0] = self._as(source, TensorProto.FLOAT)
        if node.op_type == "QuantizeLinear" and not has_fixed_scale:
            node.input[1] = self._scale(node.input[1], self._type_of(source))

    def _type_of(self, name: str) -> int:
        return self._made.get(name, TensorProto.FLOAT)

    def _as(self, name: str, element: int) -> str:
        """Name a tensor in a type, making that version of it if need be."""
        key = (name, element)
        if key not in self._versions:
            if name in self._dequantizers:
                self._versions[key] = self._dequantized(name, element)
            elif self._type_of(name) == element:
                self._versions[key] = name
            elif name in self._constants:
                self._versions[key] = self._half_constant(name)
            elif name in self._moves:
                self._versions[key] = self._moved(name, element)
            else:
                self._versions[key] = self._cast(name, element)
        return self._versions[key]

    def _suffix(self, element: int) -> str:
        return self._half if element == self._element else "float32"

    def _cast(self, name: str, element: int) -> str:
        """Cast a tensor; what is a Cast itself is cast from its own source."""
        output = self._names.new(f"{name}_{self._suffix(element)}")
        source = self._casts.get(name, name)
        self._nodes.append(helper.make_node("Cast", [source], [output], name=output, to=element))
        self._made[output] = element
        return output

    def _half_constant(self, name: str) -> str:
        values = numpy_helper.to_array(self._constants[name])
        copy = self._names.new(f"{name}_{self._half}")
        self._graph.initializer.append(numpy_helper.from_array(as_half(values, self._half), copy))
        return copy

    def _dequantized(self, name: str, element: int) -> str:
        """Write a DequantizeLinear whose output is of a type."""
        node = onnx.NodeProto()
        node.CopyFrom(self._dequantizers[name])
        is_first = not any(tensor == name for tensor, _ in self._versions)
        if not is_first:
            node.output[0] = self._names.new(f"{name}_{self._suffix(element)}")
            node.name = self._names.new(f"{node_label(node)}_{self._suffix(element)}")
        node.input[1] = self._scale(node.input[1], element)
        self._nodes.append(node)
        self._made[node.output[0]] = element
        return node.output[0]

    def _moved(self, name: str, element: int) -> str:
        """Repeat a node that moves dequantized values; a Cast would part them from their reader."""
        node = onnx.NodeProto()
        node.CopyFrom(self._moves[name])
        node.input[0] = self._as(node.input[0], element)
        node.output[0] = self._names.new(f"{name}_{self._suffix(element)}")
        node.name = self._names.new(f"{node_label(node)}_{self._suffix(element)}")
        self._nodes.append(node)
        self._made[node.output[0]] = element
        return node.output[0]

    def _rounded_scale(self, name: str) -> np.ndarray:
        """Give a scale as a number of the half type, held in float32.

        Where that would lose too much, all that reads the scale is float32.
        """
        if name not in self._scales:
            scale = numpy_helper.to_array(self._constants[name])
            is_half = not scale_misfit(scale, self._half)
            rounded = as_half(scale, self._half).astype(np.float32)
            self._scales[name] = rounded if is_half else scale
        return self._scales[name]

    def _scale(self, name: str, element: int) -> str:
        """Name a scale in a type; Q and DQ of either type have the same value."""
        key = (name, element)
        if key not in self._scale_names:
            values = self._rounded_scale(name)
            copy = self._names.new(f"{name}_{self._suffix(element)}")
            array = as_half(values, self._half) if element == self._element else values
            self._graph.initializer.append(numpy_helper.from_array(array, copy))
            self._scale_names[key] = copy
        return self._scale_names[key]

    def _serve_bodies(self, node: onnx.NodeProto) -> None:
        """Let the bodies of control flow read float32, as they did."""
        if not subgraphs(node):
            return
        shell = onnx.GraphProto()
        shell.node.append(node)
        for name in sorted(captured_names(shell)):
            if name in self._dequantizers or self._type_of(name) == self._element:
                _rename_inside(node, {name: self._as(name, TensorProto.FLOAT)})

    def _finish(self, name: str, element: int) -> None:
        """Give a graph output its name and type."""
        if name in self._dequantizers:
            made = self._as(name, element)
        elif name not in self._made and element != self._element:
            return
        else:
            made = self._as(name, element)
        if made == name:
            return
        renamed = {name: self._names.new(f"{name}_{self._suffix(self._type_of(name))}"), made: name}
        for node in self._nodes:
            for names in (node.input, node.output):
                for k, found in enumerate(names):
                    names[k] = renamed.get(found, found)
            _rename_inside(node, renamed)


def _guard_softmax(node: onnx.NodeProto) -> None:
    """Let the standard's own attention take its softmax in float32, unless it says otherwise."""
    if not any(attribute.name == "softmax_precision" for attribute in node.attribute):
        node.attribute.append(helper.make_attribute("softmax_precision", TensorProto.FLOAT))


def _rename_inside(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Rename tensors that the bodies of a node read from outside."""
    for body in subgraphs(node):
        own = {value.name for value in (*body.input, *body.initializer)}
        own.update(name for inner in body.node for name in inner.output)
        outside = {old: new for old, new in renamed.items() if old not in own}
        for inner in body.node:
            for k, name in enumerate(inner.input):
                inner.input[k] = outside.get(name, name)
            _rename_inside(inner, outside)
        for value in body.output:
            value.name = outside.get(value.name, value.name)
