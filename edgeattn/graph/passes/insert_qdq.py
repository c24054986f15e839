"""Write symmetric INT8 into a graph as explicit Q/DQ nodes.

An activation gets one QuantizeLinear → DequantizeLinear pair, which all its quantized consumers
share, those behind a Reshape or Transpose too; the others read the float tensor. A weight becomes
an INT8 initializer with one scale per output channel and a DequantizeLinear. Biases stay in float.
Which nodes these are is `edgeattn.graph.placement`'s choice.

References:
    TensorRT's explicit quantization, NvInfer.h, IQuantizeLayer and IDequantizeLayer: symmetric,
    scales constant and positive, zero points zero, per channel on constants only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeattn.errors import TableError
from edgeattn.graph.constants import Constants, drop_orphans, used_names
from edgeattn.graph.int8 import is_quant_scale, quantize_per_channel, rounding_sqnr_db
from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import moving_nodes, node_label
from edgeattn.graph.placement import (
    Decision,
    LinearNode,
    Placement,
    QuantizedRead,
    Recipe,
    place_qdq,
)


def insert_qdq(
    model: onnx.ModelProto,
    scales: Mapping[str, float],
    recipe: Recipe = "linear",
    keep_float: Collection[str] = (),
) -> tuple[onnx.ModelProto, list[Decision]]:
    """Quantize a graph.

    Args:
        model: A float graph; not changed.
        scales: Real value of one integer step of each activation in
            `place_qdq(model, recipe, keep_float)`; further ones of `place_qdq(model, "full")` are
            not used.
        recipe: How much to quantize.
        keep_float: Names of nodes that are not quantized.

    Returns:
        The quantized graph, and what became of each tensor and why.

    Raises:
        GraphError: As `place_qdq`.
        SpecError: As `place_qdq`.
        TableError: If a scale is missing, of a tensor that no recipe needs, or not finite and
            positive.
    """
    placement = place_qdq(model, recipe, keep_float)
    _check_scales(model, placement.activations, scales)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    return quantized, _Inserter(quantized, scales).insert(placement)


class _Inserter:
    """Rewrites a graph in place."""

    def __init__(self, model: onnx.ModelProto, scales: Mapping[str, float]) -> None:
        self._model = model
        self._constants = Constants(model)
        self._scales = scales
        self._names = FreshNames(model.graph)
        self._moves = moving_nodes(model.graph)
        self._nodes: list[onnx.NodeProto] = []
        self._activations: dict[tuple[str, float], str] = {}
        self._outputs: dict[str, str] = {}
        self._weights: dict[tuple[str, int], tuple[str, float | None]] = {}

    def insert(self, placement: Placement) -> list[Decision]:
        graph = self._model.graph
        used_before = used_names(graph)
        decisions: list[Decision] = []
        for index, node in enumerate(graph.node):
            self._read_rounded_outputs(node)
            if index in placement.linears:
                decisions += self._quantize_layer(node, placement.linears[index])
            for read in placement.reads.get(index, ()):
                decisions.append(self._quantize_read(node, read))
            decisions += placement.floats.get(index, ())
            self._nodes.append(node)
            if index in placement.outputs:
                decisions.append(self._quantize_output(node))
        nodes = self._nodes
        del graph.node[:]
        graph.node.extend(nodes)
        drop_orphans(self._model, used_before)
        return decisions

    def _read_rounded_outputs(self, node: onnx.NodeProto) -> None:
        for slot, name in enumerate(node.input):
            node.input[slot] = self._outputs.get(name, name)

    def _quantize_layer(self, node: onnx.NodeProto, linear: LinearNode) -> list[Decision]:
        weight, axis = linear.weight, linear.channel_axis
        if (weight, axis) not in self._weights:
            self._weights[weight, axis] = self._add_weight(weight, axis)
        node.input[0] = self._rounded(node.input[0], self._scales[linear.activation])
        node.input[1], sqnr_db = self._weights[weight, axis]
        name, op_type = node_label(node), node.op_type
        return [
            Decision(name, op_type, linear.activation, True, f"input of {op_type}: one scale"),
            Decision(
                name,
                op_type,
                weight,
                True,
                f"weight of {op_type}: a scale per output channel (axis {axis})",
                sqnr_db,
            ),
        ]

    def _quantize_read(self, node: onnx.NodeProto, read: QuantizedRead) -> Decision:
        scale = read.quant_scale or self._scales[read.activation]
        node.input[read.slot] = self._rounded(node.input[read.slot], scale)
        return Decision(node_label(node), node.op_type, read.activation, True, read.reason)

    def _quantize_output(self, node: onnx.NodeProto) -> Decision:
        """Let all that follow read the rounded output: the node can then write INT8."""
        tensor = node.output[0]
        scale = self._scales[tensor]
        rounded = self._rounded(tensor, scale)
        self._outputs[tensor] = rounded
        self._activations[rounded, scale] = rounded  # not once more for a layer that reads it
        reason = "output of attention: one scale"
        return Decision(node_label(node), node.op_type, tensor, True, reason)

    def _rounded(self, tensor: str, scale: float) -> str:
        """Name what quantized consumers read in a tensor's place, adding it if need be."""
        key = (tensor, scale)
        if key not in self._activations:
            move = self._moves.get(tensor)
            self._activations[key] = (
                self._add_move(move, scale) if move else self._add_activation_pair(tensor, scale)
            )
        return self._activations[key]

    def _add_move(self, node: onnx.NodeProto, scale: float) -> str:
        """Repeat a node that moves values on the quantized tensor; the old one may lose its use."""
        source = self._rounded(node.input[0], scale)
        if node.op_type == "Identity":
            return source
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[0] = source
        copy.output[0] = self._names.new(f"{node.output[0]}_dequantized")
        copy.name = self._names.new(f"{node_label(node)}_dequantized")
        self._nodes.append(copy)
        return copy.output[0]

    def _add_activation_pair(self, tensor: str, scale: float) -> str:
        constants = [
            self._add_initializer(f"{tensor}_quant_scale", np.float32(scale)),
            self._add_initializer(f"{tensor}_zero_point", np.int8(0)),
        ]
        integers = self._names.new(f"{tensor}_quantized")
        self._add_node("QuantizeLinear", [tensor, *constants], integers)
        output = self._names.new(f"{tensor}_dequantized")
        return self._add_node("DequantizeLinear", [integers, *constants], output)

    def _add_weight(self, name: str, axis: int) -> tuple[str, float | None]:
        weight = self._constants.value(name)
        integers, scales = quantize_per_channel(weight, axis)
        inputs = [
            self._add_initializer(f"{name}_int8", integers),
            self._add_initializer(f"{name}_quant_scale", scales),
            self._add_initializer(f"{name}_zero_point", np.zeros(scales.size, np.int8)),
        ]
        output = self._names.new(f"{name}_dequantized")
        return (
            self._add_node("DequantizeLinear", inputs, output, axis=axis),
            rounding_sqnr_db(weight, integers, scales, axis),
        )

    def _add_node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = self._names.new(f"{output}_{op_type}")
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def _add_initializer(self, name: str, values: Any) -> str:
        name = self._names.new(name)
        tensor = numpy_helper.from_array(np.asarray(values), name)
        self._model.graph.initializer.append(tensor)
        return name


def _check_scales(
    model: onnx.ModelProto, tensors: tuple[str, ...], scales: Mapping[str, float]
) -> None:
    hint = "calibrate this graph"
    missing = [name for name in tensors if name not in scales]
    if missing:
        raise TableError(
            f"{len(missing)} of {len(tensors)} tensors have no scale, the first is {missing[0]}",
            hint,
        )
    unknown = scales.keys() - set(tensors)
    if unknown:
        unknown -= set(place_qdq(model, "full").activations)
    if unknown:
        raise TableError(f"there is a scale of {min(unknown)}, which the graph does not need", hint)
    for name in tensors:
        if not is_quant_scale(scales[name]):
            raise TableError(
                f"the scale of {name} is {scales[name]}; expected a positive float32", hint
            )
