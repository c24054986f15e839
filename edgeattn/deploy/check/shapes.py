"""Shapes: free sizes without a range, and sizes that only the values tell."""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.deploy.check.subject import Subject
from edgeattn.graph.nodes import is_standard, node_label

# The standard's operators whose output's size depends on values; those of them that TensorRT has.
_COUNTING = ("NonMaxSuppression", "NonZero")


def check_shapes(subject: Subject) -> Iterator[GraphFinding]:
    """Look whether each free size has a range, and whether ranges fit the graph.

    References:
        NvInferRuntime.h, IOutputAllocator: outputs whose size is known only after they are there.
    """
    if subject.shapes_error is not None:
        error = subject.shapes_error
        yield GraphFinding("error", "shapes", "", error.message, error.hint)
    if subject.are_shapes_exported:
        shapes = ", ".join(
            f"{name}:{'x'.join(map(str, shape))}" for name, shape in subject.profiles[0].opt.items()
        )
        yield GraphFinding(
            "note",
            "shapes",
            "",
            f"no range was given, so the engine takes the shapes of the export alone: {shapes}",
            "--min-shapes, --opt-shapes and --max-shapes say others",
        )
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
