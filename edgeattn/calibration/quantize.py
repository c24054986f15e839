"""Write the precision into a graph, INT8 with its calibration table: a file to a file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import onnx

from edgeattn.artifacts import Manifest, Parent, check_writable, sha256_of_file
from edgeattn.calibration.data import open_batches
from edgeattn.calibration.float_graph import load_float_graph
from edgeattn.calibration.gate import search_keep_float
from edgeattn.calibration.goal import read_goal, warn_of_random
from edgeattn.calibration.half import apply_half
from edgeattn.calibration.int8 import apply_int8
from edgeattn.calibration.labelled import load_samples
from edgeattn.calibration.sources import DataSource
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import ArtifactError, SpecError
from edgeattn.graph.explicit_int8 import explicit_int8_faults
from edgeattn.graph.files import (
    embedded_manifest,
    graph_sha256,
    input_specs,
    save_graph,
)
from edgeattn.graph.half_placement import MIN_QDQ_OPSET, check_float32
from edgeattn.graph.half_types import HalfType
from edgeattn.graph.nodes import standard_opset
from edgeattn.graph.placement import MIN_OPSET, RECIPES, Recipe

# Mean errors per channel, over all places of these, are known to a hundredth; how large tensors
# get, within the margin of the overflow check.
SAMPLES = 64

PRECISIONS = ("int8", "fp16", "bf16", "int8+fp16", "int8+bf16")
_HALF_TYPES: dict[str, HalfType] = {"fp16": "float16", "bf16": "bfloat16"}

Progress = Callable[[int, "int | None", str], None]


def quantize(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    table: Path | str | None = None,
    precision: str = "int8",
    recipe: Recipe = "linear",
    keep_float: Collection[str] = (),
    balance: float | None = None,
    correct_bias: bool = False,
    data: DataSource | None = None,
    half_io: bool = False,
    min_sqnr: float | None = None,
    max_drop: float | None = None,
    labels: Any = None,
    samples: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the precision into a graph.

    INT8 are Q/DQ pairs at the tensors that a recipe names, and INT8 weights. FP16 and BF16 are
    weights and Casts of that type; normalization, softmax and what else would lose its digits
    stays in float32 (`edgeattn.graph.half_placement`). An older opset is raised to the first that
    has these: 13, and 19 for INT8 with a half type.

    Args:
        graph: The float graph, for INT8 the one that was calibrated.
        output: The graph to write; by default `NAME.int8.onnx` beside `NAME.onnx`.
        table: Its calibration table, which INT8 needs. Without `data` its ranges also serve the
            overflow check of FP16.
        precision: `int8`, `fp16`, `bf16`, or `int8+fp16` and `int8+bf16`: what does not become
            INT8 becomes half as wide.
        recipe: What to quantize. `linear`: Conv, Gemm and MatMul with constant weights;
            `attention`: input and output of attention as well, and its products where it is
            written out; `full`: also pooling, other products, the skip branch of residual sums.
        keep_float: Names of nodes to leave in float: out of INT8, or in float32 where the
            precision has no INT8. Those that the table's recipe named stay out of INT8 too.
        balance: Move range from the channels of activations to the weights that read them before
            anything is rounded: 0.5 shares it evenly, 1 moves all of it; by default nothing is
            moved. The float graph computes the same bits.
        correct_bias: Run some of the data, and take the mean error that INT8 makes in each channel
            of each layer out of its bias.
        data: Real inputs, as `calibrate` takes them: for `correct_bias`, and for FP16, which then
            keeps in float32 what passes its range on them, with a margin. At most 64 are run.
        half_io: Give the graph's inputs and outputs the half type too; they stay float32 else.
        min_sqnr: Keep as few layers in float as it takes for the output to have this signal to
            noise ratio on the data, in dB.
        max_drop: The same so that top-1 falls by no more than these percentage points.
        labels: Class indices of the data, for `max_drop`: an array, or a `.npy` or `.npz` file; by
            default an array `label` among the data.
        samples: Most samples for `min_sqnr` and `max_drop`; by default 64, with labels 1000.
        progress: Called with steps done, their number, and a word.

    Returns:
        Path of the quantized graph. Its manifest's report counts what was quantized, lists each
        decision with its reason, and what TensorRT would not compute in INT8 as it is written.

    Raises:
        AccuracyError: If `min_sqnr` or `max_drop` cannot be met. The best graph found is written.
        ArtifactError: If a file is missing or the output's folder is not writable.
        DataError: If the data cannot be read or does not fit the graph.
        GraphError: If the graph cannot be read, has nothing to quantize, or is of a half type.
        SpecError: If precision, recipe or a node to keep in float is unknown, or an option does not
            go with the precision.
        TableError: If the table is malformed, of another graph, or has no channels to balance.
    """
    check_precision(precision, table=table)
    _check_known("recipe", recipe, RECIPES)
    is_int8, half = precision.startswith("int8"), _HALF_TYPES.get(precision.removeprefix("int8+"))
    _check_options(
        precision,
        balance=balance,
        correct_bias=correct_bias,
        data=data,
        half_io=half_io,
    )
    goal = read_goal(
        min_sqnr, max_drop, precision=precision, data=data, labels=labels, samples=samples
    )
    if data is not None and precision == "int8" and goal is None and not correct_bias:
        raise SpecError(
            "there is data, and nothing that would run it",
            "ask for correct_bias, min_sqnr or max_drop, or leave the data out",
        )
    graph = Path(graph)
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
    calib_table, parents = None, {}
    if table is not None:
        calib_table = CalibTable.load(table)
        calib_table.check_parent(graph)
        if is_int8:  # what its recipe left out
            keep_float = {*keep_float, *calib_table.manifest.options.get("keep_float", ())}
        parents["table"] = Parent(Path(table).name, sha256_of_file(Path(table)))
        warn_of_random(calib_table, goal)
    opset = MIN_QDQ_OPSET if is_int8 and half is not None else MIN_OPSET
    model = load_float_graph(graph, opset)
    check_float32(model)
    batches = judged = None
    if goal is not None and data is not None:
        judged = load_samples(data, input_specs(model), labels, most=samples)
        parents["data"] = judged.parent
        data = judged.half(0).arrays  # what is held out corrects no bias
    if data is not None and (correct_bias or half == "float16"):
        opened = open_batches(data, input_specs(model), samples=SAMPLES)
        batches = list(opened)  # each step runs them
        parents.setdefault("data", Parent(opened.label, opened.sha256))

    def correcting(done: int, total: int) -> None:
        if progress:
            progress(done, total, "correcting biases")

    def typed(keep_float: Collection[str]) -> tuple[onnx.ModelProto, dict[str, Any]]:
        result, report = model, dict[str, Any]()
        if is_int8 and calib_table is not None:
            result, report = apply_int8(
                result,
                calib_table,
                recipe,
                keep_float,
                balance=balance,
                correction=batches if correct_bias else None,
                progress=correcting if goal is None else None,  # a search shows its own
            )
        if half is not None:
            kept = () if is_int8 else keep_float
            result, found = apply_half(
                result, half, batches=batches, table=calib_table, keep_float=kept, half_io=half_io
            )
            report |= found
        return result, report

    gate = None
    if goal is not None and judged is not None and calib_table is not None:
        gate = search_keep_float(
            model,
            lambda kept: typed(kept)[0],
            goal,
            judged,
            recipe=recipe,
            scales=calib_table.quant_scales,
            keep_float=keep_float,
            progress=progress,
        )
        keep_float = {*keep_float, *gate.keep_float}
    step(1, "quantizing")
    model, report = typed(keep_float)
    if gate is not None:
        report["gate"] = gate.report
    report["opset"] = standard_opset(model)
    if is_int8:
        report["tensorrt_faults"] = explicit_int8_faults(model)
    source = embedded_manifest(model, str(graph))
    inherited = source.options if source else {}  # the inputs' preprocessing among them
    manifest = Manifest(
        kind="graph",
        parents={"graph": Parent(graph.name, graph_sha256(graph))} | parents,
        options=inherited
        | {"precision": precision, "keep_float": sorted(keep_float)}
        | ({"recipe": recipe, "balance": balance, "correct_bias": correct_bias} if is_int8 else {}),
        report=report,
    )
    step(2, "writing")
    save_graph(model, output, manifest)
    step(3, "writing")
    if gate is not None:
        gate.check(output)
    return output


def check_precision(precision: str, *, table: Path | str | None) -> None:
    """Refuse a precision that nobody can write into a graph, before it is read.

    Args:
        precision: As `quantize` takes it.
        table: The graph's calibration table; `None` if there is none.

    Raises:
        SpecError: If it is unknown, or needs a table.
    """
    _check_known("precision", precision, PRECISIONS)
    if precision.startswith("int8") and table is None:
        raise SpecError(
            f"the precision {precision} needs a calibration table",
            "make one with edgeattn calibrate, or use fp16 or bf16",
        )


def _check_known(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SpecError(
            f"the {what} is {value!r}; this version supports {', '.join(known)}",
            f"use {what} {known[0]}",
        )


def _check_options(
    precision: str,
    *,
    balance: float | None,
    correct_bias: bool,
    data: Any,
    half_io: bool,
) -> None:
    """Refuse options that the precision has no use for.

    Raises:
        SpecError: It names the option.
    """
    if precision.startswith("int8"):
        if correct_bias and data is None:
            raise SpecError(
                "biases are corrected by running data, and there is none",
                "give some of what the graph was calibrated with",
            )
    elif balance is not None or correct_bias:
        option = "correct_bias" if balance is None else "balance"
        raise SpecError(
            f"{option} is an option of INT8; the precision is {precision}", "leave it out"
        )
    if half_io and precision == "int8":
        raise SpecError(
            "half_io is an option of FP16 and BF16; the precision is int8", "use int8+fp16"
        )
