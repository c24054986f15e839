"""What the verbs print to stdout: one JSON object, or tables and fields for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

# Wide enough for a path: a pipe has no width, and a wrapped line is hard to grep.
_PIPE_WIDTH = 400
_LONGEST_LISTING = 8


def print_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object; NaN and infinity, which JSON lacks, become null."""
    click.echo(json.dumps(_finite(values), indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; columns that hold numbers alone are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for c, column in enumerate(columns):
        numbers = all(_is_number(row[c]) for row in rows)
        table.add_column(Text(column), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = (line.rstrip() for line in capture.get().splitlines())
    click.echo("\n".join(line for line in lines if line))


def print_fields(values: Mapping[str, Any], indent: int = 0) -> None:
    """Print names and values, one a line, the entries of deeper mappings further in.

    Long lists of entries are counted: they are for `--json`.
    """
    margin = " " * indent
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        if isinstance(value, Mapping) and any(_is_nested(entry) for entry in value.values()):
            click.echo(f"{margin}{name}")
            print_fields(value, indent + 2)
        elif is_listing(value) and len(value) > _LONGEST_LISTING:
            click.echo(f"{margin}{name:<{width}}  {len(value)} entries; --json shows them")
        else:
            lines = [_plain(v) for v in value] if is_listing(value) else [_plain(value)]
            for line in lines:
                click.echo(f"{margin}{name:<{width}}  {line}".rstrip())
                name = ""


def is_listing(value: Any) -> bool:
    """Tell whether a value is a list of mappings."""
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)


def size(num_bytes: int) -> str:
    """Write a size for people: `1.4 MiB`."""
    value, unit = float(num_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def count(number: float) -> str:
    """Write a large count for people: `28.3 M`."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f}"


def shape(dims: Iterable[int | str]) -> str:
    """Write a shape as the command line reads it: `1x3x224x224`."""
    return "x".join(str(dim) for dim in dims)


def _is_nested(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(entry, int) for entry in value):
            return shape(value)
        more = len(value) - _LONGEST_LISTING
        shown = ", ".join(_plain(entry) for entry in value[:_LONGEST_LISTING]) or "none"
        return f"{shown} and {more} more; --json shows them" if more > 0 else shown
    if isinstance(value, Mapping):
        entries = [f"{name} {_plain(entry)}" for name, entry in value.items() if entry != ""]
        return ", ".join(entries) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _is_number(cell: str) -> bool:
    return bool(cell) and cell[0] in "-0123456789" and all(c in "-0123456789., kMG%" for c in cell)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
