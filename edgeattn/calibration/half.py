"""The half-precision step of `quantize`: overflow check, conversion, and what is said of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import onnx

from edgeattn.calibration.data import open_batches
from edgeattn.calibration.overflow import check_overflow
from edgeattn.calibration.sources import DataSource
from edgeattn.calibration.table import CalibTable
from edgeattn.graph.files import input_specs
from edgeattn.graph.half_types import HalfType
from edgeattn.graph.passes.half import convert_to_half

# Enough to see how large tensors get: the margin of the check covers what these do not show.
CHECK_SAMPLES = 64


def apply_half(
    model: onnx.ModelProto,
    half: HalfType,
    *,
    data: DataSource | None = None,
    table: CalibTable | None = None,
    keep_float: Collection[str] = (),
    half_io: bool = False,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Convert what a graph computes in float32 to a half type.

    Args:
        model: A float32 graph, Q/DQ included.
        half: `float16` or `bfloat16`.
        data: Real inputs for the overflow check of FP16, of which `CHECK_SAMPLES` are run.
        table: Its ranges serve the check where there is no data.
        keep_float: Names of nodes to leave in float32.
        half_io: Give the graph's inputs and outputs the half type too.

    Returns:
        The converted graph, and entries for the manifest's report.

    Raises:
        DataError: If the data cannot be read or does not fit the graph.
        GraphError: If the graph holds tensors of a half type already, has Q/DQ below opset 19, or
            does not run on the data.
        SpecError: If there is no node of a name to keep.
    """
    overflows: dict[str, float] = {}
    if half == "float16":
        inputs = input_specs(model)
        batches = None if data is None else open_batches(data, inputs, samples=CHECK_SAMPLES)
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
