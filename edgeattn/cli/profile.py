"""`edgeattn profile`: an engine to a report of its latency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgeattn.cli.bundle_options import check_rebuild, rebuild_options
from edgeattn.cli.console import print_json
from edgeattn.cli.options import (
    FILE,
    EngineVerb,
    Function,
    GroupedOption,
    json_option,
    output_option,
    shapes_option,
    threads_option,
    timing_options,
)
from edgeattn.cli.progress import working
from edgeattn.cli.report_text import print_report
from edgeattn.cli.tensorrt_options import tensorrt_run_options

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions
    from edgeattn.profiling.report import LatencyReport

# Those of edgeattn.profiling.modes, which the help must not import to know.
MODES = ("host", "device", "trtexec-10", "trtexec-11", "application")


def _file(*spellings: str, **attributes: Any) -> Callable[[Function], Function]:
    return click.option(*spellings, type=FILE, metavar="FILE", **attributes)


def _of_board(*spellings: str, **attributes: Any) -> Callable[[Function], Function]:
    return click.option(*spellings, cls=GroupedOption, group="The board", **attributes)


@click.command(
    "profile",
    cls=EngineVerb,
    epilog="Example: edgeattn profile net.engine -o net.profile.json --html net.html",
)
@click.argument("engine", type=FILE)
@click.option("--inputs", type=FILE, help="A .npz file: arrays by input name. Default: random.")
@shapes_option
@timing_options
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    metavar="S",
    default=0.0,
    help="Go on until the spread of the latencies has settled, for at most so many seconds more.",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help="What the latency holds: what trtexec 10 or 11 measures by default, or what a Python "
    "caller waits for. Default: host or device, as the engine is.",
)
@click.option(
    "--streams",
    "--infStreams",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Queries in flight at the same time, for the throughput.",
)
@threads_option
@rebuild_options
@output_option("The report to write, each query's times in it: NAME.profile.json")
@_file("--html", "html", help="The same as a page for any browser: NAME.html")
@_file("--trace", "trace", help="A trace for ui.perfetto.dev: NAME.trace.json")
@_file("--export-times", "--exportTimes", "export_times", help="The queries, as trtexec has them.")
@_file("--export-profile", "--exportProfile", "export_profile", help="The layers, likewise.")
@click.option(
    "--layers/--no-layers",
    "--dumpProfile",
    "layers",
    default=None,
    help="Measure where the time goes, in queries of their own. Default: if a file is written.",
)
@click.option(
    "--repeat-builds",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    help="Build the engine N times more first, tell how builds differ, and keep the fastest.",
)
@click.option(
    "--sources",
    type=FILE,
    metavar="DIR",
    help="Folder of its graph and table for that. Default: beside the engine.",
)
@_of_board("--no-board", is_flag=True, help="Do not watch clocks, temperatures and power.")
@_of_board(
    "--idle",
    type=click.FloatRange(min=0),
    metavar="S",
    default=1.0,
    show_default=True,
    help="How long the board rests first: a query's energy is that above rest. Only where its "
    "power can be read.",
)
@_of_board(
    "--sustained",
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    default=0.0,
    help="Go on for so long, and say how each minute went. Ctrl-C keeps the minutes so far.",
)
@_of_board(
    "--lock-clocks",
    is_flag=True,
    help="Lock the clocks meanwhile; restored afterwards. Needs root.",
)
@json_option
@tensorrt_run_options
def command(
    engine: Path,
    inputs: Path | None,
    shapes: dict[str, tuple[int, ...]],
    iterations: int,
    duration: float,
    warm_up: float,
    settle: float,
    mode: str | None,
    streams: int,
    threads: int | None,
    rebuild_if_needed: bool,
    bundle: Path | None,
    public_key: Path | None,
    output: Path | None,
    html: Path | None,
    trace: Path | None,
    export_times: Path | None,
    export_profile: Path | None,
    layers: bool | None,
    repeat_builds: int,
    sources: Path | None,
    no_board: bool,
    idle: float,
    sustained: float,
    lock_clocks: bool,
    as_json: bool,
    tensorrt: TensorRtRunOptions | None,
) -> None:
    """Measure an engine's latency and throughput.

    One query at a time unless --streams says otherwise, inputs and outputs in place. Percentiles
    are times that were measured, by nearest rank; in the modes of trtexec they are what that tool
    would print. --json prints the report without single queries and samples of sensors.
    """
    _check_launch_options(mode)
    if no_board and _is_given("idle"):
        raise click.UsageError("--idle is for a board that is watched; leave it or --no-board out")
    check_rebuild(rebuild_if_needed, bundle)
    import edgeattn
    from edgeattn.arrays import read_arrays
    from edgeattn.profiling.report_files import ReportFiles

    files = ReportFiles(output, html, trace, export_times, export_profile)
    written = list(files.paths().values())
    with working() as progress:
        if rebuild_if_needed or public_key is not None:
            edgeattn.load(
                engine,
                tensorrt=tensorrt,
                rebuild_if_needed=rebuild_if_needed,
                bundle=bundle,
                public_key=public_key,
            ).close()
        report = edgeattn.profile(
            engine,
            read_arrays(inputs) if inputs else None,
            iterations=iterations,
            duration_s=duration,
            warm_up_ms=warm_up,
            settle_s=settle,
            mode=mode,
            streams=streams,
            board=not no_board,
            idle_s=idle,
            layers=bool(written) if layers is None else layers,
            sustained_minutes=sustained,
            repeat_builds=repeat_builds,
            sources=sources,
            lock_clocks=lock_clocks,
            output=files,
            shapes=shapes,
            threads=threads,
            tensorrt=tensorrt,
            progress=progress,
        )
    if as_json:
        print_json(_without_samples(report))
        return
    print_report(report)
    for file in written:
        click.echo(f"wrote {file}")


def _check_launch_options(mode: str | None) -> None:
    """Refuse a launch that contradicts the mode, which would otherwise win without a word."""
    from edgeattn.profiling.modes import MODES

    ctx = click.get_current_context()
    for name in ("cuda_graph", "zero_copy"):
        wanted = getattr(MODES[mode], name) if mode else None
        given = ctx.params[name]
        if _is_given(name) and wanted is not None and given != wanted:
            option = name.replace("_", "-")
            raise click.UsageError(
                f"--mode {mode} measures {'with' if wanted else 'without'} {option}; leave "
                f"--{'' if given else 'no-'}{option} out, or choose another mode"
            )


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not ParameterSource.DEFAULT


def _without_samples(report: LatencyReport) -> dict[str, Any]:
    """Give the report without what is long: single queries, layers twice, samples of sensors."""
    values = report.to_dict()
    del values["exportTimes"], values["exportProfile"], values["board"]
    if report.sustained:
        del values["sustained"]["board"]
    return values
