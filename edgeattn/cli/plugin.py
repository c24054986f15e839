"""`edgeattn plugin`: build the attention kernels for a GPU, and check what was built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeattn.cli.console import print_fields, print_json, print_table
from edgeattn.cli.options import FILE, json_option
from edgeattn.cli.progress import working
from edgeattn.errors import PluginError

if TYPE_CHECKING:
    from edgeattn.plugin.build import PluginBuild
    from edgeattn.plugin.check import LibraryCheck


def parse_architectures(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[int, ...]:
    """Read SM numbers in any of their spellings: 87, sm_87, 8.7."""
    numbers = []
    for value in values:
        match = re.fullmatch(r"(?:sm_?)?(\d+)(?:\.(\d))?", value, re.IGNORECASE)
        if match is None:
            raise click.BadParameter(f"{value!r}; expected an SM number such as 87, sm_87 or 8.7")
        numbers.append(int("".join(match.groups(""))))
    return tuple(numbers)


@click.group("plugin", epilog="Example: edgeattn plugin build --target jetson-thor -o lib")
def command() -> None:
    """Build the attention kernels and the TensorRT plugin; check one."""


@command.command(
    "build",
    short_help="Build the kernels, and the plugin where TensorRT's headers are.",
    epilog="Example: edgeattn plugin build --arch 87 --arch 89 -o lib",
)
@click.option(
    "--arch",
    "architectures",
    multiple=True,
    metavar="SM",
    callback=parse_architectures,
    help="GPU architecture by its SM number: 87 Orin; 110 Thor; 86, 89, 120 GeForce RTX 30, 40, "
    "50; 80 A100; 90 H100; 100 B200. Default: those of the target, or of this machine's GPUs.",
)
@click.option("--target", metavar="BOARD", help="One of `edgeattn targets`. Default: this machine.")
@click.option("--jetpack", metavar="VERSION", help="The JetPack release that the board runs.")
@click.option(
    "--tensorrt-include",
    type=FILE,
    metavar="DIR",
    help="Folder of NvInfer.h. Default: where TensorRT's packages put it.",
)
@click.option(
    "--download",
    is_flag=True,
    help="Fetch the CUDA runtime of another machine's processor with pip, if it is missing.",
)
@click.option("-o", "--output", type=FILE, metavar="DIR", help="Folder to copy the libraries to.")
@json_option
def build(
    architectures: tuple[int, ...],
    target: str | None,
    jetpack: str | None,
    tensorrt_include: Path | None,
    download: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Build the kernel library, and the TensorRT plugin where TensorRT's headers are.

    What was built stays in the cache (~/.cache/edgeattn), where `edgeattn` finds it; the same
    source, GPUs and compilers are not compiled twice. Boards with JetPack 6 build on the board.
    """
    from edgeattn.plugin.build import build_plugin

    with working() as progress:
        built = build_plugin(
            architectures,
            target=target,
            jetpack=jetpack,
            tensorrt_include=tensorrt_include,
            output=output,
            download=download,
            progress=progress,
        )
    if as_json:
        print_json(built.to_dict())
    else:
        _print_build(built)


@command.command("check", epilog="Example: edgeattn plugin check lib/libedgeattn_plugin.so --json")
@click.argument("library", type=FILE)
@click.option("--onnx", "graph", type=FILE, help="A graph whose attention nodes it shall serve.")
@click.option(
    "--no-load",
    is_flag=True,
    help="Read the file only: none of its code runs, and no node is tried.",
)
@json_option
def check(library: Path, graph: Path | None, no_load: bool, as_json: bool) -> None:
    """Check what a library holds, needs and serves.

    The file is read, not loaded; its code runs only to ask it about a graph's nodes and, on a GPU,
    to compare its results with ONNX Runtime's, plainly and from a captured CUDA graph. The exit
    code is 1 if anything fails.
    """
    from edgeattn.graph.preflight import check_plugin

    with working():
        checked = check_plugin(library, graph, load=not no_load)
    if as_json:
        print_json(checked.to_dict())
    else:
        _print_check(checked)
    if checked.failures:
        failures = "; ".join(f"{f.what}: {f.detail}" for f in checked.failures)
        raise PluginError(f"{library} fails the check: {failures}")


def _print_build(built: PluginBuild) -> None:
    print_fields(
        {
            "kernels": built.kernels,
            "plugin": built.plugin or "not built",
            "GPU code": ", ".join(f"sm_{number}" for number in built.architectures)
            + f", and PTX of sm_{built.architectures[-1]} for later GPUs",
            "machine": built.machine,
            "CUDA": built.cuda,
            "TensorRT": f"{built.tensorrt} (headers)" if built.tensorrt else "-",
        }
    )
    if built.cached:
        click.echo("nothing was compiled: these were in the cache", err=True)
    for note in built.notes:
        click.echo(f"note: {note}", err=True)


def _print_check(checked: LibraryCheck) -> None:
    print_fields(
        {
            "library": checked.file,
            "kind": {"plugin": "TensorRT plugin", "kernels": "kernel library"}.get(
                checked.kind, checked.kind
            ),
            "machine": checked.machine,
            "its code ran": checked.loaded,
        }
    )
    rows = [(finding.what, finding.verdict, finding.detail) for finding in checked.findings]
    print_table(("looked at", "verdict", "found"), rows)
