"""What `profile` prints of a sustained run: a line for each minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from edgeattn.cli.console import print_table

if TYPE_CHECKING:
    from edgeattn.profiling.sustained import Minute, Sustained


def print_minutes(sustained: Sustained) -> None:
    """Print the minutes, without columns of which nothing is known, and the drift."""
    kept = {
        name: cell
        for name, cell in _COLUMNS.items()
        if any(cell(minute) != "-" for minute in sustained.minutes)
    }
    rows = [
        [str(number), *(cell(minute) for cell in kept.values())]
        for number, minute in enumerate(sustained.minutes, 1)
    ]
    print_table(("minute", *kept), rows)
    if sustained.drift_percent is not None:
        click.echo(
            f"drift       {sustained.drift_percent:+.1f} % from the median of the first full "
            "minute to that of the last"
        )


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _watts(minute: Minute) -> str:
    return "-" if minute.power_mw is None else f"{minute.power_mw / 1e3:.2f}"


_COLUMNS: dict[str, Callable[[Minute], str]] = {
    "s": lambda minute: _number(minute.end_s - minute.start_s, 0),
    "queries": lambda minute: str(minute.num_samples),
    "p50 ms": lambda minute: _number(minute.p50_ms, 3),
    "p99 ms": lambda minute: _number(minute.p99_ms, 3),
    "max ms": lambda minute: _number(minute.max_ms, 3),
    "queries/s": lambda minute: _number(minute.throughput_qps, 1),
    "MHz": lambda minute: _number(minute.clock_mhz, 0),
    "°C": lambda minute: _number(minute.temperature_c, 1),
    "W": _watts,
    "clocks": lambda minute: minute.verdict,
}
