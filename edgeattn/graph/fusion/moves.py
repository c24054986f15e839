"""Data movement executed on index numbers: which element of a source stands at each place.

Nodes that only move data are run on the numbers of the elements instead of the elements. Whatever
spelling an exporter chose for a roll or a partition, the numbers say what it does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.norms import normalized_input
from edgeattn.graph.fusion.probe import Probe, run_node
from edgeattn.graph.nodes import is_standard

PAD = -1  # an element that comes from no source: a zero

# Nodes that move the values of their first input; what else they read must be known.
_MOVES = (
    "DepthToSpace",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Pad",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)
_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
# Numbers of more elements take gigabytes.
_MOST_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class Traced:
    """Where the elements of a tensor come from.

    Attributes:
        source: The tensor that they come from.
        index: Of the tensor's shape: place in the flat source, or `PAD`.
        factor: By which they were multiplied on the way.
        normalized: Whether they were divided by the Euclidean norm along the last axis.
    """

    source: str
    index: NDArray[np.int64]
    factor: float = 1.0
    normalized: bool = False


class Moves:
    """Follows elements back through a graph at one size.

    Args:
        probe: The graph at that size.
        opset: Version of the ONNX standard of the graph.
    """

    def __init__(self, probe: Probe, opset: int) -> None:
        self._probe = probe
        self._opset = opset

    def trace(self, name: str, stop: str = "") -> Traced:
        """Follow a tensor back as far as it is only moved.

        Args:
            name: The tensor.
            stop: Go no further than this one.

        Raises:
            UnrecognisedError: If a size is not known, or too large.
        """
        return _Trace(self._probe, self._opset, stop).follow(name)

    def chain(self, name: str) -> list[str]:
        """List the tensors that a tensor is moved from, the earliest first, itself last."""
        order: list[str] = []
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current in order:
                continue
            order.append(current)
            node = self._probe.producer.get(current)
            if node is not None:
                waiting += moved_inputs(node, self._probe)
        return order[::-1]


def moved_inputs(node: onnx.NodeProto, probe: Probe) -> list[str]:
    """List the inputs whose values a node moves, scales or normalizes; none if it does more."""
    unknown = [name for name in node.input if name and not probe.is_known(name)]
    if is_standard(node, "Concat"):
        return unknown
    if is_standard(node, *_MOVES):
        return unknown if unknown == [node.input[0]] and _fills_with_zeros(node, probe) else []
    if is_standard(node, "Cast") and probe.element(node.output[0]) in _FLOATS:
        return unknown if probe.element(node.input[0]) in _FLOATS else []
    if _scalar_factor(node, probe) is not None:
        return unknown
    source = normalized_input(node, probe)
    return [source] if source else []


def is_move(node: onnx.NodeProto, probe: Probe, reached: Collection[str] | None = None) -> bool:
    """Tell whether a node only moves the values of one tensor, or of several that are given."""
    if not is_standard(node, "Cast", "Concat", *_MOVES):
        return False
    moved = set(moved_inputs(node, probe))
    return bool(moved) and (len(moved) == 1 if reached is None else moved <= set(reached))


class _Trace:
    """One way back; each tensor is followed once."""

    def __init__(self, probe: Probe, opset: int, stop: str) -> None:
        self._probe = probe
        self._opset = opset
        self._stop = stop
        self._found: dict[str, Traced] = {}

    def follow(self, name: str) -> Traced:
        waiting = [name]
        while waiting:
            current = waiting[-1]
            if current in self._found:
                waiting.pop()
                continue
            node = self._probe.producer.get(current)
            inputs = (
                [] if node is None or current == self._stop else moved_inputs(node, self._probe)
            )
            missing = [name for name in inputs if name not in self._found]
            if missing:
                waiting += missing
            elif node is not None and inputs:
                self._found[current] = self._moved(node, current, inputs)
            else:
                self._found[current] = self._start(current)
        return self._found[name]

    def _start(self, name: str) -> Traced:
        shape = self._probe.shape(name)
        if shape is None:
            raise UnrecognisedError(f"the size of {name} is not known before the graph runs")
        size = int(np.prod(shape, dtype=np.int64))
        if size > _MOST_ELEMENTS:
            raise UnrecognisedError(f"{name} has {size} elements, too many to follow")
        return Traced(name, np.arange(size, dtype=np.int64).reshape(shape))

    def _moved(self, node: onnx.NodeProto, name: str, inputs: list[str]) -> Traced:
        parts = {one: self._found[one] for one in inputs}
        first = parts[inputs[0]]
        if any(
            (part.source, part.factor, part.normalized)
            != (first.source, first.factor, first.normalized)
            for part in parts.values()
        ):
            return self._start(name)
        factor = _scalar_factor(node, self._probe)
        if factor is not None or is_standard(node, "Cast"):
            return Traced(first.source, first.index, first.factor * (factor or 1), first.normalized)
        if not is_standard(node, "Concat", *_MOVES):
            return Traced(first.source, first.index, first.factor, normalized=True)
        values: list[NDArray[Any] | None] = []
        for slot, one in enumerate(node.input):
            if one in parts:
                values.append(parts[one].index)
            elif is_standard(node, "Concat"):
                constant = self._probe.value(one)
                if constant.any():
                    return self._start(name)
                values.append(np.full(constant.shape, PAD, np.int64))
            elif is_standard(node, "Pad") and slot == 2:
                values.append(np.array(PAD, np.int64))
            else:
                values.append(self._probe.value(one) if one else None)
        if is_standard(node, "Pad") and len(values) == 2:
            values.append(np.array(PAD, np.int64))
        if is_standard(node, "Dropout"):
            return first
        outputs = run_node(_with_fill(node), values, self._opset)
        index = outputs[list(node.output).index(name)]
        return Traced(first.source, index.astype(np.int64), first.factor, first.normalized)


def _with_fill(node: onnx.NodeProto) -> onnx.NodeProto:
    """Let a Pad without a fill value take one."""
    if not is_standard(node, "Pad") or len(node.input) > 2:
        return node
    filled = onnx.NodeProto()
    filled.CopyFrom(node)
    filled.input.append("fill")
    return filled


def _fills_with_zeros(node: onnx.NodeProto, probe: Probe) -> bool:
    """Tell whether what a node adds, if anything, is zeros."""
    if not is_standard(node, "Pad"):
        return True
    mode = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "mode"), b"")
    if mode not in (b"", b"constant"):
        return True  # with what stands at the border
    fill = node.input[2] if len(node.input) > 2 else ""
    return not fill or (probe.is_known(fill) and not probe.value(fill).any())


def _scalar_factor(node: onnx.NodeProto, probe: Probe) -> float | None:
    """Read the known number that a node multiplies by; `None` if it does something else."""
    if not is_standard(node, "Mul", "Div") or len(node.input) != 2:
        return None
    for slot in (1,) if node.op_type == "Div" else (0, 1):
        name = node.input[slot]
        if probe.is_known(name) and not probe.is_known(node.input[1 - slot]):
            shape = probe.shape(name)
            if shape is not None and int(np.prod(shape, dtype=np.int64)) == 1:
                number = float(probe.value(name).reshape(()))
                return (1 / number if number else None) if node.op_type == "Div" else number
    return None
