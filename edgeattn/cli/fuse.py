"""`edgeattn fuse`: window attention that a graph writes out to one node each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeattn.cli.artifact import print_written
from edgeattn.cli.console import size
from edgeattn.cli.fuse_text import print_attentions
from edgeattn.cli.options import FILE, GraphVerb, json_option, output_option
from edgeattn.cli.progress import working

if TYPE_CHECKING:
    from edgeattn.graph.fusion.found import GlobalChoice


@click.command(
    "fuse", cls=GraphVerb, epilog="Example: edgeattn fuse swin.onnx -o swin.fused.onnx --explain"
)
@click.argument("graph", type=FILE)
@click.option(
    "--explain",
    is_flag=True,
    help="List each attention: its windows, or why it was left. Without -o nothing is written.",
)
@click.option(
    "--global-attention/--no-global-attention",
    default=None,
    help="Fuse attention of every token to every token too, as one window of the whole map: all of "
    "it, or none. Default: what is predicted to pay off on --target; none without one.",
)
@click.option(
    "--target",
    metavar="BOARD",
    help="Where the engine shall run, with TensorRT: attention of every token to every token is "
    "fused if that is predicted to pay off there. `edgeattn targets` lists them.",
)
@click.option(
    "--precision",
    type=click.Choice(("fp32", "fp16", "bf16")),
    help="What the engine shall compute in there. Default: fp16.",
)
@click.option(
    "--require-all",
    is_flag=True,
    help="Exit with 1, writing nothing, if an attention cannot be fused.",
)
@output_option("The graph to write. Default: beside the graph, NAME.fused.onnx")
@json_option
def command(
    graph: Path,
    explain: bool,
    global_attention: bool | None,
    target: str | None,
    precision: str | None,
    require_all: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Find window attention in a graph, and fuse it.

    GRAPH is any ONNX graph, of any exporter. One node takes the place of each window attention that
    it writes out. What an attention computes counts, not how it is written: windows, shift, mask
    and position bias are read off by following every token. Each rewrite is run against what it
    replaces. Attention that is not in windows is left as it is, unless it is asked for. The new
    graph belongs to calibrate, quantize and build as an exported one does.
    """
    import edgeattn
    from edgeattn.artifacts import read_manifest
    from edgeattn.graph.fuse_report import fusion_line

    if precision and not target:
        raise click.UsageError("--precision is of the engine on a board: add --target")
    choice: bool | GlobalChoice = bool(global_attention)
    if target:
        from edgeattn.engine.tensorrt.global_attention import choice_for_target

        of_target = choice_for_target(target, precision or "fp16")
        choice = of_target if global_attention is None else global_attention
    asked: dict[str, Any] = {"global_attention": choice, "require_all": require_all}
    path = None
    with working() as progress:
        if explain and output is None:
            manifest = edgeattn.fuse(graph, dry_run=True, progress=progress, **asked)
        else:
            path = edgeattn.fuse(graph, output, progress=progress, **asked)
            manifest = read_manifest(path, verify=False)
    if as_json:
        print_written(path, manifest, as_json)
        return
    if explain:
        print_attentions(manifest.report)
    click.echo(f"attention: {fusion_line(manifest.report)}")
    if path is not None:
        click.echo(f"wrote {path} ({size(path.stat().st_size)})")
