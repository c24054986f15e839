"""Data movement executed on index numbers: which element of a source stands at each place.

Nodes that only move data are run on numbers instead of the elements. Whatever spelling an exporter
chose for a roll or a partition, the numbers say what it does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.norms import normalized_input
from edgeattn.graph.fusion.probe import Probe, run_node
from edgeattn.graph.fusion.runs import PAD, Runs
from edgeattn.graph.nodes import attribute, is_standard

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
# These leave the elements in their order.
RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)


@dataclass(frozen=True)
class Traced:
    """Where the elements of a tensor come from.

    Attributes:
        source: The tensor that they come from.
        runs: Of the source, at each place.
        factor: By which they were multiplied on the way.
        normalized: Whether they were divided by the Euclidean norm along the last axis.
    """

    source: str
    runs: Runs
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
        return Traced(name, Runs.of_source(known_shape(name, self._probe)))

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
            return replace(first, factor=first.factor * (factor or 1))
        if not is_standard(node, "Concat", *_MOVES):
            return replace(first, normalized=True)
        if is_standard(node, "Concat") and any(
            one not in parts and self._probe.value(one).any() for one in node.input
        ):
            return self._start(name)
        runs = {one: part.runs for one, part in parts.items()}
        return replace(first, runs=move_runs(node, name, runs, self._probe, self._opset))


def known_shape(name: str, probe: Probe) -> tuple[int, ...]:
    """Give the shape of a tensor.

    Raises:
        UnrecognisedError: If it depends on data.
    """
    shape = probe.shape(name)
    if shape is None:
        raise UnrecognisedError(f"the size of {name} is not known before the graph runs")
    return shape


def move_runs(
    node: onnx.NodeProto, name: str, given: Mapping[str, Runs], probe: Probe, opset: int
) -> Runs:
    """Do to runs what a node does to elements.

    Args:
        node: One that moves the elements of a source, and adds zeros at most.
        name: Its output.
        given: Its inputs that hold elements of the source.
        probe: The graph at one size.
        opset: Version of the ONNX standard.

    Raises:
        UnrecognisedError: If a size is not known, or runs are too many.
    """
    first = next(iter(given.values()))
    rank = first.numbers.ndim
    if is_standard(node, "Identity", "Dropout"):
        return first
    if is_standard(node, *RESHAPES):
        return first.reshape(known_shape(name, probe))
    if is_standard(node, "Transpose"):
        return first.transpose(attribute(node, "perm", list(range(rank))[::-1]))
    others = [None if not one or one in given else probe.value(one) for one in node.input]
    axis = None
    if len({runs.axis for runs in given.values()}) == 1:
        axis = _axis_behind(node, first.axis, rank, others)
    length = 1 if axis is None else math.gcd(*(runs.length for runs in given.values()))
    values: list[NDArray[Any] | None] = []
    for slot, (one, other) in enumerate(zip(node.input, others, strict=True)):
        if one in given:
            values.append(given[one].split(length).numbers)
        elif is_standard(node, "Concat"):
            assert other is not None  # it is all zeros
            shape = list(other.shape)
            shape[first.axis] //= length
            values.append(np.full(shape, PAD))
        elif is_standard(node, "Pad") and slot == 2:
            values.append(np.array(PAD))
        else:
            values.append(other)
    if is_standard(node, "Pad") and len(values) == 2:
        values.append(np.array(PAD))
    moved = run_node(_with_fill(node), values, opset)[list(node.output).index(name)]
    moved = moved.astype(np.int64, copy=False)
    return Runs(moved, length, max(moved.ndim - 1, 0) if axis is None else axis)


def _axis_behind(
    node: onnx.NodeProto, axis: int, rank: int, others: list[NDArray[Any] | None]
) -> int | None:
    """Tell where a node puts an axis along which it moves nothing; `None` if it may do more."""
    if is_standard(node, "Concat", "Split"):
        return axis if attribute(node, "axis", 0) % rank != axis else None
    if is_standard(node, "Gather"):
        at, indices = attribute(node, "axis", 0) % rank, others[1]
        assert indices is not None
        return None if at == axis else axis if axis < at else axis + indices.ndim - 1
    if is_standard(node, "GatherND"):
        indices = others[1]
        assert indices is not None
        behind = axis - indices.shape[-1]
        return None if attribute(node, "batch_dims", 0) or behind < 0 else behind + indices.ndim - 1
    if is_standard(node, "Slice") and len(others) > 3 and others[3] is not None:
        return None if axis in others[3] % rank else axis
    if is_standard(node, "Pad"):
        amounts = np.asarray(others[1]).reshape(2, -1).any(axis=0)
        axes = others[3] % rank if len(others) > 3 and others[3] is not None else np.arange(rank)
        return None if axis in axes[amounts] else axis
    return None


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
    mode = attribute(node, "mode", b"")
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
