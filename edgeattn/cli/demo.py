"""`edgeattn demo`: the whole path on the shipped model and images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeattn.cli.console import print_json, print_table, size
from edgeattn.cli.options import FILE, json_option
from edgeattn.cli.progress import working

if TYPE_CHECKING:
    from edgeattn.demo import DemoResult


@click.command("demo", epilog="Example: edgeattn demo -o demo/")
@click.option(
    "-o",
    "--output",
    type=FILE,
    default=Path("demo"),
    show_default=True,
    help="Folder for the files.",
)
@json_option
def command(output: Path, as_json: bool) -> None:
    """Walk the whole path on the shipped model and images.

    Export, calibrate, quantize, build, compare and profile, on the CPU. edgeattn/demo.py is the
    same in Python, one call per step.
    """
    from edgeattn.demo import run_demo

    with working() as progress:
        result = run_demo(output, progress)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)


def _print(result: DemoResult) -> None:
    columns = ("engine", "top-1 %", "p50 ms", "p99 ms", "images/s", "size", "SQNR dB")
    rows = [
        (
            row.precision,
            f"{row.top1:.2f}",
            f"{row.p50_ms:.3f}",
            "-" if row.p99_ms is None else f"{row.p99_ms:.3f}",
            f"{row.throughput_qps:.0f}",
            size(row.size_bytes),
            "-" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
        )
        for row in result.rows
    ]
    print_table(columns, rows)
    click.echo(f"top-1 on {result.num_images} held-out images; latency of one image")
    click.echo(f"INT8 arithmetic of the CPU engine: {result.int8_arithmetic}")
    click.echo("files:")
    for file in result.files:
        click.echo(f"  {file}")
