"""The linear layer before or behind a tensor, with nodes between that leave its channels alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from edgeattn.graph.constants import captured_names
from edgeattn.graph.nodes import attribute, is_standard
from edgeattn.graph.padded_constants import PaddedConstants
from edgeattn.graph.qdq_pairs import QdqPairs
from edgeattn.graph.shapes import TensorType

_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class LinearPath:
    """What stands between a tensor and the linear layer that writes it, or that alone reads it.

    Attributes:
        nodes: From the tensor on; each tensor between them has one reader. Channels are the last
            axis of all of them.
        linear: A MatMul or Gemm with a constant matrix; `None` if the nodes end elsewhere.
    """

    nodes: tuple[onnx.NodeProto, ...]
    linear: onnx.NodeProto | None

    def up_to(self, op_type: str) -> LinearPath | None:
        """Cut the path behind its first node of an operator; `None` if it has none."""
        for index, node in enumerate(self.nodes):
            if node.op_type == op_type:
                return LinearPath(self.nodes[: index + 1], None)
        return None


class LinearPaths:
    """Finds linear layers around tensors.

    Args:
        model: The graph.
        types: Of its tensors.
        constants: Of the graph.
    """

    def __init__(
        self, model: onnx.ModelProto, types: Mapping[str, TensorType], constants: PaddedConstants
    ) -> None:
        graph = model.graph
        self._types = types
        self._constants = constants
        self._pairs = QdqPairs(model)
        self._producer = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._elsewhere = {value.name for value in graph.output} | captured_names(graph)

    def before(self, tensor: str, channels: int) -> LinearPath:
        """Walk from a tensor to the linear layer that writes it."""
        passed: list[onnx.NodeProto] = []
        while True:
            node = self._producer.get(tensor)
            if node is None or self._only_reader(tensor) is None:
                return LinearPath(tuple(passed), None)
            if self._is_linear(node, channels, output=True):
                return LinearPath(tuple(passed), node)
            source = self._source(node)
            if source is None or not self._keeps_channels(node, source, channels):
                return LinearPath(tuple(passed), None)
            passed.append(node)
            tensor = source

    def behind(self, tensor: str, channels: int) -> LinearPath:
        """Walk from a tensor to the linear layer that reads it."""
        passed: list[onnx.NodeProto] = []
        first = tensor
        while True:
            node = self._only_reader(tensor)
            if node is None:
                return LinearPath(tuple(passed), None)
            if node.input[0] == tensor and self._is_linear(node, channels, output=False):
                return LinearPath(tuple(passed), node)
            # Sizes may be the graph's to compute: a reshape's channels are then known by whoever
            # reads them, and by nobody behind a second one.
            is_known = tensor == first or self._channels(tensor) == channels
            if not is_known or is_standard(node, "Add") or self._source(node) != tensor:
                return LinearPath(tuple(passed), None)
            if not self._keeps_channels(node, node.output[0], channels):
                return LinearPath(tuple(passed), None)
            passed.append(node)
            tensor = node.output[0]

    def _only_reader(self, tensor: str) -> onnx.NodeProto | None:
        readers = self._readers[tensor]
        is_read_once = len(readers) == 1 and tensor not in self._elsewhere
        return readers[0] if is_read_once else None

    def _channels(self, tensor: str) -> int | str | None:
        known = self._types.get(tensor)
        return known.shape[-1] if known and known.shape else None

    def _is_linear(self, node: onnx.NodeProto, channels: int, *, output: bool) -> bool:
        """Tell whether a node is a linear layer with so many output channels, or input channels."""
        if not is_standard(node, "MatMul", "Gemm") or not self._constants.can_pad(node.input[1]):
            return False
        weight = self._constants.value(node.input[1])
        if weight.ndim != 2 or weight.shape[weight_axis(node, output=output)] != channels:
            return False
        if node.op_type == "Gemm" and attribute(node, "transA"):
            return False
        bias = node.input[2] if output and len(node.input) > 2 else ""
        return not bias or bias in self._constants

    def _source(self, node: onnx.NodeProto) -> str | None:
        """Name the input whose channels a node gives on; `None` if it does more with them."""
        if is_standard(node, "Add"):
            left, right = node.input
            if (left in self._constants) == (right in self._constants):
                return None
            return str(right if left in self._constants else left)
        if is_standard(node, "Cast", "Identity", "Transpose", *_RESHAPES):
            return str(node.input[0])
        if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
            return str(node.input[0]) if self._pairs.quant_scale(node) else None
        return None

    def _keeps_channels(self, node: onnx.NodeProto, far: str, channels: int) -> bool:
        """Tell whether the last axis, channels on this side of a node, is so on the far one."""
        if is_standard(node, "Transpose"):
            perm = attribute(node, "perm")
            return bool(perm) and perm[-1] == len(perm) - 1
        if is_standard(node, *_RESHAPES):
            # Equal last axes hold the same runs of values, whatever the others are.
            known = self._channels(far)
            may_be_seen_later = far == node.output[0] and not isinstance(known, int)
            return channels > 1 and (known == channels or may_be_seen_later)
        return not is_standard(node, "Add") or self._channels(far) == channels


def weight_axis(node: onnx.NodeProto, *, output: bool) -> int:
    """Tell the axis of a linear layer's output channels, or input channels, in its matrix."""
    is_transposed = node.op_type == "Gemm" and bool(attribute(node, "transB"))
    return int(output != is_transposed)
