"""The half-precision step of `quantize`: overflow check, conversion, and what is said of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import onnx

from edgeattn.calibration.overflow import check_overflow
from edgeattn.calibration.sources import Array
from edgeattn.calibration.table import CalibTable
from edgeattn.graph.half_types import HalfType
from edgeattn.graph.passes.half import convert_to_half


def apply_half(
    model: onnx.ModelProto,
    half: HalfType,
    *,
    batches: Iterable[Mapping[str, Array]] | None = None,
    table: CalibTable | None = None,
    keep_float: Collection[str] = (),
    half_io: bool = False,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Convert what a graph computes in float32 to a half type.

    Args:
        model: A float32 graph, Q/DQ included.
        half: `float16` or `bfloat16`.
        batches: Real inputs for the overflow check of FP16.
        table: Its ranges serve the check where there is no data.
        keep_float: Names of nodes to leave in float32.
        half_io: Give the graph's inputs and outputs the half type too.

    Returns:
        The converted graph, and entries for the manifest's report.

    Raises:
        GraphError: If the graph holds tensors of a half type already, has Q/DQ below opset 19, or
            does not run on the batches.
        SpecError: If there is no node of a name to keep.
    """
    overflows: dict[str, float] = {}
    if half == "float16":
        check = check_overflow(model, batches, table)
        overflows, checked = check.values, check.to_report()
    else:
        checked = {"overflow_check": "not needed: bfloat16 has the range of float32"}
    converted, decisions = convert_to_half(
        model, half, overflows, keep_float=keep_float, keep_io=not half_io
    )
    kept = Counter(decision.kept for decision in decisions)
    return converted, {
        "half_type": half,
        "half_nodes": kept[half],
        "float32_nodes": kept["float32"],
        "casts": sum(node.op_type == "Cast" for node in converted.graph.node),
        **checked,
        "node_types": [asdict(decision) for decision in decisions],
    }
