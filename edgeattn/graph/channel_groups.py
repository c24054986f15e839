"""Channels that one node writes and only layers with constant weights read.

Their scale is arbitrary: divided where they are written and multiplied where they are read, any
positive factors cancel out, and the graph computes what it did. Nodes between the two may do what
`edgeattn.graph.channel_moves` lists, or add a constant.

References:
    Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019,
    section 4.1: between layers. Xiao et al., SmoothQuant, ICML 2023: between normalization and
    layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx

from edgeattn.graph.channel_moves import ChannelMoves
from edgeattn.graph.constants import Constants, subgraphs, used_names
from edgeattn.graph.linear_layers import LINEAR_OPS, constant_weight
from edgeattn.graph.nodes import is_standard, node_label
from edgeattn.graph.placement import place_qdq
from edgeattn.graph.shapes import infer_types

NORM_OPS = ("LayerNormalization", "RMSNormalization")


@dataclass(frozen=True)
class ChannelGroup:
    """The channels that one node writes. Nodes are given by their place among the graph's nodes.

    Attributes:
        source: The node that writes them: a normalization over the last axis, or a layer.
        size: How many they are; 0 if there is an obstacle.
        tensors: Axis of the channels, counted from the end (the last is -1), in each tensor that
            holds them, the source's output first.
        offsets: Nodes that add a constant to them, and the input that it is.
        readers: Layers that sum over them.
        obstacle: Why they cannot be scaled; empty if they can.
    """

    source: int
    size: int = 0
    tensors: dict[str, int] = field(default_factory=dict)
    offsets: tuple[tuple[int, int], ...] = ()
    readers: tuple[int, ...] = ()
    obstacle: str = ""


def find_channel_groups(model: onnx.ModelProto) -> list[ChannelGroup]:
    """Find the channels of each normalization and layer of a float graph, in its order.

    Args:
        model: Attention nodes included.

    Raises:
        GraphError: If a weight holds NaN or infinity.
    """
    return list(_Finder(model).find())


def balanceable_channels(model: onnx.ModelProto) -> dict[str, int]:
    """Name the tensors whose largest magnitudes per channel decide how channels are balanced.

    Args:
        model: A float graph, attention nodes included.

    Returns:
        Axis of the channels, counted from the end, by tensor: of those that some recipe quantizes.

    Raises:
        GraphError: As `place_qdq`.
    """
    axes: dict[str, int] = {}
    for group in find_channel_groups(model):
        axes |= group.tensors
    return {name: axes[name] for name in place_qdq(model, "full").activations if name in axes}


class _Obstacle(Exception):  # noqa: N818 - no error: the answer for one node
    """Why channels cannot be scaled."""


class _Finder:
    """Follows the channels of each source to their readers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = model.graph.node
        self._constants = Constants(model)
        self._types = infer_types(model)
        self._moves = ChannelMoves(model, self._constants, self._types)
        self._outputs = {value.name for value in model.graph.output}
        self._inner = {name for n in self._nodes for g in subgraphs(n) for name in used_names(g)}
        self._readers: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for index, node in enumerate(self._nodes):
            for slot, name in enumerate(node.input):
                self._readers[name].append((index, slot))

    def find(self) -> Iterator[ChannelGroup]:
        for index, node in enumerate(self._nodes):
            if not is_standard(node, *NORM_OPS, *LINEAR_OPS) or node.output[0] in self._constants:
                continue
            try:
                size, axis = self._source(node)
            except _Obstacle as obstacle:
                yield ChannelGroup(index, obstacle=str(obstacle))
            else:
                yield self._follow(index, size, axis)

    def _source(self, node: onnx.NodeProto) -> tuple[int, int]:
        """Count the channels of a source and find their axis, or raise `_Obstacle`."""
        rank = self._moves.rank(node.output[0])
        if rank is None:
            raise _Obstacle("the shape of its output is unknown")
        if is_standard(node, *NORM_OPS):
            return self._normalized(node, rank), rank - 1
        weight = constant_weight(node, self._constants)
        if isinstance(weight, str):
            raise _Obstacle(weight)
        if len(node.input) > 2 and node.input[2] and node.input[2] not in self._constants:
            raise _Obstacle("its bias is not constant")
        values = self._constants.value(weight.tensor)
        axis = 1 if is_standard(node, "Conv") else rank - 1
        return int(values.shape[weight.channel_axis]), axis

    def _normalized(self, node: onnx.NodeProto, rank: int) -> int:
        if any(name and name not in self._constants for name in node.input[1:]):
            raise _Obstacle("its factors are not constant")
        factors = self._constants.value(node.input[1])
        if factors.dtype != np.float32:
            raise _Obstacle(f"its factors are {factors.dtype.name}, not float32")
        shape = self._types[node.output[0]].shape or ()
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
        if axis % rank != rank - 1 or factors.ndim != 1 or factors.size != shape[-1]:
            raise _Obstacle("it does not have one factor for each channel of the last axis")
        return factors.size

    def _follow(self, source: int, size: int, axis: int) -> ChannelGroup:
        tensors = {self._nodes[source].output[0]: axis}
        offsets: list[tuple[int, int]] = []
        readers: list[int] = []
        try:
            waiting = list(tensors)
            for tensor in waiting:  # it grows
                self._check_uses(tensor)
                for index, slot in self._readers[tensor]:
                    node, at = self._nodes[index], tensors[tensor]
                    if is_standard(node, "Shape", "Size"):
                        continue  # it reads no values
                    if self._sums_over(node, slot, tensor, at):
                        readers.append(index)
                        continue
                    after = self._after(node, slot, at, size)
                    if node.op_type == "Add":
                        offsets.append((index, 1 - slot))
                    for output in filter(None, node.output):
                        if tensors.setdefault(output, after) != after:
                            raise _Obstacle(f"{_named(node)} joins different axes")
                        if output not in waiting:
                            waiting.append(output)
            self._check_joins(tensors)
        except _Obstacle as obstacle:
            return ChannelGroup(source, obstacle=str(obstacle))
        if not readers:
            return ChannelGroup(source, obstacle="no layer reads it")
        from_end = {name: at - (self._moves.rank(name) or 0) for name, at in tensors.items()}
        return ChannelGroup(source, size, from_end, tuple(offsets), tuple(readers))

    def _check_uses(self, tensor: str) -> None:
        if self._moves.rank(tensor) is None:
            raise _Obstacle(f"the shape of {tensor} is unknown")
        if tensor in self._outputs:
            raise _Obstacle(f"the graph's output {tensor} holds its values")
        if tensor in self._inner:
            raise _Obstacle(f"control flow reads {tensor}")

    def _sums_over(self, node: onnx.NodeProto, slot: int, tensor: str, axis: int) -> bool:
        """Tell whether a layer with a constant weight sums over the channels."""
        if not is_standard(node, *LINEAR_OPS) or (
            slot > 0 and node.input[1] not in self._constants
        ):
            return False
        weight = constant_weight(node, self._constants)
        if isinstance(weight, str):
            raise _Obstacle(f"{_named(node)} reads it, and {weight}")
        if node.op_type == "Conv":
            summed = 1
        elif any(a.name == "transA" and a.i for a in node.attribute):
            summed = 0
        else:
            summed = (self._moves.rank(tensor) or 0) - 1
        if slot > 0 or axis != summed:
            raise _Obstacle(f"{_named(node)} does not sum over its channels")
        return True

    def _after(self, node: onnx.NodeProto, slot: int, axis: int, size: int) -> int:
        if is_standard(node, "Add"):
            constant = node.input[1 - slot]
            rank = self._moves.rank(node.input[slot])
            if constant not in self._constants:
                raise _Obstacle(f"{_named(node)} reads it, a sum of activations")
            value = self._constants.value(constant)
            if rank is None or value.ndim > rank or value.dtype != np.float32:
                raise _Obstacle(f"{_named(node)} adds a constant of another type or shape")
            if rank - axis <= value.ndim and value.shape[axis - rank] not in (1, size):
                raise _Obstacle(f"{_named(node)} makes more channels of it")
            return axis
        after = self._moves.axis_after(node, slot, axis)
        if after is None:
            raise _Obstacle(f"{_named(node)} reads it, which factors of channels may not pass")
        return after

    def _check_joins(self, tensors: dict[str, int]) -> None:
        for tensor in tensors:
            for index, _ in self._readers[tensor]:
                node = self._nodes[index]
                if is_standard(node, "Concat") and not all(n in tensors for n in node.input):
                    raise _Obstacle(f"{_named(node)} joins it with other tensors")


def _named(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node_label(node)}"
