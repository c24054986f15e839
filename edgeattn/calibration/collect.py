"""Calibrate: a graph and data to a calibration table, from files to a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeattn.artifacts import Manifest, Parent, check_writable
from edgeattn.calibration.collector import Collector
from edgeattn.calibration.data import Batches, open_batches
from edgeattn.calibration.observers import observer_factory
from edgeattn.calibration.recipe import CalibrationOptions, load_recipe
from edgeattn.calibration.sources import DataSource
from edgeattn.calibration.table import CalibTable, TensorRange
from edgeattn.errors import DataError
from edgeattn.graph.files import graph_sha256, input_specs, load_graph

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
    recipe: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Find the scale of each tensor that INT8 needs one of, by running a graph on real data.

    Args:
        graph: The ONNX file.
        data: A folder of images, a `.npz` or `.npy` file, `module:function`, arrays, or an
            iterable of batches; `None` for the recipe's.
        output: The table to write; by default `NAME.calib.json` beside `NAME.onnx`.
        method: `minmax` (default) or `percentile`.
        percentile: For the method of that name: percent of magnitudes not clipped, 99.99 by
            default.
        samples: Most samples to use; by default all.
        batch_size: Samples per batch, 8 by default; a graph of fixed batch size has its own.
        seed: Chooses and shuffles the samples, 0 by default.
        max_bad: Unreadable images to skip before giving up, 0 by default. They are listed in the
            table.
        recipe: Name or path of a recipe with these choices; those given here go before it.
        progress: Called after each batch with the samples done, their total if known, and a
            word.

    Returns:
        Path of the table.

    Raises:
        ArtifactError: If a file is missing or the output's folder is not writable.
        DataError: If the data cannot be read or does not fit the graph.
        GraphError: If the graph cannot be read or run, has nothing to quantize, or a tensor takes
            on NaN or infinity.
        SpecError: If method, percentile or the recipe is wrong.
    """
    graph = Path(graph)
    output = graph.with_suffix(".calib.json") if output is None else Path(output)
    options = (load_recipe(recipe) if recipe else CalibrationOptions()).with_given(
        method=method,
        percentile=percentile,
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        max_bad=max_bad,
    )
    data = options.data if data is None else data
    if isinstance(data, str) and not data:
        raise DataError(
            "there is no data to calibrate with",
            "give a folder of images, a .npz or .npy file, module:function, or a recipe",
        )
    check_writable(output)
    parent = Parent(graph.name, graph_sha256(graph))
    model = load_graph(graph)
    batches = open_batches(
        data,
        input_specs(model),
        batch_size=options.batch_size,
        samples=options.samples,
        seed=options.seed,
        max_bad=options.max_bad,
    )
    collector = Collector(model, observer_factory(options.method, options.percentile))
    del model  # the session has the weights
    for batch in batches:
        collector.observe(batch)
        if progress:
            progress(batches.samples, batches.total, "calibrating")
    tensors = {
        name: TensorRange.from_amax(observer.amax(), options.method)
        for name, observer in collector.observers.items()
    }
    manifest = Manifest(
        kind="table",
        parents={"graph": parent, "data": Parent(batches.label, batches.sha256)},
        options=_describe(options, batches),
        report={
            "samples": batches.samples,
            "left_out": batches.left_out,
            "skipped": batches.skipped,
            "tensors": len(tensors),
            "zero_tensors": [name for name, entry in tensors.items() if entry.amax == 0],
        },
    )
    return CalibTable(options.method, tensors, manifest).save(output)


def _describe(options: CalibrationOptions, batches: Batches) -> dict[str, Any]:
    described: dict[str, Any] = {
        "method": options.method,
        "samples": options.samples,
        "batch_size": batches.batch_size,
        "seed": options.seed,
        "max_bad": options.max_bad,
    }
    if options.method == "percentile":
        described["percentile"] = options.percentile
    return described
