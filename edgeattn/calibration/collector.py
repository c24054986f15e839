"""Run a graph and observe the tensors that need a scale.

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

from edgeattn.artifacts import Manifest
from edgeattn.calibration.observers import NonFiniteError, Observer
from edgeattn.calibration.sources import Array
from edgeattn.errors import GraphError
from edgeattn.graph.files import MAX_INLINE_BYTES, save_graph, weights_bytes
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.placement import place_qdq


class Collector:
    """One observer per activation that INT8 needs a scale of, and a session that feeds them.

    Args:
        model: A float graph, attention nodes included; not kept.
        new_observer: Makes an observer.

    Attributes:
        observers: By tensor name, in the graph's order.

    Raises:
        GraphError: If the graph has nothing to quantize, or ONNX Runtime does not load it.
    """

    def __init__(self, model: onnx.ModelProto, new_observer: Callable[[], Observer]) -> None:
        self.observers = {name: new_observer() for name in place_qdq(model, "full").activations}
        self._extremes = not any(o.needs_values for o in self.observers.values())
        probe = _extremes_graph if self._extremes else _values_graph
        self._session = _open_session(probe(decompose(model), list(self.observers)))

    def observe(self, batch: Mapping[str, Array]) -> None:
        """Run one batch and show it to the observers.

        Raises:
            GraphError: If it does not run, or a tensor takes on NaN or infinity; it names the
                first such tensor.
        """
        chunks = self._run(batch)
        for name, observer in self.observers.items():
            try:
                observer.update(_next_extremes(chunks) if self._extremes else next(chunks))
            except NonFiniteError as err:
                raise GraphError(
                    f"the tensor {name} takes on NaN or infinity on this data",
                    "look at the weights before it and at the inputs' preprocessing",
                ) from err

    def _run(self, batch: Mapping[str, Array]) -> Iterator[Array]:
        """Yield the outputs one by one, letting go of each."""
        try:
            results = self._session.run(None, dict(batch))
        except Exception as err:
            raise _refused("run", err) from err
        results.reverse()
        while results:
            yield results.pop()


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


def _open_session(model: onnx.ModelProto) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures arrive as exceptions
    # Between batches the processor belongs to the observers and the decoding of images.
    options.add_session_config_entry("session.force_spinning_stop", "1")

    def load(source: bytes | str) -> Any:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    try:
        if weights_bytes(model) <= MAX_INLINE_BYTES:
            return load(model.SerializeToString())
        with tempfile.TemporaryDirectory() as folder:
            return load(str(save_graph(model, Path(folder, "observed.onnx"), Manifest("graph"))))
    except Exception as err:  # onnxruntime's errors share no class
        raise _refused("load", err) from err


def _refused(what: str, err: Exception) -> GraphError:
    reason = next(iter(str(err).splitlines()), type(err).__name__)
    return GraphError(
        f"ONNX Runtime cannot {what} the graph: {reason}",
        "the data may not fit the graph, or the graph may hold operators it does not know",
    )
