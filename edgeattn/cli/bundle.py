"""`edgeattn bundle`: a graph and all that a board needs with it, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeattn.arrays import read_arrays
from edgeattn.cli.console import print_fields, print_json, print_table, size
from edgeattn.cli.options import FILE, PRECISIONS, GraphVerb, json_option, output_option
from edgeattn.cli.progress import working
from edgeattn.cli.tensorrt_options import tensorrt_bundle_options

if TYPE_CHECKING:
    from edgeattn.bundle.format import BundleEntry


@click.command(
    "bundle",
    cls=GraphVerb,
    epilog="Example: edgeattn bundle net.int8.onnx --target jetson-orin-nano --key key.pem -o "
    "net.zip",
)
@click.argument("graph", type=FILE)
@click.option("--table", type=FILE, help="The table that it was, or shall be, quantized with.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Precision to write in on the way."
)
@click.option(
    "--portable",
    type=FILE,
    metavar="ONNX",
    help="The graph in float, for any ONNX runtime. Default: GRAPH in standard operators.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "cpu", "tensorrt"]),
    default="auto",
    show_default=True,
    help="What the board builds; auto is TensorRT where it is installed and there is a GPU.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="BOARD",
    help="A board that it is for, one of `edgeattn targets`; again for more. Default: any.",
)
@click.option(
    "--plugin",
    type=click.Choice(["auto", "source", "none"]),
    default="auto",
    show_default=True,
    help="Whether the plugin's source goes along, which the board compiles; auto: if the graph "
    "has attention for it and no library is given.",
)
@click.option(
    "--plugin-library",
    "libraries",
    type=FILE,
    multiple=True,
    help="A plugin library that `edgeattn plugin build --target` made for a board; again for more.",
)
@click.option("--labels", type=FILE, help="A text file with the name of each class on a line.")
@click.option(
    "--golden-inputs",
    type=FILE,
    metavar="NPZ",
    help="Real samples that the board is verified with. Default: random ones.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the random golden samples."
)
@click.option("--key", type=FILE, metavar="PEM", help="Private Ed25519 key to sign with.")
@click.option("--name", help="What to call it. Default: the graph's name.")
@output_option("The bundle to write. Default: beside the graph, NAME.zip")
@json_option
@tensorrt_bundle_options
def command(
    graph: Path,
    output: Path | None,
    golden_inputs: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Pack a graph for boards that build, verify and run it.

    The board needs nothing else: graphs, table, plugin, labels, and golden inputs with the outputs
    that its engine has to give. `edgeattn deploy` brings it there; `edgeattn build BUNDLE` is what
    the board does; `edgeattn run BUNDLE` runs it anywhere, on the CPU.
    """
    from edgeattn.artifacts import sha256_of_file
    from edgeattn.bundle.write import write_bundle

    output = graph.with_suffix(".zip") if output is None else output
    with working() as progress:
        manifest = write_bundle(
            graph,
            output,
            golden_inputs=None if golden_inputs is None else read_arrays(golden_inputs),
            progress=progress,
            **options,
        )
    if as_json:
        print_json({"file": str(output), "sha256": sha256_of_file(output), **manifest.to_dict()})
        return
    key = manifest.manifest.options["key"]
    click.echo(f"wrote {output} ({size(output.stat().st_size)})")
    print_fields({"signed": f"with the key {key}" if key else "no"}, indent=2)
    print_fields(manifest.manifest.report, indent=2)
    print_table(("role", "files", "size"), role_rows(manifest.entries))


def role_rows(entries: tuple[BundleEntry, ...]) -> list[tuple[str, str, str]]:
    """Count the files of a bundle by what they are there for."""
    rows = []
    for role in dict.fromkeys(entry.role for entry in entries):
        of_role = [entry for entry in entries if entry.role == role]
        what = of_role[0].name if len(of_role) == 1 else f"{len(of_role)} files"
        rows.append((role, what, size(sum(entry.size for entry in of_role))))
    return rows
