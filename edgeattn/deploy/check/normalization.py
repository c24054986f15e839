"""Normalization: is every LayerNorm one node, or did an exporter take it to pieces?

In pieces it is slower, and in FP16 it overflows: the squares of values beyond 255 are infinite,
and what comes after them is NaN or nonsense.

References:
    NVIDIA/TensorRT issues #2564, #3656, #4373: LayerNorm in pieces overflows in FP16. ONNX has
    LayerNormalization from opset 17 on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import TensorProto, helper

from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.deploy.check.subject import Subject
from edgeattn.graph.constants import Constants
from edgeattn.graph.nodes import is_standard, node_label
from edgeattn.graph.shapes import TensorType

_MIN_OPSET = 17


def check_normalization(subject: Subject) -> Iterator[GraphFinding]:
    """List each LayerNorm over the last axis that is written out in arithmetic."""
    finder = _Finder(subject.lowered.model, subject.types)
    for node in subject.lowered.model.graph.node:
        squares = finder.squares_under(node)
        if squares is None:
            continue
        known = subject.types.get(squares.output[0])
        in_half = known is not None and known.element == TensorProto.FLOAT16
        risk = "; in FP16 its squares overflow beyond 255" if in_half else ""
        yield GraphFinding(
            "warning",
            "LayerNorm",
            node_label(node),
            f"it ends a LayerNorm that is written out in single operators{risk}",
            f"export with opset {_MIN_OPSET} or newer, where LayerNormalization is one operator",
        )


class _Finder:
    """Follows tensors back through a graph."""

    def __init__(self, model: onnx.ModelProto, types: Mapping[str, TensorType]) -> None:
        self._producer = {name: node for node in model.graph.node for name in node.output}
        self._constants = Constants(model)
        self._types = types

    def squares_under(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Find what squares the deviations that a node divides by their root mean square."""
        centred, root = self._quotient(node)
        sqrt = self._made_by(root, "Sqrt")
        total = self._made_by(sqrt.input[0], "Add") if sqrt else None
        variance = self._first_made_by(total.input, "ReduceMean") if total else None
        squares = self._made_by(variance.input[0], "Pow", "Mul") if variance else None
        if variance is None or squares is None or not self._is_over_last_axis(variance):
            return None
        deviation = self._made_by(squares.input[0], "Sub")
        is_square = (
            squares.input[0] == squares.input[1]
            if squares.op_type == "Mul"
            else self._is_two(squares.input[1])
        )
        if not is_square or deviation is None:
            return None
        # Some exporters subtract twice.
        numerator = self._made_by(centred, "Sub")
        is_same = numerator is not None and list(numerator.input) == list(deviation.input)
        is_centred = self._first_made_by(deviation.input[1:], "ReduceMean") is not None
        return squares if is_same and is_centred else None

    def _quotient(self, node: onnx.NodeProto) -> tuple[str, str]:
        """Give numerator and denominator; empty names if a node is no quotient."""
        if is_standard(node, "Div"):
            return node.input[0], node.input[1]
        if is_standard(node, "Mul"):
            for centred, factor in (node.input, node.input[::-1]):
                inverse = self._made_by(factor, "Reciprocal")
                if inverse is not None:
                    return centred, inverse.input[0]
        return "", ""

    def _made_by(self, tensor: str, *op_types: str) -> onnx.NodeProto | None:
        """Find the node that makes a tensor, casts aside, if it is one of these operators."""
        node = self._producer.get(tensor)
        while node is not None and is_standard(node, "Cast"):
            node = self._producer.get(node.input[0])
        return node if node is not None and is_standard(node, *op_types) else None

    def _first_made_by(self, tensors: Iterable[str], op_type: str) -> onnx.NodeProto | None:
        found = (self._made_by(name, op_type) for name in tensors)
        return next((node for node in found if node is not None), None)

    def _is_two(self, tensor: str) -> bool:
        return tensor in self._constants and bool((self._constants.value(tensor) == 2).all())

    def _is_over_last_axis(self, mean: onnx.NodeProto) -> bool:
        """Tell a LayerNorm from the normalization of a map."""
        axes = [
            int(axis)
            for attribute in mean.attribute
            if attribute.name == "axes"
            for axis in helper.get_attribute_value(attribute)
        ]
        if len(mean.input) > 1 and mean.input[1] in self._constants:
            axes = [int(axis) for axis in self._constants.value(mean.input[1]).reshape(-1)]
        known = self._types.get(mean.input[0])
        rank = len(known.shape) if known and known.shape is not None else None
        return axes == [-1] or (rank is not None and axes == [rank - 1])
