"""`edgeattn calibrate`: a graph and data to a calibration table."""

from __future__ import annotations

from pathlib import Path

import click

from edgeattn.cli.artifact import print_written
from edgeattn.cli.options import FILE, GraphVerb, json_option, output_option
from edgeattn.cli.progress import working


@click.command(
    "calibrate",
    cls=GraphVerb,
    epilog="Example: edgeattn calibrate net.onnx --data images/ --samples 128",
)
@click.argument("graph", type=FILE)
@click.option(
    "--data",
    metavar="PATH",
    help="A folder of images, a .npz or .npy file, or module:function that returns an iterable "
    "of batches. Default: the recipe's.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "minmax", "average", "percentile", "entropy", "mse"]),
    help="How a tensor's range follows from its values; auto chooses among the others by the error "
    "at the network's output. Default: auto.",
)
@click.option(
    "--percentile",
    type=float,
    help="Percent of the values inside the range, for that method. Default: 99.99.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), metavar="N", help="Most samples. Default: all."
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Samples read at a time. Default: 8.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", help="Chooses the samples. Default: 0."
)
@click.option(
    "--max-bad",
    type=click.IntRange(min=0),
    metavar="N",
    help="Unreadable images to skip before giving up. Default: none.",
)
@click.option(
    "--random",
    type=click.IntRange(min=1),
    metavar="N",
    help="For trials: N random samples in place of data. The table says so.",
)
@click.option("--recipe", metavar="NAME", help="Take these choices from a recipe or TOML file.")
@click.option(
    "--state",
    type=FILE,
    metavar="FILE",
    help="Keep the state here, and go on from it if it exists.",
)
@click.option(
    "--shard", metavar="I/N", help="Run the I-th of N shares of the samples; write only the state."
)
@click.option(
    "--scheduler",
    metavar="tcp://HOST:PORT",
    help="Run the samples on the workers of this Dask scheduler, to the same table. The data is "
    "read here. Default: run them here.",
)
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    metavar="N",
    help="Parts to divide the samples into for the workers. Default: four per worker.",
)
@click.option(
    "--merge",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="Run nothing: merge the states of all shards, one option for each.",
)
@click.option(
    "--from-cache",
    type=FILE,
    metavar="FILE",
    help="Measure nothing: import the scales of a calibration cache that TensorRT wrote.",
)
@click.option(
    "--from-qdq",
    type=FILE,
    metavar="Q.onnx",
    help="Measure nothing: import the scales of a graph that another tool quantized.",
)
@output_option("The table to write. Default: beside the graph, NAME.calib.json")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    graph: Path,
    data: str | None,
    method: str | None,
    percentile: float | None,
    samples: int | None,
    batch_size: int | None,
    seed: int | None,
    max_bad: int | None,
    random: int | None,
    recipe: str | None,
    state: Path | None,
    shard: str | None,
    scheduler: str | None,
    shards: int | None,
    merge: tuple[Path, ...],
    from_cache: Path | None,
    from_qdq: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure a graph's value ranges on real data.

    The table belongs to these weights: `quantize` refuses it for any other graph.
    """
    import edgeattn
    from edgeattn.calibration.checkpoint import CalibrationState
    from edgeattn.calibration.table import CalibTable

    _check_alone(ctx)
    with working() as progress:
        if from_cache or from_qdq:
            path = _import_scales(graph, from_cache, from_qdq, output)
        elif merge:
            path = edgeattn.merge_calibrations(graph, merge, output, progress=progress)
        else:
            path = edgeattn.calibrate(
                graph,
                data,
                output,
                method=method,
                percentile=percentile,
                samples=samples,
                batch_size=batch_size,
                seed=seed,
                max_bad=max_bad,
                random=random,
                recipe=recipe,
                state=state,
                shard=shard,
                scheduler=scheduler,
                shards=shards,
                progress=progress,
            )
    manifest = (CalibrationState if shard else CalibTable).load(path).manifest
    if not as_json:  # what auto tried has its place in the table
        manifest.report.pop("choice", None)
    print_written(path, manifest, as_json)


def _check_alone(ctx: click.Context) -> None:
    """Refuse what an import of scales or a merge would ignore."""
    neutral = {"graph", "output", "as_json"}
    typed = click.core.ParameterSource.COMMANDLINE
    given = [n for n in ctx.params if n not in neutral and ctx.get_parameter_source(n) is typed]
    importing = [name for name in given if name in ("from_cache", "from_qdq", "merge")]
    if importing and len(given) > 1:
        other = next(name for name in given if name != importing[0])
        spelt = [f"--{name.replace('_', '-')}" for name in (importing[0], other)]
        raise click.UsageError(f"{spelt[0]} measures nothing; it cannot go with {spelt[1]}")


def _import_scales(
    graph: Path, cache: Path | None, quantized: Path | None, output: Path | None
) -> Path:
    from edgeattn.calibration import imported

    if cache:
        return imported.table_from_trt_cache(graph, cache, output)
    assert quantized is not None
    return imported.table_from_qdq(graph, quantized, output)
