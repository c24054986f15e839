"""What `profile` prints of repeated builds: a line for each engine, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeattn.cli.console import print_table

if TYPE_CHECKING:
    from edgeattn.profiling.repeated_builds import BuildRow, RepeatedBuilds

_HEADS = ("build", "p50 ms", "ratio", "95 %", "layers differ", "seconds")
_NAMES = {"present": "before", "again": "again"}


def print_builds(builds: RepeatedBuilds) -> None:
    """Print the engines, the one that was there first, and the sentences below."""
    rows = [_cells(row) for row in builds.rows]
    known = [place for place in range(len(_HEADS)) if any(row[place] != "-" for row in rows)]
    print_table([_HEADS[i] for i in known], [[row[i] for i in known] for row in rows])
    for sentence in builds.sentences:
        click.echo(f"builds      {sentence}")


def _cells(row: BuildRow) -> list[str]:
    interval = row.ratio_interval
    name = _NAMES.get(row.role, str(row.number))
    return [
        f"{name}, kept" if row.kept else name,
        f"{row.latency.p50_ms:.3f}",
        f"{row.ratio:.4f}",
        f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "-",
        "-" if row.differing is None else str(row.differing),
        "-" if row.build_seconds is None else f"{row.build_seconds:.0f}",
    ]
