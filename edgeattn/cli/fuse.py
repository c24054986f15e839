"""`edgeattn fuse`: window attention that a graph writes out to one node each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeattn.cli.artifact import print_written
from edgeattn.cli.console import size
from edgeattn.cli.fuse_text import print_attentions
from edgeattn.cli.options import FILE, GraphVerb, json_option, output_option
from edgeattn.cli.progress import working


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
    "--global-attention",
    is_flag=True,
    help="Fuse attention of every token to every token too, as one window of the whole map.",
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
    global_attention: bool,
    require_all: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Find window attention in a graph, and fuse it.

    GRAPH is any ONNX graph, of any exporter. One node takes the place of each window attention that
    it writes out. What an attention computes counts, not how it is written: windows, shift, mask
    and position bias are read off by following every token. Each rewrite is run against what it
    replaces. Attention that is not in windows is left as it is. The new graph belongs to calibrate,
    quantize and build as an exported one does.
    """
    import edgeattn
    from edgeattn.artifacts import read_manifest
    from edgeattn.graph.fuse_report import fusion_line

    asked: dict[str, Any] = {"global_attention": global_attention, "require_all": require_all}
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
