"""Run the samples of a batch apart, one per core.

ONNX Runtime spreads every node of a batch over all cores and keeps the whole batch's activations
between nodes. Samples that depend on nothing but themselves go faster one by one, a core each: a
sample's activations stay in that core's cache, and no core waits for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx

from edgeattn.calibration.random_samples import random_array
from edgeattn.engine.base import TensorSpec
from edgeattn.engine.cpu_session import open_session, runtime_errors, session_options
from edgeattn.errors import EngineError
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.files import value_dtype, value_shape
from edgeattn.graph.passes.free_batch import free_batch

# Kernels for another batch sum in another order, and INT8 makes more of that; a graph that uses
# the batch's size, or mixes samples, is off by far more.
_SAME_DB = 20.0


def samples_apart(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Free the batch of a static graph if that changes nothing but the order of work.

    Three things are tried on random inputs: the freed graph gives what the original gives, a
    sample's result does not change by a bit when the others do, and it is the same alone.

    Args:
        model: A lowered graph with weights inside; not changed.

    Returns:
        The graph with a free batch; `None` if there is no fixed batch, or its samples depend on
        each other.
    """
    freed = free_batch(model)
    if freed is None:
        return None
    weights = {tensor.name for tensor in model.graph.initializer}
    specs = [
        TensorSpec(value.name, value_dtype(value), value_shape(value))
        for value in model.graph.input
        if value.name not in weights
    ]
    rng = np.random.default_rng(0)
    first, second = (_draw(specs, rng) for _ in range(2))
    for name in second:
        second[name][0] = first[name][0]
    alone = {name: array[:1] for name, array in first.items()}
    try:
        expected = _run(model, first)
        session = _open(freed)
        together, among_others, single = (_outputs(session, x) for x in (first, second, alone))
    except EngineError:  # a shape that only the fixed batch fits
        return None
    independent = all(
        together[name].shape == expected[name].shape
        and sqnr_db(expected[name], together[name]) >= _SAME_DB
        and np.array_equal(together[name][0], among_others[name][0])
        and single[name].shape == (1, *expected[name].shape[1:])
        and sqnr_db(together[name][:1], single[name]) >= _SAME_DB
        for name in expected
    )
    return freed if independent else None


def _draw(specs: Sequence[TensorSpec], rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {s.name: random_array(s, tuple(int(d) for d in s.shape), rng) for s in specs}


def _open(model: onnx.ModelProto) -> Any:
    return open_session(model.SerializeToString(), session_options(1, "unfused"))


def _run(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return _outputs(_open(model), inputs)


def _outputs(session: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    with runtime_errors("the graph does not run"):
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


class SampleRunner:
    """Threads that share the samples of a batch.

    Args:
        session: An ONNX Runtime session of one thread, its graph with a free batch.
        threads: Samples to run at once.
    """

    def __init__(self, session: Any, threads: int) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="edgeattn-sample")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a batch.

        Args:
            inputs: Arrays by name with the same size, at least 1, of axis 0.

        Raises:
            EngineError: If ONNX Runtime fails.
        """

        def sample(index: int) -> list[np.ndarray]:
            one = {name: array[index : index + 1] for name, array in inputs.items()}
            outputs: list[np.ndarray] = self._session.run(self._names, one)
            return outputs

        batch = len(next(iter(inputs.values())))
        with runtime_errors("the engine failed"):
            results = list(self._pool.map(sample, range(batch)))
        per_output = zip(*results, strict=True)
        return dict(zip(self._names, map(np.concatenate, per_output), strict=True))

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True)
