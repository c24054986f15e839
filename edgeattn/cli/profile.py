"""`edgeattn profile`: an engine to a report of its latency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgeattn.cli.console import print_json, print_table, shape
from edgeattn.cli.options import (
    FILE,
    EngineVerb,
    json_option,
    output_option,
    shapes_option,
    threads_option,
    timing_options,
)
from edgeattn.cli.progress import working
from edgeattn.cli.tensorrt_options import tensorrt_run_options

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions
    from edgeattn.profiling.profile import LatencyReport
    from edgeattn.profiling.stats import LatencyStats

STATISTICS = ("p50", "p90", "p95", "p99", "p99.9", "mean", "min", "max")
# Those of edgeattn.profiling.modes, which the help must not import to know.
MODES = ("host", "device", "trtexec-10", "trtexec-11", "application")


@click.command(
    "profile",
    cls=EngineVerb,
    epilog="Example: edgeattn profile net.engine --duration 5 -o net.profile.json",
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
@output_option("The report to write, each query's times in it: NAME.profile.json")
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
    output: Path | None,
    as_json: bool,
    tensorrt: TensorRtRunOptions | None,
) -> None:
    """Measure an engine's latency and throughput.

    One query at a time unless --streams says otherwise, inputs and outputs in place. Percentiles
    are times that were measured, by nearest rank; in the modes of trtexec they are what that tool
    would print. --json prints the report without the times of single queries.
    """
    _check_launch_options(mode)
    import edgeattn
    from edgeattn.arrays import read_arrays

    with working() as progress:
        report = edgeattn.profile(
            engine,
            read_arrays(inputs) if inputs else None,
            iterations=iterations,
            duration_s=duration,
            warm_up_ms=warm_up,
            settle_s=settle,
            mode=mode,
            streams=streams,
            output=output,
            shapes=shapes,
            threads=threads,
            tensorrt=tensorrt,
            progress=progress,
        )
    if as_json:
        print_json(_without_queries(report))
    else:
        _print(report)
    if output and not as_json:
        click.echo(f"wrote {output}")


def latency_row(stats: LatencyStats) -> list[str]:
    """Write the statistics as table cells, in milliseconds."""
    values = [getattr(stats, f"{name.replace('.', '_')}_ms") for name in STATISTICS]
    return ["-" if value is None else f"{value:.3f}" for value in values]


def _print(report: LatencyReport) -> None:
    parts = [("latency", report.latency)]
    if report.h2d.max_ms or report.d2h.max_ms:  # an engine on a device copies
        parts += [("h2d", report.h2d), ("compute", report.compute), ("d2h", report.d2h)]
    if report.end_to_end and report.end_to_end != report.latency:
        parts.append(("end to end", report.end_to_end))
    rows = [[name, *latency_row(stats)] for name, stats in parts]
    print_table(("ms", *STATISTICS), rows)
    sizes = ", ".join(f"{name}:{shape(dims)}" for name, dims in report.inputs.items())
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    machine = report.environment
    if report.latency.p50_interval_ms:
        low, high = report.latency.p50_interval_ms
        click.echo(f"median      {low:.3f} to {high:.3f} ms with 95 % confidence")
    click.echo(f"throughput  {report.throughput_qps:.1f} queries/s")
    click.echo(f"queries     {report.latency.num_samples}, {sizes}; {report.mode}")
    click.echo(f"engine      {settings}")
    click.echo(f"machine     {machine.cpu_model}, {machine.usable_cores} cores")
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)


def _check_launch_options(mode: str | None) -> None:
    """Refuse a launch that contradicts the mode, which would otherwise win without a word."""
    from edgeattn.profiling.modes import MODES

    ctx = click.get_current_context()
    for name in ("cuda_graph", "zero_copy"):
        wanted = getattr(MODES[mode], name) if mode else None
        given = ctx.params[name]
        is_default = ctx.get_parameter_source(name) is ParameterSource.DEFAULT
        if not is_default and wanted is not None and given != wanted:
            option = name.replace("_", "-")
            raise click.UsageError(
                f"--mode {mode} measures {'with' if wanted else 'without'} {option}; leave "
                f"--{'' if given else 'no-'}{option} out, or choose another mode"
            )


def _without_queries(report: LatencyReport) -> dict[str, Any]:
    values = report.to_dict()
    del values["exportTimes"]
    return values
