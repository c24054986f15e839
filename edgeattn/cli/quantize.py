"""`edgeattn quantize`: a graph to one with its precision in it; INT8 takes a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeattn.cli.artifact import print_written
from edgeattn.cli.console import print_table
from edgeattn.cli.options import FILE, PRECISIONS, GraphVerb, json_option, output_option
from edgeattn.cli.progress import working
from edgeattn.errors import AccuracyError

if TYPE_CHECKING:
    from edgeattn.graph.placement import Recipe


@click.command(
    "quantize",
    cls=GraphVerb,
    epilog="Example: edgeattn quantize net.onnx --table net.calib.json -o net.int8.onnx",
)
@click.argument("graph", type=FILE)
@click.option("--table", type=FILE, help="What `calibrate` wrote for this graph; INT8 needs it.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="int8", show_default=True)
@click.option(
    "--recipe",
    default="linear",
    show_default=True,
    help="What to quantize; linear: Conv, Gemm and MatMul with constant weights; attention: "
    "attention too; full: also pooling, other products, the skip branch of residual sums.",
)
@click.option(
    "--keep-float",
    metavar="NODE",
    multiple=True,
    help="Leave this node in float; --explain shows the names. May be given more than once.",
)
@click.option(
    "--balance",
    type=click.FloatRange(0, 1),
    metavar="ALPHA",
    help="First move range from the channels of activations to the weights that read them; 0.5 "
    "shares it evenly. Changes no result of the float graph.",
)
@click.option(
    "--correct-bias",
    is_flag=True,
    help="Run some of --data and take the mean error of INT8 in each channel out of the biases.",
)
@click.option(
    "--data",
    metavar="PATH",
    help="Real inputs, as `calibrate` takes them: for --correct-bias; FP16 keeps in float32 what "
    "passes its range on them. Without, no tensor is checked but those in the table.",
)
@click.option(
    "--min-sqnr",
    type=float,
    metavar="DB",
    help="Keep as few layers in float as it takes for the output to reach this SQNR on --data; "
    "exit with 1 if none will do. The best graph found is written.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help="The same so that top-1 falls by no more than this.",
)
@click.option(
    "--labels",
    type=FILE,
    help="A .npy or .npz file of class indices, for --max-drop. Default: `label` in --data.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most samples of --data to judge by. Default: 64, with labels 1000.",
)
@click.option("--half-io", is_flag=True, help="FP16 or BF16 inputs and outputs too.")
@click.option("--explain", is_flag=True, help="List each tensor or node: its type, and why.")
@output_option("The graph to write. Default: beside the graph, NAME.PRECISION.onnx")
@json_option
def command(
    graph: Path,
    table: Path | None,
    precision: str,
    recipe: Recipe,
    keep_float: tuple[str, ...],
    balance: float | None,
    correct_bias: bool,
    data: str | None,
    half_io: bool,
    min_sqnr: float | None,
    max_drop: float | None,
    labels: Path | None,
    samples: int | None,
    explain: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write INT8, FP16 or BF16 arithmetic into a graph.

    The precision is in the graph, as pairs of QuantizeLinear and DequantizeLinear, and as Casts
    and weights of the half type: any engine that reads the graph sees the same.
    """
    import edgeattn
    from edgeattn.artifacts import read_manifest

    output = output or graph.with_suffix(f".{precision}.onnx")
    missed = None
    with working() as progress:
        try:
            edgeattn.quantize(
                graph,
                output,
                table=table,
                precision=precision,
                recipe=recipe,
                keep_float=keep_float,
                balance=balance,
                correct_bias=correct_bias,
                data=data,
                half_io=half_io,
                min_sqnr=min_sqnr,
                max_drop=max_drop,
                labels=labels,
                samples=samples,
                progress=progress,
            )
        except AccuracyError as err:  # the best graph found is written: say what it is
            missed = err
    manifest = read_manifest(output, verify=False)
    if explain and not as_json:
        _print_decisions(manifest.report.get("decisions", []))
        _print_node_types(manifest.report.get("node_types", []))
    print_written(output, manifest, as_json)
    if missed:
        raise missed


def _print_node_types(nodes: list[dict[str, Any]]) -> None:
    columns = ("node", "op_type", "kept", "reason")
    if nodes:
        headings = ("node", "operator", "computes in", "reason")
        print_table(headings, [tuple(node[column] for column in columns) for node in nodes])


def _print_decisions(decisions: list[dict[str, Any]]) -> None:
    if not decisions:
        return
    rows = [
        (
            decision["node"],
            decision["tensor"],
            "int8" if decision["quantized"] else "float",
            "-" if decision["sqnr_db"] is None else f"{decision['sqnr_db']:.1f}",
            decision["reason"],
        )
        for decision in decisions
    ]
    print_table(("node", "tensor", "kept in", "SQNR dB", "reason"), rows)
