"""`edgeattn targets`: the boards that engines are built for."""

from __future__ import annotations

from dataclasses import asdict

import click

from edgeattn.cli.console import print_json, print_table
from edgeattn.cli.options import json_option
from edgeattn.targets import TARGETS, Gpu


@click.command("targets", epilog="Example: edgeattn targets --json")
@json_option
def command(as_json: bool) -> None:
    """List the boards that engines are built for.

    With their GPU's architecture and figures, and the JetPack releases whose TensorRT is supported.
    --json has the sources.
    """
    if as_json:
        print_json({"targets": [asdict(target) for target in TARGETS.values()]})
        return
    rows = [
        (
            target.name,
            target.machine,
            ", ".join(f"sm_{number}" for number in target.architectures),
            *_figures(target.gpu),
            ", ".join(jetpack.version for jetpack in target.jetpacks) or "-",
        )
        for target in TARGETS.values()
    ]
    print_table(("target", "machine", "GPU", "SMs", "clock GHz", "GB/s", "JetPack"), rows)
    jetpacks = {j.version: j for target in TARGETS.values() for j in target.jetpacks}
    print_table(
        ("JetPack", "L4T", "TensorRT", "CUDA", "Python"),
        [(j.version, j.l4t, j.tensorrt, j.cuda, j.python) for _, j in sorted(jetpacks.items())],
    )


def _figures(gpu: Gpu | None) -> tuple[str, ...]:
    values = (gpu.sm_count, gpu.clock_ghz, gpu.memory_gb_s) if gpu else (None, None, None)
    return tuple("-" if value is None else f"{value:g}" for value in values)
