"""Shapes: free sizes without a range, ranges that the graph does not bear, sizes of values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx

from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.deploy.check.subject import Kind, Shapes, Subject
from edgeattn.errors import GraphError
from edgeattn.graph.nodes import is_standard, node_label
from edgeattn.graph.shapes import TensorType, infer_types

# The standard's operators whose output's size depends on values; those of them that TensorRT has.
_COUNTING = ("NonMaxSuppression", "NonZero")
_RANGE: dict[Kind, str] = {"min": "smallest", "opt": "best", "max": "largest"}


def check_shapes(subject: Subject) -> Iterator[GraphFinding]:
    """Look whether each free size has a range, and whether the graph bears both ends of it.

    References:
        NvInferRuntime.h, IOutputAllocator: outputs whose size is known only after they are there.
    """
    if subject.shapes_error is not None:
        error = subject.shapes_error
        yield GraphFinding("error", "shapes", "", error.message, error.hint)
    if subject.are_shapes_exported:
        yield GraphFinding(
            "note",
            "shapes",
            "",
            "no range was given, so the engine takes the shapes of the export alone: "
            + _text(subject.profiles[0].opt),
            "--min-shapes, --opt-shapes and --max-shapes say others",
        )
    if not any(fault.topic == "operator" for fault in subject.lowered.faults):
        yield from _contradictions(subject)
    for node in subject.lowered.model.graph.node:
        if is_standard(node, *_COUNTING):
            yield GraphFinding(
                "note",
                "shapes",
                node_label(node),
                f"the size of what {node.op_type} gives depends on the values",
                "the engine cannot run as a CUDA graph; work on a fixed number of candidates "
                "where that matters",
            )


def _contradictions(subject: Subject) -> Iterator[GraphFinding]:
    """Try the graph at both ends of every range: an exporter may have written a size into it."""
    fix = "export the model with the axes that vary left open (--dynamic), or narrow the range"
    tried: list[Shapes] = []
    for kind, what in _RANGE.items():
        for shapes in subject.shapes(kind):
            if shapes in tried:
                continue
            tried.append(shapes)
            where = f"at the {what} shapes {_text(shapes)}"
            try:
                types = infer_types(subject.settled(shapes), strict=True)
            except GraphError as err:
                reason = f"{where} {' '.join(err.message.split())}"
                yield GraphFinding("error", "shapes", "", reason, fix)
                return
            for node in subject.lowered.model.graph.node:
                volumes = _volumes(node, types)
                if volumes is not None and volumes[0] != volumes[1]:
                    reason = f"{where} it makes a shape of {volumes[1]} values of {volumes[0]}"
                    yield GraphFinding("error", "shapes", node_label(node), reason, fix)
                    return


def _volumes(node: onnx.NodeProto, types: Mapping[str, TensorType]) -> tuple[int, int] | None:
    """Count what goes into a Reshape and what its shape holds; `None` if that is not known."""
    if not is_standard(node, "Reshape"):
        return None
    shapes = [types[n].shape if n in types else None for n in (node.input[0], node.output[0])]
    counts = [_volume(shape) for shape in shapes]
    return None if None in counts else (counts[0] or 0, counts[1] or 0)


def _volume(shape: tuple[int | str, ...] | None) -> int | None:
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    return math.prod(int(size) for size in shape)


def _text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
