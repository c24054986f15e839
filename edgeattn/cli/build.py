"""`edgeattn build`: a graph to an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeattn.cli.artifact import print_written
from edgeattn.cli.console import print_json
from edgeattn.cli.options import FILE, PRECISIONS, GraphVerb, json_option, output_option
from edgeattn.cli.progress import working
from edgeattn.cli.tensorrt_options import tensorrt_options

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.plan import BuildPlan
    from edgeattn.engine.tensorrt.request import TensorRtRequest


@click.command("build", cls=GraphVerb, epilog="Example: edgeattn build net.int8.onnx -o net.engine")
@click.argument("graph", type=FILE)
@click.option(
    "--engine",
    type=click.Choice(["auto", "cpu", "tensorrt"]),
    default="auto",
    show_default=True,
    help="What will run it: cpu is ONNX Runtime; auto is TensorRT where it is installed and there "
    "is a GPU, or where one of its options is given.",
)
@click.option("--table", type=FILE, help="Quantize with this table on the way.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Precision to write in on the way."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads of the CPU engine. Default: all physical cores.",
)
@click.option("--dry-run", "--dryRun", is_flag=True, help="Show what would be built only.")
@click.option(
    "--verify",
    is_flag=True,
    help="Check the engine against the graph and against itself before it is written.",
)
@output_option("The engine to write. Default: beside the graph, NAME.engine", "--saveEngine")
@json_option
@tensorrt_options
def command(
    graph: Path,
    engine: str,
    table: Path | None,
    precision: str | None,
    threads: int | None,
    dry_run: bool,
    verify: bool,
    output: Path | None,
    as_json: bool,
    tensorrt: TensorRtRequest | None,
) -> None:
    """Build an engine from a graph.

    GRAPH is any ONNX graph; attention nodes are turned into what the engine can run. Precision is
    in the graph: see `edgeattn quantize`. A TensorRT engine is built on the GPU that runs it;
    --dry-run plans for any board, on any machine.
    """
    import edgeattn
    from edgeattn.artifacts import Manifest, read_manifest

    options: dict[str, Any] = {
        "engine": engine,
        "table": table,
        "precision": precision,
        "threads": threads,
        "dry_run": dry_run,
        "verify": verify,
        "tensorrt": tensorrt,
    }
    with working() as progress:
        built = edgeattn.build(graph, output, progress=progress, **options)
    if isinstance(built, Manifest):
        print_written(None, built, as_json)
    elif isinstance(built, Path):
        print_written(built, read_manifest(built, verify=False), as_json)
    else:
        _print_plan(built, as_json)


def _print_plan(plan: BuildPlan, as_json: bool) -> None:
    from edgeattn.engine.tensorrt.plan_text import plan_lines

    if as_json:
        print_json(plan.to_dict())
    else:
        click.echo("\n".join(plan_lines(plan)))
