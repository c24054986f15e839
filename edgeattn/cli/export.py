"""`edgeattn export`: a model to a graph."""

from __future__ import annotations

from pathlib import Path

import click

from edgeattn.cli.artifact import print_written
from edgeattn.cli.options import FILE, json_option, output_option, parse_input_specs
from edgeattn.cli.progress import working
from edgeattn.inputs import InputSpec


@click.command("export", epilog="Example: edgeattn export mswin_nano --dynamic -o net.onnx")
@click.argument("model")
@click.option(
    "--weights",
    type=FILE,
    help="A .safetensors file, or a .pt file of tensors. Default: the shipped weights.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME:1x3x224x224",
    callback=parse_input_specs,
    help="Name and shape of an input, once per input. Default: the registry's.",
)
@click.option("--dynamic", is_flag=True, help="Leave batch, height and width free at run time.")
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX opset, 18 to 23.")
@click.option(
    "--portable", is_flag=True, help="Write standard ONNX operators only, for any ONNX runtime."
)
@click.option("--no-simplify", is_flag=True, help="Leave out onnxsim.")
@output_option("The graph to write. Default: MODEL.onnx")
@json_option
def command(
    model: str,
    weights: Path | None,
    inputs: tuple[InputSpec, ...],
    dynamic: bool,
    opset: int,
    portable: bool,
    no_simplify: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Export a PyTorch model to an ONNX graph.

    MODEL is a name of `edgeattn models`, or module.path:callable that returns a torch module;
    modules of the current folder can be imported.
    """
    import edgeattn
    from edgeattn.artifacts import read_manifest

    with working() as progress:
        path = edgeattn.export(
            model,
            inputs or None,
            output,
            weights=weights,
            dynamic=dynamic,
            opset=opset,
            portable=portable,
            simplify=not no_simplify,
            progress=progress,
        )
    print_written(path, read_manifest(path, verify=False), as_json)
