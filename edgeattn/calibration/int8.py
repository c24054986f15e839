"""The INT8 step of `quantize`: balance channels, place Q/DQ, correct biases, say what was done."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import onnx

from edgeattn.calibration.mean_errors import measure_mean_errors
from edgeattn.calibration.sources import Array
from edgeattn.calibration.table import CalibTable
from edgeattn.graph.int8 import quant_scale_from_amax
from edgeattn.graph.passes.balance_channels import balance_channels
from edgeattn.graph.passes.correct_bias import correct_bias
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import Decision, Recipe, place_qdq

# Biases are corrected on so many samples: a mean over all their places changes little with more,
# and memory holds tensors of all of them (1 GB for a Swin-T).
CORRECTION_SAMPLES = 32


def apply_int8(
    model: onnx.ModelProto,
    table: CalibTable,
    recipe: Recipe = "linear",
    keep_float: Collection[str] = (),
    *,
    balance: float | None = None,
    correction: Sequence[Mapping[str, Array]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Quantize a graph.

    Args:
        model: The float graph that was calibrated; not changed.
        table: Its calibration table.
        recipe: How much to quantize.
        keep_float: Names of nodes that are not quantized.
        balance: How much of the range of activations to move to the weights that read them, 0 to
            1; `None` for not at all. The tensors' new largest magnitudes follow exactly from what
            was observed, and set their scales. A threshold that clips does not follow, and is not
            missed: what it clips is mostly the channels that no longer stand out.
        correction: Batches of inputs to correct biases with, of which the first with
            `CORRECTION_SAMPLES` are run; `None` for not at all.
        progress: Called while biases are corrected, with layers done, and their number.

    Returns:
        The quantized graph, and entries for the manifest's report.

    Raises:
        GraphError: If there is nothing to quantize, or the graph does not run on the batches.
        SpecError: If the recipe, a node to keep in float or the balance is unknown.
        TableError: If the table lacks a scale, or the channels to balance.
    """
    scales, decisions = table.quant_scales, list[Decision]()
    if balance is not None:
        balanced = balance_channels(model, table.channel_amax, balance, recipe, keep_float)
        model, decisions = balanced.model, balanced.decisions
        scales |= {name: float(quant_scale_from_amax(a)) for name, a in balanced.amax.items()}
    quantized, placed = insert_qdq(model, scales, recipe, keep_float)
    decisions += placed
    report = {}
    if correction is not None:
        batches, report["correction_samples"] = _first(correction, CORRECTION_SAMPLES)
        placement = place_qdq(model, recipe, keep_float)
        shifts = measure_mean_errors(model, quantized, placement, batches, progress)
        quantized, corrected = correct_bias(quantized, shifts)
        decisions += corrected
    return quantized, _report(decisions) | report


def _first(
    batches: Iterable[Mapping[str, Array]], count: int
) -> tuple[list[Mapping[str, Array]], int]:
    """Take as many whole batches as hold so many samples, at least one; and count the samples."""
    taken: list[Mapping[str, Array]] = []
    samples = 0
    for batch in batches:
        size = len(next(iter(batch.values())))
        if taken and samples + size > count:
            break
        taken.append(batch)
        samples += size
    return taken, samples


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
