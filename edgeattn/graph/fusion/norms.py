"""Division by the Euclidean norm along the last axis, as cosine attention has it."""

from __future__ import annotations

import onnx

from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.nodes import attribute, is_standard

# Between the norm and the division: a floor against division by zero, and broadcasting.
_BETWEEN = ("Cast", "Clip", "Expand", "Identity", "Max")
_LARGEST_FLOOR = 1e-4


def normalized_input(node: onnx.NodeProto, probe: Probe) -> str:
    """Name the tensor that a node divides by its norm along the last axis; empty if it does not."""
    if is_standard(node, "LpNormalization"):
        axis, order = attribute(node, "axis", -1), attribute(node, "p", 2)
        return node.input[0] if order == 2 and _is_last(axis, node.input[0], probe) else ""
    if not is_standard(node, "Div"):
        return ""
    source, norm = node.input
    while True:
        made_by = probe.producer.get(norm)
        if made_by is None:
            return ""
        if not is_standard(made_by, *_BETWEEN):
            break
        unknown = [name for name in made_by.input if name and not probe.is_known(name)]
        if unknown != [made_by.input[0]] or not _keeps_norms(made_by, probe):
            return ""
        norm = made_by.input[0]
    return source if _is_norm(made_by, source, probe) else ""


def _keeps_norms(node: onnx.NodeProto, probe: Probe) -> bool:
    """Tell whether a node changes no norm but those next to zero."""
    if is_standard(node, "Max"):
        return bool((probe.value(node.input[1]) <= _LARGEST_FLOOR).all())
    if is_standard(node, "Clip"):
        bounds = [probe.value(name) if name else None for name in node.input[1:]]
        floor = bounds[0] if bounds else None
        ceiling = bounds[1] if len(bounds) > 1 else None
        return (floor is None or bool(floor <= _LARGEST_FLOOR)) and (
            ceiling is None or bool(ceiling >= 1e30)
        )
    return True


def _is_norm(node: onnx.NodeProto, source: str, probe: Probe) -> bool:
    if is_standard(node, "ReduceL2"):
        return node.input[0] == source and _reduces_last(node, probe)
    if not is_standard(node, "Sqrt"):
        return False
    total = probe.producer.get(node.input[0])
    if total is None or not is_standard(total, "ReduceSum") or not _reduces_last(total, probe):
        return False
    square = probe.producer.get(total.input[0])
    if square is None:
        return False
    if is_standard(square, "Mul"):
        return list(square.input) == [source, source]
    if is_standard(square, "Pow") and square.input[0] == source and probe.is_known(square.input[1]):
        return bool((probe.value(square.input[1]) == 2).all())
    return False


def _reduces_last(node: onnx.NodeProto, probe: Probe) -> bool:
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = probe.value(node.input[1]).tolist() if probe.is_known(node.input[1]) else None
    keeps = attribute(node, "keepdims", 1)
    return bool(keeps and axes is not None and len(axes) == 1) and _is_last(
        axes[0], node.input[0], probe
    )


def _is_last(axis: int, name: str, probe: Probe) -> bool:
    shape = probe.shape(name)
    return shape is not None and axis in (-1, len(shape) - 1)
