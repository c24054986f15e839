"""Read the Q/DQ pairs of a quantized graph: where a tensor is rounded, and by which scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from edgeattn.graph.constants import Constants
from edgeattn.graph.int8 import is_quant_scale
from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import is_standard, moving_nodes, node_label


@dataclass(frozen=True)
class Dequantized:
    """Where a tensor has its values from, if that is INT8.

    Attributes:
        integers: The INT8 tensor.
        quant_scale: Real value of one integer step.
        moves: Nodes that move the values between the DequantizeLinear and the tensor, in order.
    """

    integers: str
    quant_scale: float
    moves: tuple[onnx.NodeProto, ...]


class QdqPairs:
    """The QuantizeLinear and DequantizeLinear nodes of activations in a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._constants = Constants(model)
        self._moves = moving_nodes(model.graph)
        self._producer = {node.output[0]: node for node in model.graph.node}

    def origin(self, tensor: str) -> Dequantized | None:
        """Trace a tensor back to INT8 through nodes that only move values; `None` if it is not."""
        moves: list[onnx.NodeProto] = []
        while tensor in self._moves:
            moves.insert(0, self._moves[tensor])
            tensor = moves[0].input[0]
        node = self._producer.get(tensor)
        if node is None or not is_standard(node, "DequantizeLinear"):
            return None
        scale = self.quant_scale(node)
        return Dequantized(node.input[0], scale, tuple(moves)) if scale else None

    def unrounded(self, integers: str) -> str | None:
        """Name the tensor that was rounded to an INT8 tensor; `None` if no node did."""
        node = self._producer.get(integers)
        return node.input[0] if node is not None and is_standard(node, "QuantizeLinear") else None

    def quant_scale(self, node: onnx.NodeProto) -> float | None:
        """Read the one constant scale of a symmetric INT8 Q or DQ node; `None` if it is not so."""
        if len(node.input) < 3 or not all(name in self._constants for name in node.input[1:]):
            return None
        scale, zero = (self._constants.value(name) for name in node.input[1:])
        if scale.size != 1 or zero.dtype != np.int8 or zero.any():
            return None
        value = float(scale.reshape(()))
        return value if is_quant_scale(value) else None


def replay(
    moves: Iterable[onnx.NodeProto], source: str, suffix: str, names: FreshNames
) -> tuple[list[onnx.NodeProto], str]:
    """Repeat nodes that move values on another tensor.

    Args:
        moves: The nodes, each reading the one before it.
        source: Tensor for the first.
        suffix: What their new names end in.
        names: Of the graph.

    Returns:
        The nodes, and the name of the last one's output.
    """
    copies = []
    for move in moves:
        copy = onnx.NodeProto()
        copy.CopyFrom(move)
        copy.input[0] = source
        copy.output[0] = source = names.new(f"{move.output[0]}{suffix}")
        copy.name = names.new(f"{node_label(move)}{suffix}")
        copies.append(copy)
    return copies, source
