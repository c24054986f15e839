"""`edgeattn run`: an engine on samples, from file to file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeattn.arrays import read_arrays, write_arrays
from edgeattn.cli.console import print_json, print_table, shape
from edgeattn.cli.options import FILE, EngineVerb, batch_size_option, json_option, threads_option
from edgeattn.cli.progress import working
from edgeattn.cli.tensorrt_options import tensorrt_run_options

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions


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
@json_option
@tensorrt_run_options
def command(
    engine: Path,
    inputs: Path,
    outputs: Path,
    batch_size: int,
    threads: int | None,
    as_json: bool,
    tensorrt: TensorRtRunOptions | None,
) -> None:
    """Run an engine on inputs from a file.

    ENGINE is what `edgeattn build` wrote, or an ONNX graph. There may be any number of samples
    along axis 0; otherwise types and shapes must be the engine's own: nothing is converted.
    """
    import edgeattn
    from edgeattn.artifacts import check_writable
    from edgeattn.engine.batches import run_samples

    check_writable(outputs)
    with working() as progress:
        arrays = read_arrays(inputs)
        with edgeattn.load(engine, threads=threads, tensorrt=tensorrt) as loaded:
            results = run_samples(loaded, arrays, batch_size, progress)
        write_arrays(outputs, results)
    if as_json:
        described = {
            name: {"dtype": array.dtype.name, "shape": array.shape}
            for name, array in results.items()
        }
        print_json({"file": str(outputs), "outputs": described})
        return
    rows = [(name, array.dtype.name, shape(array.shape)) for name, array in results.items()]
    print_table(("output", "type", "shape"), rows)
    click.echo(f"wrote {outputs}")
