"""Nodes that let a positive factor per channel pass: `f(x * s) = f(x) * s` for the channels' s > 0.

They move channels as wholes, drop or repeat places, fill with zeros, average or take maxima over
places, or let every value through or not by its sign. Where the channels' axis ends up follows from
shapes and constants alone; what cannot be known before the graph runs counts as an obstacle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import onnx
from onnx import helper

from edgeattn.graph.constants import Constants
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.shapes import TensorType

_ELEMENTWISE = ("Identity", "LeakyRelu", "Relu")
_RESHAPES = ("Flatten", "Reshape")
_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
_POOLINGS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")


class ChannelMoves:
    """Says where the channels of a node's input are in its outputs.

    Args:
        model: The graph.
        constants: Its constants.
        types: Its tensors' types and shapes.
    """

    def __init__(
        self, model: onnx.ModelProto, constants: Constants, types: Mapping[str, TensorType]
    ) -> None:
        self._constants = constants
        self._types = types
        self._producers = {name: node for node in model.graph.node for name in node.output}
        rules: dict[tuple[str, ...], Callable[[onnx.NodeProto, int, int], int | None]] = {
            _ELEMENTWISE: lambda node, axis, rank: axis,
            _RESHAPES: self._reshape,
            _REDUCTIONS: self._reduce,
            _POOLINGS: lambda node, axis, rank: axis if axis == 1 else None,
            ("Concat", "Split"): self._join,
            ("Gather",): self._gather,
            ("Pad",): self._pad,
            ("Slice",): self._slice,
            ("Squeeze",): self._squeeze,
            ("Unsqueeze",): self._unsqueeze,
            ("Transpose",): self._transpose,
        }
        self._rules = {op_type: rule for op_types, rule in rules.items() for op_type in op_types}

    def rank(self, tensor: str) -> int | None:
        """Number of a tensor's axes; `None` if unknown."""
        shape = self._shape(tensor)
        return None if shape is None else len(shape)

    def axis_after(self, node: onnx.NodeProto, slot: int, axis: int) -> int | None:
        """Find the channels' axis in a node's outputs.

        Args:
            node: It reads the channels.
            slot: Which input they are.
            axis: Their axis there, counted from the front.

        Returns:
            Their axis in every output; `None` if they do not pass, or it is not known.
        """
        if not is_standard(node, *self._rules) or (slot > 0 and node.op_type != "Concat"):
            return None
        if sum(map(bool, node.output)) > 1 and node.op_type != "Split":
            return None  # places of the maxima
        rank = self.rank(node.input[slot])
        return None if rank is None else self._rules[node.op_type](node, axis, rank)

    def _reshape(self, node: onnx.NodeProto, axis: int, rank: int) -> int | None:
        """The order of the values stays, so channels on the last axis stay if its size does."""
        source, target = self._shape(node.input[0]), self._shape(node.output[0])
        if axis != rank - 1 or not source or not target or not isinstance(target[-1], int):
            return None
        return len(target) - 1 if source[-1] == target[-1] else None

    def _squeeze(self, node: onnx.NodeProto, axis: int, rank: int) -> int | None:
        axes = self._integers(node, 1)
        gone = {a % rank for a in axes} if axes else {axis}
        return None if axis in gone else axis - sum(a < axis for a in gone)

    def _unsqueeze(self, node: onnx.NodeProto, axis: int, rank: int) -> int | None:
        axes = self._integers(node, 1)
        if axes is None:
            return None
        added = {a % (rank + len(axes)) for a in axes}
        return [a for a in range(rank + len(axes)) if a not in added][axis]

    def _transpose(self, node: onnx.NodeProto, axis: int, rank: int) -> int:
        order = _attributes(node).get("perm") or list(range(rank))[::-1]
        return int(order.index(axis))

    def _join(self, node: onnx.NodeProto, axis: int, rank: int) -> int | None:
        joined = _attributes(node).get("axis", 0)
        return axis if joined % rank != axis else None

    def _gather(self, node: onnx.NodeProto, axis: int, rank: int) -> int | None:
        along, of_indices = _attributes(node).get("axis", 0) % rank, self.rank(node.input[1])
        if of_indices is None or along == axis:
            return None
        return axis if axis < along else axis + of_indices - 1

    def _slice(self, node: onnx.NodeProto, axis: int, rank: int) -> int | None:
        axes = self._integers(node, 3)
        if axes is None and not _has_input(node, 3):
            starts = self._shape(node.input[1])
            axes = list(range(starts[0])) if starts and isinstance(starts[0], int) else None
        return axis if axes is not None and axis not in {a % rank for a in axes} else None

    def _pad(self, node: onnx.NodeProto, axis: int, rank: int) -> int | None:
        if _attributes(node).get("mode", b"constant") != b"constant" or _has_input(node, 3):
            return None
        if _has_input(node, 2):
            fill = node.input[2]
            if fill not in self._constants or self._constants.value(fill).any():
                return None
        widths = self._entries(node.input[1])
        if widths is None or len(widths) != 2 * rank:
            return None
        return axis if widths[axis] == widths[rank + axis] == 0 else None

    def _reduce(self, node: onnx.NodeProto, axis: int, rank: int) -> int | None:
        attributes = _attributes(node)
        axes = attributes.get("axes") or self._integers(node, 1)
        if not axes:
            return None  # all of them, or none
        reduced = {a % rank for a in axes}
        if axis in reduced:
            return None
        return axis if attributes.get("keepdims", 1) else axis - sum(a < axis for a in reduced)

    def _shape(self, tensor: str) -> tuple[int | str, ...] | None:
        found = self._types.get(tensor)
        return found.shape if found else None

    def _integers(self, node: onnx.NodeProto, slot: int) -> list[int] | None:
        if not _has_input(node, slot) or node.input[slot] not in self._constants:
            return None
        return [int(value) for value in self._constants.value(node.input[slot]).reshape(-1)]

    def _entries(self, tensor: str) -> list[int | None] | None:
        """Read a list of integers of which the graph may compute some: those become `None`."""
        if tensor in self._constants:
            return [int(value) for value in self._constants.value(tensor).reshape(-1)]
        node, shape = self._producers.get(tensor), self._shape(tensor)
        if node is not None and is_standard(node, "Concat"):
            parts = [self._entries(name) for name in node.input]
            known = [part for part in parts if part is not None]
            return list(itertools.chain(*known)) if len(known) == len(parts) else None
        if shape is None or len(shape) != 1 or not isinstance(shape[0], int):
            return None
        return [None] * shape[0]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _has_input(node: onnx.NodeProto, slot: int) -> bool:
    return len(node.input) > slot and bool(node.input[slot])
