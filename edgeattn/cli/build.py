"""`edgeattn build`: a graph to an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeattn.cli.artifact import print_written
from edgeattn.cli.options import FILE, PRECISIONS, GraphVerb, json_option, output_option
from edgeattn.cli.progress import working


@click.command("build", cls=GraphVerb, epilog="Example: edgeattn build net.int8.onnx -o net.engine")
@click.argument("graph", type=FILE)
@click.option(
    "--engine",
    type=click.Choice(["auto", "cpu"]),
    default="auto",
    show_default=True,
    help="What will run it: cpu is ONNX Runtime.",
)
@click.option("--table", type=FILE, help="Quantize with this table on the way.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Precision to write in on the way."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads to run with. Default: all physical cores.",
)
@click.option("--dry-run", "--dryRun", is_flag=True, help="Show what would be built only.")
@output_option("The engine to write. Default: beside the graph, NAME.engine", "--saveEngine")
@json_option
def command(
    graph: Path,
    engine: str,
    table: Path | None,
    precision: str | None,
    threads: int | None,
    dry_run: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Build an engine from a graph.

    GRAPH is any ONNX graph; attention nodes are turned into what the engine can run.
    """
    import edgeattn
    from edgeattn.artifacts import read_manifest

    options: dict[str, Any] = {
        "engine": engine,
        "table": table,
        "precision": precision,
        "threads": threads,
        "dry_run": dry_run,
    }
    with working() as progress:
        built = edgeattn.build(graph, output, progress=progress, **options)
    if isinstance(built, Path):
        print_written(built, read_manifest(built, verify=False), as_json)
    else:
        print_written(None, built, as_json)
