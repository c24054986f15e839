"""Run a graph over data and observe the tensors that need a scale.

The graph runs once per batch in ONNX Runtime, with the observed tensors as its only outputs. Where
extremes are enough they are reduced inside the graph, so that only scalars leave it. One batch of
activations is held at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from edgeattn.artifacts import Manifest, Parent, check_writable
from edgeattn.calibration.data import Batches, open_batches
from edgeattn.calibration.observers import NonFiniteError, Observer, observer_factory
from edgeattn.calibration.recipe import CalibrationOptions, load_recipe
from edgeattn.calibration.sources import Array, DataSource
from edgeattn.calibration.table import CalibTable, TensorRange
from edgeattn.errors import DataError, GraphError
from edgeattn.graph.files import (
    MAX_INLINE_BYTES,
    graph_sha256,
    input_specs,
    load_graph,
    save_graph,
    weights_bytes,
)
from edgeattn.graph.passes.decompose import decompose
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
    model = load_graph(graph)
    batches = open_batches(
        data,
        input_specs(model),
        batch_size=options.batch_size,
        samples=options.samples,
        seed=options.seed,
        max_bad=options.max_bad,
    )
    factory = observer_factory(options.method, options.percentile)
    observers = observe(model, batches, factory, progress)
    tensors = {name: TensorRange.from_amax(o.amax()) for name, o in observers.items()}
    manifest = Manifest(
        kind="table",
        parents={
            "graph": Parent(graph.name, graph_sha256(graph)),
            "data": Parent(batches.label, batches.sha256),
        },
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


def observe(
    model: onnx.ModelProto,
    batches: Batches,
    new_observer: Callable[[], Observer],
    progress: Progress | None = None,
) -> dict[str, Observer]:
    """Run a graph over batches with one observer per activation that INT8 needs a scale of.

    Args:
        model: A float graph, attention nodes included.
        batches: Its inputs.
        new_observer: Makes an observer.
        progress: As in `calibrate`.

    Returns:
        The observers by tensor name, in the graph's order.

    Raises:
        GraphError: If the graph has nothing to quantize, cannot be run, or a tensor takes on NaN
            or infinity; it names the first such tensor.
    """
    observers = {name: new_observer() for name in place_qdq(model).activations}
    extremes = not any(observer.needs_values for observer in observers.values())
    probe = _extremes_graph if extremes else _values_graph
    session = _Session(probe(decompose(model), list(observers)))
    total = batches.total
    for batch in batches:
        chunks = session.run(batch)
        for name, observer in observers.items():
            try:
                observer.update(_next_extremes(chunks) if extremes else next(chunks))
            except NonFiniteError as err:
                raise GraphError(
                    f"the tensor {name} takes on NaN or infinity on this data",
                    "look at the weights before it and at the inputs' preprocessing",
                ) from err
        if progress:
            progress(batches.samples, total, "calibrating")
    return observers


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


def _extremes_graph(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Give a graph three scalars per tensor as outputs: minimum, maximum, sum of magnitudes.

    ONNX Runtime's minimum and maximum drop NaN; the sum keeps it.
    """
    ops = ("ReduceMin", "ReduceMax", "ReduceL1")
    return _with_outputs(model, [(op, [name], {"keepdims": 0}) for name in tensors for op in ops])


def _next_extremes(chunks: Iterator[Array]) -> Array:
    low, high, magnitudes = (np.reshape(next(chunks), 1) for _ in range(3))
    # An overflow of the sum is no error of the data, but no network works up there either.
    return np.concatenate([low, high] if np.isfinite(magnitudes) else [magnitudes])


def _values_graph(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Give a graph the tensors themselves as outputs."""
    return _with_outputs(model, [("Identity", [name], {}) for name in tensors])


def _with_outputs(
    model: onnx.ModelProto, nodes: Sequence[tuple[str, list[str], dict[str, Any]]]
) -> onnx.ModelProto:
    """Add nodes to a graph, in place, and make their float32 results its only outputs."""
    graph = model.graph
    del graph.output[:]
    for number, (op_type, inputs, attributes) in enumerate(nodes):
        name = f"edgeattn/observed_{number}"
        graph.node.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return model


class _Session:
    """An ONNX Runtime session whose errors name the graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4  # failures arrive as exceptions
        # Between batches the processor belongs to the observers and the decoding of images.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            if weights_bytes(model) <= MAX_INLINE_BYTES:
                self._session = _open(model.SerializeToString(), options)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    path = save_graph(model, Path(folder, "observed.onnx"), Manifest("graph"))
                    self._session = _open(str(path), options)
        except Exception as err:  # onnxruntime's errors share no class
            raise _refused("load", err) from err

    def run(self, batch: Mapping[str, Array]) -> Iterator[Array]:
        """Yield the outputs one by one, letting go of each."""
        try:
            results = self._session.run(None, dict(batch))
        except Exception as err:
            raise _refused("run", err) from err
        results.reverse()
        while results:
            yield results.pop()


def _refused(what: str, err: Exception) -> GraphError:
    reason = next(iter(str(err).splitlines()), type(err).__name__)
    return GraphError(
        f"ONNX Runtime cannot {what} the graph: {reason}",
        "the data may not fit the graph, or the graph may hold operators it does not know",
    )


def _open(model: bytes | str, options: Any) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
