"""Calibrate: a graph and data to a calibration table, from files to a file.

A calibration can write its state as it goes, and go on from it, run a shard of the data alone, or
have the workers of a cluster run the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeattn.artifacts import Manifest, Parent, check_writable
from edgeattn.calibration.checkpoint import ALL, INTERVAL_S, CalibrationState, Pacemaker, Shard
from edgeattn.calibration.collector import Collector
from edgeattn.calibration.data import Batches, open_batches
from edgeattn.calibration.finish import write_table
from edgeattn.calibration.float_graph import load_float_graph
from edgeattn.calibration.observations import Observations
from edgeattn.calibration.observers import COUNTED_VALUES
from edgeattn.calibration.random_samples import RandomSamples
from edgeattn.calibration.recipe import CalibrationOptions, load_recipe
from edgeattn.calibration.remote import RemoteCollector
from edgeattn.calibration.sources import DataSource
from edgeattn.errors import ArtifactError, DataError, SpecError
from edgeattn.graph.files import graph_sha256, input_specs
from edgeattn.graph.placement import place_qdq

Progress = Callable[[int, "int | None", str], None]


def calibrate(
    graph: Path | str,
    data: DataSource | None = None,
    output: Path | str | None = None,
    *,
    method: str | None = None,
    percentile: float | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    max_bad: int | None = None,
    random: int | None = None,
    recipe: str | Path | None = None,
    state: Path | str | None = None,
    shard: str | None = None,
    scheduler: str | None = None,
    shards: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Find the scale of each tensor that INT8 needs one of, by running a graph on real data.

    Args:
        graph: The ONNX file.
        data: A folder of images, a `.npz` or `.npy` file, `module:function`, arrays, or an
            iterable of batches; `None` for the recipe's.
        output: The table to write; by default `NAME.calib.json` beside `NAME.onnx`.
        method: How a range follows from the values. `minmax`: the largest magnitude; `average`:
            the mean over samples of each one's largest; `percentile`; `entropy` and `mse`: where
            the distribution, or the values, change least; `auto` (default): a choice among all
            these by the error at the network's output, and `minmax` where none is better.
        percentile: For the method of that name: percent of magnitudes not clipped, 99.99 by
            default.
        samples: Most samples to use; by default all.
        batch_size: Samples read at a time, 8 by default. They run one by one, so that it changes
            no bit of the table; a graph of fixed batch size runs so many at once.
        seed: Chooses and shuffles the samples, 0 by default.
        max_bad: Unreadable images to skip before giving up, 0 by default. They are listed in the
            table.
        random: Use so many random samples in place of data. The table says so; it serves trials.
        recipe: Name or path of a recipe with these choices; those given here go before it.
        state: A file that the state is written to now and then. If it is there, of the same
            graph, data and options, the calibration goes on from it.
        shard: `1/4`: run the first of four shares of the samples. No table is written, but the
            state, for `merge_calibrations`. Every shard reads all samples.
        scheduler: Address of a Dask scheduler, `tcp://host:8786`, whose workers run the samples,
            to the same table; by default this machine does. The data is read here.
        shards: How many parts to divide the samples into for the workers, at most one per sample;
            by default four per worker, of at most 32 MiB.
        progress: Called after each batch with the samples done, their total if known, and a
            word.

    Returns:
        Path of the table, or of a shard's state.

    Raises:
        ArtifactError: If a file is missing, the output's folder is not writable, or the state
            belongs to another calibration or is not whole.
        BoardError: If there is no scheduler, it has no worker or loses all, or a worker has other
            versions of the packages that compute.
        DataError: If the data cannot be read or does not fit the graph.
        GraphError: If the graph cannot be read or run, has nothing to quantize, or a tensor takes
            on NaN or infinity.
        MissingDependencyError: If a scheduler is given and dask.distributed is not installed.
        SpecError: If method, percentile, shard, shards or the recipe is wrong.
    """
    graph = Path(graph)
    _check_division(shard, scheduler, shards)
    if shard and (state is None or output is not None):
        raise SpecError(
            f"the shard {shard} writes its state and no table", "give the path of its state alone"
        )
    output = graph.with_suffix(".calib.json") if output is None else Path(output)
    options = (load_recipe(recipe) if recipe else CalibrationOptions()).with_given(
        method=method,
        percentile=percentile,
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        max_bad=max_bad,
    )
    share = Shard.parse(shard) if shard else ALL
    if random is not None and data is not None:
        raise SpecError("both data and random samples are given", "give one of them")
    source = options.data if data is None else data
    if random is not None:
        source = RandomSamples(random, options.seed)
    if isinstance(source, str) and not source:
        raise DataError(
            "there is no data to calibrate with",
            "give a folder of images, a .npz or .npy file, module:function, or a recipe",
        )
    state = None if state is None else Path(state)
    for written in (None if shard else output, state):
        if written:
            check_writable(written)
    parent = Parent(graph.name, graph_sha256(graph))
    model = load_float_graph(graph)
    place_qdq(model, "full", options.keep_float)  # refuses nodes that are not there
    batches = open_batches(
        source,
        input_specs(model),
        batch_size=options.batch_size,
        samples=options.samples,
        seed=options.seed,
        max_bad=options.max_bad,
    )
    described = Manifest(
        kind="calibration-state",
        parents={"graph": parent},
        options=_describe(options, batches.batch_size, random),
        report={"shard": str(share)},
    )
    seen = Observations(model, options.method, options.percentile)
    collector: Collector | RemoteCollector
    if scheduler is None:
        collector = Collector(model, seen.observers, seen.channel_observers)
    else:
        collector = RemoteCollector(
            graph, model, seen, options, batches, scheduler, shards=shards, progress=progress
        )
    del model  # the session has the weights
    with collector:
        finished = _observe(collector, batches, seen, share, described, state, progress)
    del collector
    if shard:
        assert state is not None
        return state
    return write_table(graph, output, seen, finished, progress)


def _check_division(shard: str | None, scheduler: str | None, shards: int | None) -> None:
    if shard and scheduler:
        raise SpecError(
            f"the shard {shard} is asked for, and the scheduler's workers share all samples",
            "leave one of the two out",
        )
    if shards is not None and scheduler is None:
        raise SpecError(
            f"{shards} shards are asked for, and no scheduler whose workers run them",
            "give the scheduler, or one shard to run here: --shard 1/4",
        )
    if shards is not None and shards < 1:
        raise SpecError(f"shards is {shards}; expected at least 1", "give another number")


def _observe(
    collector: Collector | RemoteCollector,
    batches: Batches,
    seen: Observations,
    shard: Shard,
    described: Manifest,
    path: Path | None,
    progress: Progress | None,
) -> CalibrationState:
    """Run what is this shard's and was not run before; tell what was read in the end."""
    known: Sequence[bytes] = ()
    if path is not None and path.exists():
        before = CalibrationState.load(path)
        before.check_same(described, path)
        before.restore(seen, path)
        known = before.digests

    def state(finished: bool) -> CalibrationState:
        report = described.report | {
            "finished": finished,
            "data": batches.label,
            "samples": batches.samples,
            "skipped": batches.skipped,
            "ignored": batches.ignored,
            "left_out": batches.left_out,
        }
        return CalibrationState(
            replace(described, report=report), batches.digests, seen.state() if path else {}
        )

    pacemaker = Pacemaker(INTERVAL_S)
    for batch in batches:
        count = len(next(iter(batch.values())))
        start = len(batches.digests) - count  # number of the batch's first sample
        rows = []
        for row, digest in enumerate(batches.digests[start:]):
            if start + row < len(known):
                _check_same_sample(digest, known[start + row], start + row, path)
            elif shard.owns((start + row) // collector.samples_per_run(batches.batch_size)):
                rows.append(row)
                seen.kept.offer(digest, {name: array[row] for name, array in batch.items()})
        if rows:
            mine = batch if len(rows) == count else {n: array[rows] for n, array in batch.items()}
            collector.observe(mine, [batches.names[row] for row in rows])
        if path and len(batches.digests) > len(known) and pacemaker.is_due():
            collector.settle()
            state(finished=False).save(path)
        if progress:
            progress(batches.samples, batches.total, "calibrating")
    if len(batches.digests) < len(known):
        raise ArtifactError(
            f"the state {path} was made from {len(known)} samples; this data has "
            f"{len(batches.digests)}",
            "delete it and calibrate again, or give another path",
        )
    collector.settle()
    done = state(finished=True)
    if path:
        done.save(path)
    return done


def _describe(options: CalibrationOptions, batch_size: int, random: int | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "method": options.method,
        "samples": options.samples,
        "batch_size": batch_size,
        "seed": options.seed,
        "max_bad": options.max_bad,
    }
    if options.method == "percentile":
        described["percentile"] = options.percentile
    if options.method not in ("minmax", "average"):
        described["counted_values"] = COUNTED_VALUES
    if options.keep_float:
        described["keep_float"] = sorted(options.keep_float)
    if random is not None:
        described["random"] = random
    return described


def _check_same_sample(digest: bytes, known: bytes, number: int, path: Path | None) -> None:
    if digest != known:
        raise ArtifactError(
            f"the state {path} belongs to other data: sample {number} differs",
            "delete it and calibrate again, or give another path",
        )
