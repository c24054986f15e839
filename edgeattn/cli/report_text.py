"""What `profile` prints of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from edgeattn.cli.builds_text import print_builds
from edgeattn.cli.console import print_table, shape
from edgeattn.cli.sustained_text import print_minutes

if TYPE_CHECKING:
    from edgeattn.profiling.board.watch import BoardState
    from edgeattn.profiling.layers.rows import LayerProfile, ModuleRow
    from edgeattn.profiling.report import LatencyReport
    from edgeattn.profiling.stats import LatencyStats

STATISTICS = ("p50", "p90", "p95", "p99", "p99.9", "mean", "min", "max")

# Modules are listed as deep as they stay readable at a glance.
_MOST_MODULES = 24


def latency_row(stats: LatencyStats) -> list[str]:
    """Write the statistics as table cells, in milliseconds."""
    values = [getattr(stats, f"{name.replace('.', '_')}_ms") for name in STATISTICS]
    return ["-" if value is None else f"{value:.3f}" for value in values]


def print_report(report: LatencyReport) -> None:
    """Print the figures to stdout, and what makes them less than trustworthy to stderr."""
    parts = [("latency", report.latency)]
    if report.h2d.max_ms or report.d2h.max_ms:  # an engine on a device copies
        parts += [("h2d", report.h2d), ("compute", report.compute), ("d2h", report.d2h)]
    if report.end_to_end and report.end_to_end != report.latency:
        parts.append(("end to end", report.end_to_end))
    print_table(("ms", *STATISTICS), [[name, *latency_row(stats)] for name, stats in parts])
    if report.layers:
        _print_modules(report.layers)
    if report.builds:
        print_builds(report.builds)
    if report.sustained:
        print_minutes(report.sustained)
    for name, text in _fields(report):
        click.echo(f"{name:<11} {text}")
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)


def _fields(report: LatencyReport) -> Iterator[tuple[str, str]]:
    if report.latency.p50_interval_ms:
        low, high = report.latency.p50_interval_ms
        yield "median", f"{low:.3f} to {high:.3f} ms with 95 % confidence"
    yield "throughput", f"{report.throughput_qps:.1f} queries/s"
    if report.board:
        yield from _board_fields(report.board)
    if report.locked_clocks:
        yield "locked", ", ".join(report.locked_clocks)
    sizes = ", ".join(f"{name}:{shape(dims)}" for name, dims in report.inputs.items())
    yield "queries", f"{report.latency.num_samples}, {sizes}; {report.mode}"
    settings = {name: value for name, value in report.settings.items() if name != "engine"}
    words = [report.manifest.target, *(f"{name} {value}" for name, value in settings.items())]
    yield "engine", ", ".join(words)
    machine = report.environment
    yield "machine", f"{machine.cpu_model}, {machine.usable_cores} cores"


def _board_fields(board: BoardState) -> Iterator[tuple[str, str]]:
    yield "verdict", f"{board.verdict.word}: {'; '.join(board.verdict.reasons)}"
    if board.energy is None:
        yield "energy", f"not known: {board.no_energy}"
        return
    found = board.energy
    above = "" if found.idle_mw is None else f", above {found.idle_mw / 1e3:.2f} W at rest"
    yield "energy", f"{found.mj:.2f} ± {found.std_error_mj:.2f} mJ/query, {found.rail}{above}"


def _print_modules(layers: LayerProfile) -> None:
    rows = [
        [row.label, f"{row.ms:.3f}", f"{100 * row.share:.1f}", str(row.layers)]
        for row in _modules(layers.modules)
    ]
    rows.append(["sum", f"{layers.total_ms:.3f}", _share(layers), str(len(layers.rows))])
    print_table(("module", "ms", "%", "layers"), rows)


def _share(layers: LayerProfile) -> str:
    return f"{100 * layers.total_ms / layers.whole_ms:.1f}" if layers.whole_ms else "-"


def _modules(modules: Sequence[ModuleRow]) -> Sequence[ModuleRow]:
    """Go down from the model as long as the list stays short; a module without parts stays."""
    while True:
        deeper = [part for row in modules for part in (row.children or (row,))]
        if len(deeper) > _MOST_MODULES or len(deeper) == len(modules):
            return modules
        modules = deeper
