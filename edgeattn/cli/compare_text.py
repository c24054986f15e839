"""What `compare` prints of comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from edgeattn.cli.console import print_table
from edgeattn.cli.report_text import STATISTICS, latency_row

if TYPE_CHECKING:
    from edgeattn.graph.compare import OutputComparison
    from edgeattn.profiling.comparison.modules import ModulePair
    from edgeattn.profiling.comparison.ratio import Ratio
    from edgeattn.profiling.comparison.result import Comparison, Comparisons

_ACCURACY = ("max abs error", "max rel error", "SQNR dB", "centred", "cosine", "top-1 agreement")
# Of the modules, those where most of the difference is made.
_MOST_MODULES = 12


def print_comparisons(found: Comparisons) -> None:
    """Print the figures to stdout."""
    is_one = len(found.pairs) == 1
    for side in found.sides:
        click.echo(f"{side.letter:<11} {side.name}; {side.mode_name}")
    rows = [
        [name if is_one else f"{pair.b.letter} {name}", *_accuracy_row(output)]
        for pair in found.pairs
        for name, output in pair.outputs.items()
    ]
    if rows:
        samples = max(pair.num_samples for pair in found.pairs)
        print_table((f"output, {samples} samples", *_ACCURACY), rows)
    latencies = [(side.letter, side.latency) for side in found.sides]
    timed = [[letter, *latency_row(stats)] for letter, stats in latencies if stats]
    if timed:
        print_table(("ms", *STATISTICS), timed)
    for pair in found.pairs:
        if pair.modules:
            _print_modules(pair)
    for pair in found.pairs:
        for name, text in _fields(pair):
            click.echo(f"{name:<11} {text}")


def _accuracy_row(output: OutputComparison) -> list[str]:
    return [
        f"{output.max_abs_error:.3g}",
        f"{output.max_rel_error:.3g}",
        f"{output.sqnr_db:.1f}",
        "-" if output.centred_sqnr_db is None else f"{output.centred_sqnr_db:.1f}",
        f"{output.cosine:.6f}",
        "-" if output.top1_agreement is None else f"{output.top1_agreement:.2f}%",
    ]


def _fields(pair: Comparison) -> Iterator[tuple[str, str]]:
    b = pair.b.letter
    for name, words in (("p50", "median"), ("p99", "99th percentile")):
        if name in pair.ratios:
            text = f"{b} takes {pair.ratios[name].value:.2f} of A's {words}"
            yield "latency", text + _confidence(pair.ratios[name])
    ours, theirs = pair.a.energy_mj, pair.b.energy_mj
    if ours and theirs is not None:
        costs = f"{theirs:.2f} mJ/query, A {ours:.2f}"
        yield "energy", f"{b} takes {theirs / ours:.2f} of A's: {costs}"
    if pair.top1_drop is not None:
        yield (
            "top-1",
            f"A {pair.top1_a:.2f}%, {b} {pair.top1_b:.2f}%: {pair.top1_drop:.2f} points lost",
        )
    reports = [side.letter for side in (pair.a, pair.b) if side.is_report]
    if reports:
        verb = "is a report" if len(reports) == 1 else "are reports"
        yield "accuracy", f"not compared: {' and '.join(reports)} {verb}, and no engine"
    for gate in pair.gates:
        yield f"gate {b}", f"{gate.condition}: {gate.word}, {gate.found}"


def _confidence(ratio: Ratio) -> str:
    if ratio.interval is None:
        return ""
    low, high = ratio.interval
    return f" ({low:.3f} to {high:.3f} with 95 % confidence)"


def _print_modules(pair: Comparison) -> None:
    leaves = [module for module in pair.modules if module.is_leaf]
    leaves.sort(key=lambda module: -abs(module.change_ms))
    b = pair.b.letter
    columns = ("module", "A ms", f"{b} ms", "change ms", "ratio")
    print_table(columns, [_module_row(module) for module in leaves[:_MOST_MODULES]])
    more = len(leaves) - _MOST_MODULES
    if more > 0:
        click.echo(f"and {more} modules that differ less; --json shows them")


def _module_row(module: ModulePair) -> list[str]:
    times = ["-" if ms is None else f"{ms:.3f}" for ms in (module.ms_a, module.ms_b)]
    ratio = "-" if module.ratio is None else f"{module.ratio:.2f}"
    return [module.label, *times, f"{module.change_ms:.3f}", ratio]
