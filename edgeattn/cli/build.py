"""`edgeattn build`: a graph to an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgeattn.cli.artifact import print_written
from edgeattn.cli.bundle_options import public_key_option
from edgeattn.cli.console import print_json, print_table, size
from edgeattn.cli.options import FILE, PRECISIONS, GraphVerb, json_option, output_option
from edgeattn.cli.progress import working
from edgeattn.cli.tensorrt_options import tensorrt_options

if TYPE_CHECKING:
    from edgeattn.artifacts import Manifest
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
    "--no-fuse",
    is_flag=True,
    help="Leave attention that the graph writes out as it is; see `edgeattn fuse`.",
)
@click.option(
    "--global-attention/--no-global-attention",
    default=None,
    help="Fuse attention of every token to every token too, or leave it to the engine. Default: "
    "what is predicted to be faster with TensorRT; the CPU's is left.",
)
@click.option(
    "--autotune-attention",
    is_flag=True,
    help="Build the graph as it is written and with attention fused, for TensorRT in each way that "
    "--attention names; time them, keep the fastest that is right and report all.",
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
@public_key_option
@json_option
@tensorrt_options
def command(
    graph: Path,
    engine: str,
    table: Path | None,
    precision: str | None,
    no_fuse: bool,
    global_attention: bool | None,
    autotune_attention: bool,
    threads: int | None,
    dry_run: bool,
    verify: bool,
    output: Path | None,
    public_key: Path | None,
    as_json: bool,
    tensorrt: TensorRtRequest | None,
) -> None:
    """Build an engine from a graph or a bundle.

    GRAPH is any ONNX graph. Window attention that it writes out is fused into attention nodes, and
    those are turned into what the engine can run. Precision is in the graph: see `edgeattn
    quantize`. A TensorRT engine is built on the GPU that runs it; --dry-run plans for any board, on
    any machine. A bundle says itself how it is built; its engine is checked against the golden
    outputs and sealed.
    """
    import edgeattn
    from edgeattn.artifacts import Manifest, read_manifest
    from edgeattn.bundle.read import is_bundle

    options: dict[str, Any] = {
        "engine": engine,
        "table": table,
        "precision": precision,
        "fuse": not no_fuse,
        "global_attention": global_attention,
        "autotune_attention": autotune_attention,
        "threads": threads,
        "dry_run": dry_run,
        "verify": verify,
        "tensorrt": tensorrt,
    }
    of_bundle = is_bundle(graph)
    if of_bundle:
        options = _bundle_options(options) | {"public_key": public_key}
    elif public_key is not None:
        raise click.UsageError("--public-key is for bundles, and graphs are not signed")
    with working() as progress:
        if of_bundle:
            built: Any = edgeattn.build_from_bundle(graph, output, progress=progress, **options)
        else:
            built = edgeattn.build(graph, output, progress=progress, **options)
    if isinstance(built, Path):
        manifest = read_manifest(built, verify=False)
        if manifest.target == "tensorrt" and not as_json:
            _print_tensorrt(built, manifest)
        else:
            print_written(built, manifest if as_json else _for_fields(manifest), as_json)
        if not as_json:
            _print_tuning(manifest)
            _print_checks(manifest)
    elif isinstance(built, Manifest):
        print_written(None, built if as_json else _for_fields(built), as_json)
        if not as_json:
            _print_tuning(built)
            _print_checks(built)
    else:
        _print_plan(built, as_json)


def _bundle_options(options: dict[str, Any]) -> dict[str, Any]:
    """Keep what may be said beside a bundle; refuse what the bundle says itself."""
    chooses = options["global_attention"] is not None
    given = options | {"no_fuse": not options["fuse"], "global_attention": chooses}
    names = ("table", "precision", "no_fuse", "global_attention", "autotune_attention")
    for name in (*names, "threads", "dry_run", "tensorrt"):
        if given[name]:
            what = "options of TensorRT are" if name == "tensorrt" else f"--{name} is"
            raise click.UsageError(
                f"{what.replace('_', '-')} not for a bundle, which says how it is built; see "
                "edgeattn inspect BUNDLE"
            )
    source = click.get_current_context().get_parameter_source("engine")
    chosen = {} if source is ParameterSource.DEFAULT else {"engine": options["engine"]}
    return chosen | {"verify": options["verify"]}


def _print_plan(plan: BuildPlan, as_json: bool) -> None:
    from edgeattn.engine.tensorrt.plan_text import plan_lines

    if as_json:
        print_json(plan.to_dict())
    else:
        click.echo("\n".join(plan_lines(plan)))


def _print_tensorrt(path: Path, manifest: Manifest) -> None:
    """Say what was built, beside what was asked for."""
    from edgeattn.engine.tensorrt.build_report import describe_report
    from edgeattn.graph.fuse_report import fusion_line

    click.echo(f"wrote {path} ({size(path.stat().st_size)})")
    lines = describe_report(manifest.report)
    if "fusion" in manifest.report:
        lines.append(f"fusion: {fusion_line(manifest.report['fusion'])}")
    for line in lines:
        click.echo(f"  {line}")


def _for_fields(manifest: Manifest) -> Manifest:
    """Leave out what has lines of its own, and say what became of attention in a line."""
    from edgeattn.graph.fuse_report import fusion_line

    apart = ("autotune", "seal")
    report = {name: value for name, value in manifest.report.items() if name not in apart}
    if "fusion" in report:
        report["fusion"] = fusion_line(report["fusion"])
    return replace(manifest, report=report)


def _print_tuning(manifest: Manifest) -> None:
    """Say how each engine that was tried did."""
    from edgeattn.engine.autotune import autotune_lines

    if "autotune" in manifest.report:
        for line in autotune_lines(manifest.report["autotune"]):
            click.echo(f"  {line}")


def _print_checks(manifest: Manifest) -> None:
    rows = [(c["name"], c["verdict"], c["detail"]) for c in manifest.report.get("verify", [])]
    golden = manifest.report.get("seal", {}).get("golden", [])
    rows += [(f"golden {c['output']}", c["verdict"], c["detail"]) for c in golden]
    if rows:
        print_table(("check", "verdict", "found"), rows)
    if golden:
        click.echo("sealed: it runs where it was verified, and nowhere else")
