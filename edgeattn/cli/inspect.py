"""`edgeattn inspect`: what a file is and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeattn.cli.console import print_fields, print_json, print_table, shape
from edgeattn.cli.options import FILE, json_option


@click.command("inspect", epilog="Example: edgeattn inspect net.int8.onnx")
@click.argument("file", type=FILE)
@json_option
def command(file: Path, as_json: bool) -> None:
    """Describe any file that edgeattn writes or reads.

    Graphs, calibration tables, engines and reports; any other ONNX graph too.
    """
    from edgeattn.inspection import describe

    described = describe(file)
    if as_json:
        print_json(described)
        return
    attention = described.pop("attention", [])
    print_fields(described)
    if attention:
        rows = [
            (node["name"] if g == 0 else "", *_group_row(group))
            for node in attention
            for g, group in enumerate(node["groups"])
        ]
        print_table(("attention node", "heads", "window", "shift", "mode", "dilation"), rows)


def _group_row(group: dict[str, Any]) -> tuple[str, ...]:
    first, last = group["head_offset"], group["head_offset"] + group["num_heads"] - 1
    return (
        f"{first}" if first == last else f"{first} to {last}",
        shape(tokens or "all" for tokens in group["window_size"]),
        shape(group["shift_size"]),
        group["mode"] + (", causal" if group["causal"] else ""),
        shape(group["dilation"]),
    )
