"""`edgeattn run`: an engine on samples, from file to file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeattn.arrays import read_arrays, write_arrays
from edgeattn.cli.bundle_options import check_rebuild, rebuild_options
from edgeattn.cli.console import print_json, print_table, shape
from edgeattn.cli.options import FILE, EngineVerb, batch_size_option, json_option, threads_option
from edgeattn.cli.progress import working
from edgeattn.cli.tensorrt_options import tensorrt_run_options

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

_SHOWN = 20  # samples whose class is told to people


@click.command(
    "run",
    cls=EngineVerb,
    epilog="Example: edgeattn run net.engine --inputs in.npz --outputs out.npz",
)
@click.argument("engine", type=FILE)
@click.option("--inputs", type=FILE, required=True, help="A .npz file: arrays by input name.")
@click.option("--outputs", type=FILE, required=True, help="The .npz file to write.")
@batch_size_option
@threads_option
@rebuild_options
@json_option
@tensorrt_run_options
def command(
    engine: Path,
    inputs: Path,
    outputs: Path,
    batch_size: int,
    threads: int | None,
    rebuild_if_needed: bool,
    bundle: Path | None,
    public_key: Path | None,
    as_json: bool,
    tensorrt: TensorRtRunOptions | None,
) -> None:
    """Run an engine on inputs from a file.

    ENGINE is what `edgeattn build` wrote, an ONNX graph or a bundle. There may be any number of
    samples along axis 0; otherwise types and shapes must be the engine's own: nothing is converted.
    A bundle with labels tells the class of each sample too.
    """
    check_rebuild(rebuild_if_needed, bundle)
    import edgeattn
    from edgeattn.artifacts import check_writable
    from edgeattn.bundle.classes import likeliest, read_classes
    from edgeattn.bundle.read import is_bundle
    from edgeattn.engine.batches import run_samples

    check_writable(outputs)
    with working() as progress:
        arrays = read_arrays(inputs)
        with edgeattn.load(
            engine,
            threads=threads,
            tensorrt=tensorrt,
            rebuild_if_needed=rebuild_if_needed,
            bundle=bundle,
            public_key=public_key,
        ) as loaded:
            results = run_samples(loaded, arrays, batch_size, progress)
        write_arrays(outputs, results)
    classes = read_classes(engine) if is_bundle(engine) else None
    found = [] if classes is None else likeliest(classes, results)
    if as_json:
        described = {
            name: {"dtype": array.dtype.name, "shape": array.shape}
            for name, array in results.items()
        }
        labelled = {"classes": found} if classes else {}
        print_json({"file": str(outputs), "outputs": described} | labelled)
        return
    rows = [(name, array.dtype.name, shape(array.shape)) for name, array in results.items()]
    print_table(("output", "type", "shape"), rows)
    if found:
        print_table(("sample", "class"), [(str(i), name) for i, name in enumerate(found[:_SHOWN])])
    if len(found) > _SHOWN:
        click.echo(f"{len(found) - _SHOWN} more samples; --json shows them")
    click.echo(f"wrote {outputs}")
