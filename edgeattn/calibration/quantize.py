"""Quantize a graph with its calibration table: a file to a file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from edgeattn.artifacts import Manifest, Parent, check_writable, sha256_of_file
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import ArtifactError, SpecError
from edgeattn.graph.explicit_int8 import explicit_int8_faults
from edgeattn.graph.files import embedded_manifest, load_graph, save_graph
from edgeattn.graph.int8 import quant_scale_from_amax
from edgeattn.graph.passes.balance_channels import balance_channels
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import RECIPES, Decision, Recipe

PRECISIONS = ("int8",)

Progress = Callable[[int, "int | None", str], None]


def quantize(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    table: Path | str,
    precision: str = "int8",
    recipe: Recipe = "linear",
    keep_float: Collection[str] = (),
    balance: float | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write INT8 into a graph: Q/DQ pairs at the tensors that a recipe names, INT8 weights.

    Args:
        graph: The float graph that was calibrated.
        output: The graph to write; by default `NAME.int8.onnx` beside `NAME.onnx`.
        table: Its calibration table.
        precision: `int8`.
        recipe: What to quantize. `linear`: Conv, Gemm and MatMul with constant weights;
            `attention`: input and output of attention as well, and its products where it is
            written out; `full`: also pooling, other products, the skip branch of residual sums.
        keep_float: Names of nodes to leave in float.
        balance: Move range from the channels of activations to the weights that read them before
            anything is rounded: 0.5 shares it evenly, 1 moves all of it; by default nothing is
            moved. The float graph computes the same bits.
        progress: Called with steps done, their number, and a word.

    Returns:
        Path of the quantized graph. Its manifest's report counts what was quantized, lists each
        decision with its reason, and what TensorRT would not compute in INT8 as it is written.

    Raises:
        ArtifactError: If a file is missing or the output's folder is not writable.
        GraphError: If the graph cannot be read or has nothing to quantize.
        SpecError: If precision, recipe or a node to keep in float is unknown.
        TableError: If the table is malformed, of another graph, or has no channels to balance.
    """
    for what, value, known in (
        ("precision", precision, PRECISIONS),
        ("recipe", recipe, RECIPES),
    ):
        if value not in known:
            raise SpecError(
                f"the {what} is {value!r}; this version supports {', '.join(known)}",
                f"use {what} {known[0]}",
            )
    graph, table = Path(graph), Path(table)
    output = graph.with_suffix(f".{precision}.onnx") if output is None else Path(output)
    check_writable(output)
    if output.exists() and graph.exists() and output.samefile(graph):
        raise ArtifactError(
            f"the output {output} is the graph to quantize", "choose another output"
        )

    def step(done: int, what: str) -> None:
        if progress:
            progress(done, 3, what)

    step(0, "reading")
    calib_table = CalibTable.load(table)
    calib_table.check_parent(graph)
    model = load_graph(graph)
    step(1, "quantizing")
    scales, moved = calib_table.quant_scales, list[Decision]()
    if balance is not None:
        model, scales, moved = _balanced(model, calib_table, balance, recipe, keep_float)
    quantized, decisions = insert_qdq(model, scales, recipe, keep_float)
    source = embedded_manifest(model, str(graph))
    inherited = source.options if source else {}  # the inputs' preprocessing among them
    manifest = Manifest(
        kind="graph",
        parents={
            "graph": Parent(graph.name, calib_table.manifest.parents["graph"].sha256),
            "table": Parent(table.name, sha256_of_file(table)),
        },
        options=inherited
        | {"precision": precision, "recipe": recipe, "keep_float": sorted(keep_float)}
        | {"balance": balance},
        report=_report(moved + decisions) | {"tensorrt_faults": explicit_int8_faults(quantized)},
    )
    step(2, "writing")
    save_graph(quantized, output, manifest)
    step(3, "writing")
    return output


def _balanced(
    model: onnx.ModelProto,
    table: CalibTable,
    alpha: float,
    recipe: Recipe,
    keep_float: Collection[str],
) -> tuple[onnx.ModelProto, dict[str, float], list[Decision]]:
    """Balance channels; their tensors get the scales of their new largest magnitudes.

    These follow exactly from what was observed. A threshold below the largest magnitude does not,
    and is not missed: what it clips is mostly the channels that no longer stand out.
    """
    balanced = balance_channels(model, table.channel_amax, alpha, recipe, keep_float)
    scales = {name: float(quant_scale_from_amax(a)) for name, a in balanced.amax.items()}
    return balanced.model, table.quant_scales | scales, balanced.decisions


def _report(decisions: Sequence[Decision]) -> dict[str, Any]:
    quantized = {d.node for d in decisions if d.quantized}
    weights = [d for d in decisions if d.sqnr_db is not None]
    worst = min(weights, key=lambda d: d.sqnr_db or 0.0, default=None)
    return {
        "quantized_nodes": len(quantized),
        "quantized_tensors": len({d.tensor for d in decisions if d.quantized}),
        "float_nodes": len({d.node for d in decisions} - quantized),
        "weight_sqnr_db": {
            "median": statistics.median(d.sqnr_db or 0.0 for d in weights),
            "worst": worst.sqnr_db,
            "worst_tensor": worst.tensor,
        }
        if worst
        else {},
        "decisions": [asdict(decision) for decision in decisions],
    }
