"""`edgeattn sensitivity`: what INT8 costs in each layer and block, as a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeattn.cli.console import print_json, print_table
from edgeattn.cli.options import FILE, GraphVerb, json_option, output_option
from edgeattn.cli.progress import working

if TYPE_CHECKING:
    from edgeattn.calibration.sensitivity import Effect, Sensitivity
    from edgeattn.graph.placement import Recipe


@click.command(
    "sensitivity",
    cls=GraphVerb,
    epilog="Example: edgeattn sensitivity net.onnx --table net.calib.json --data images/",
)
@click.argument("graph", type=FILE)
@click.option("--table", type=FILE, required=True, help="What `calibrate` wrote for this graph.")
@click.option(
    "--data", metavar="PATH", required=True, help="Real inputs, as `calibrate` takes them."
)
@click.option(
    "--labels",
    type=FILE,
    help="A .npy or .npz file of class indices, for top-1. Default: `label` in --data.",
)
@click.option(
    "--recipe",
    default="linear",
    show_default=True,
    help="What to quantize: linear, attention or full.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most samples. Default: 64, with labels 256.",
)
@output_option("The report to write. Default: beside the graph, NAME.sensitivity.json")
@click.option(
    "--html",
    type=FILE,
    help="The same to look at: one file that needs no network. Default: beside the report, "
    "NAME.sensitivity.html",
)
@json_option
def command(
    graph: Path,
    table: Path,
    data: str,
    labels: Path | None,
    recipe: Recipe,
    samples: int | None,
    output: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Measure what INT8 costs in each layer.

    Each layer, and each block of layers, is quantized alone, and spared alone; what that does to
    the network's output is its sensitivity.
    """
    import edgeattn

    output = output or graph.with_suffix(".sensitivity.json")
    html = html or output.with_suffix(".html")
    with working() as progress:
        found = edgeattn.sensitivity(
            graph,
            table,
            data,
            labels,
            recipe=recipe,
            samples=samples,
            output=output,
            html=html,
            progress=progress,
        )
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
        click.echo(f"wrote {output} and {html}")


def _print(found: Sensitivity) -> None:
    columns = ["alone dB", "without dB"]
    if found.float_top1 is not None:
        columns += ["alone top-1", "without top-1"]
    for what, effects in (("layer", found.layers), ("block", found.blocks)):
        if effects:
            print_table((what, *columns), [_row(effect) for effect in effects])
    click.echo(f"everything in INT8: {_db(found.whole.sqnr_db)} dB, {found.num_samples} samples")
    if found.float_top1 is not None and found.whole.top1 is not None:
        click.echo(f"top-1: float {found.float_top1:.2f}%, INT8 {found.whole.top1:.2f}%")


def _row(effect: Effect) -> list[str]:
    row = [effect.name, _db(effect.alone.sqnr_db), _db(effect.without.sqnr_db)]
    for figures in (effect.alone, effect.without):
        if figures.top1 is not None:
            row.append(f"{figures.top1:.2f}%")
    return row


def _db(value: float) -> str:
    return "no noise" if value == float("inf") else f"{value:.1f}"
