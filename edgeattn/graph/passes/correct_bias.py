"""Add to the output of layers, channel by channel, through their biases.

Rounding weights and activations shifts the mean of a layer's output, and what follows reads that
shift in every sample and at every place. It is known before the graph runs, so the bias takes it
away: no arithmetic is added where a layer has a bias already.

References:
    Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019,
    section 4.2 (arXiv:1906.04721).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeattn.graph.constants import Constants, drop_orphans, subgraphs, used_names
from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import is_standard, node_label
from edgeattn.graph.placement import Decision


def correct_bias(
    model: onnx.ModelProto, shifts: Mapping[str, NDArray[np.float32]]
) -> tuple[onnx.ModelProto, list[Decision]]:
    """Shift the outputs of layers.

    Args:
        model: Not changed.
        shifts: What to add to each channel, `[C]` float32, by the output's name: of a Conv, along
            axis 1, of a Gemm or MatMul, along the last.

    Returns:
        The shifted graph, and what was added to each layer.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    corrector = _Corrector(corrected)
    used_before = used_names(corrected.graph)
    decisions = corrector.correct(shifts)
    drop_orphans(corrected, used_before)
    return corrected, decisions


class _Corrector:
    """Rewrites a graph in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = Constants(model)
        self._names = FreshNames(model.graph)
        self._nodes: list[onnx.NodeProto] = []
        self._kept = {value.name for value in model.graph.output}
        for node in model.graph.node:
            self._kept |= {name for body in subgraphs(node) for name in used_names(body)}

    def correct(self, shifts: Mapping[str, NDArray[np.float32]]) -> list[Decision]:
        decisions = []
        for node in self._graph.node:
            self._nodes.append(node)
            shift = shifts.get(node.output[0])
            if shift is not None and shift.any():
                decisions.append(self._shift(node, shift))
        nodes = self._nodes
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        return decisions

    def _shift(self, node: onnx.NodeProto, shift: NDArray[np.float32]) -> Decision:
        output = node.output[0]
        if is_standard(node, "MatMul"):
            bias = self._shift_sum(output, shift)
        else:
            bias = self._shift_bias(node, shift)
        bias = bias or self._add_sum(node, shift)
        largest = float(np.abs(shift).max(initial=0.0))
        reason = f"bias: takes away the mean error of INT8, at most {largest:.3g} in a channel"
        return Decision(node_label(node), node.op_type, bias, False, reason)

    def _shift_bias(self, node: onnx.NodeProto, shift: NDArray[np.float32]) -> str:
        """Shift the bias of a Conv or Gemm; name it, or nothing if it is not constant."""
        beta = next((a for a in node.attribute if a.name == "beta"), None)
        bias = node.input[2] if len(node.input) > 2 else ""
        if beta is not None and beta.f == 0:  # the bias there is counts for nothing
            node.attribute.remove(beta)
            bias, beta = "", None
        if bias and bias not in self._constants:
            return ""
        values = self._constants.value(bias) if bias else np.zeros_like(shift)
        name = self._add_constant(
            f"{bias}_corrected" if bias else f"{node.output[0]}_bias",
            values + shift / np.float32(beta.f if beta is not None else 1),
        )
        del node.input[2:]
        node.input.append(name)
        return name

    def _shift_sum(self, output: str, shift: NDArray[np.float32]) -> str:
        """Shift the constant that a node adds to a MatMul; name it, or nothing if none does."""
        readers = [node for node in self._graph.node if output in node.input]
        if output in self._kept or len(readers) != 1 or not is_standard(readers[0], "Add"):
            return ""
        reader = readers[0]
        slot = 1 - list(reader.input).index(output)
        if reader.input[slot] not in self._constants:
            return ""
        values = self._constants.value(reader.input[slot]) + shift
        reader.input[slot] = self._add_constant(f"{reader.input[slot]}_corrected", values)
        return str(reader.input[slot])

    def _add_sum(self, node: onnx.NodeProto, shift: NDArray[np.float32]) -> str:
        """Add a node that shifts the output."""
        output = node.output[0]
        if is_standard(node, "Conv"):
            places = self._constants.value(node.input[1]).ndim - 2
            shift = shift.reshape(-1, *[1] * places)
        name = self._add_constant(f"{output}_shift", shift)
        node.name = node_label(node)  # nodes without a name are named after their output
        node.output[0] = self._names.new(f"{output}_unshifted")
        label = self._names.new(f"{output}_Add")
        added = helper.make_node("Add", [node.output[0], name], [output], name=label)
        self._nodes.append(added)
        return name

    def _add_constant(self, name: str, values: NDArray[Any]) -> str:
        name = self._names.new(name)
        tensor = numpy_helper.from_array(np.asarray(values, np.float32), name)
        self._graph.initializer.append(tensor)
        return name
