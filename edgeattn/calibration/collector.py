"""Run a graph and observe the tensors that need a scale.

The graph runs in ONNX Runtime sample by sample, unless it has a batch size of its own: its kernels
add in another order for another batch size, and then a largest magnitude can change in the last
bit. A few samples run side by side, each on a thread that then shows its tensors to the observers:
no core waits for the small operators of a single sample, nor for the observers. The observed
tensors are the only outputs and are looked at where they lie, without a copy; what is held are the
samples that run. Reducing tensors inside the graph was measured too: with the three reductions that
extremes and NaN need, a Swin-T took 138 ms an image in place of 53.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from edgeattn.calibration.histogram import Floats, NonFiniteError
from edgeattn.calibration.observers import ChannelMaxObserver, Observer
from edgeattn.calibration.session import open_session, refused
from edgeattn.calibration.sources import Array
from edgeattn.errors import GraphError
from edgeattn.graph.files import input_specs
from edgeattn.graph.passes.decompose import decompose
from edgeattn.inputs import InputSpec

_MOST_SAMPLES = 4  # that run side by side


class Run(NamedTuple):
    """What runs at once: a sample, or a batch where the graph has a batch size of its own.

    Attributes:
        names: What messages call each sample.
        inputs: Inputs by name, samples along axis 0.
    """

    names: Sequence[str]
    inputs: Mapping[str, Array]


def split_into_runs(
    batch: Mapping[str, Array], names: Sequence[str], samples_per_run: int
) -> Iterator[Run]:
    """Divide a batch into what runs at once."""
    for start in range(0, len(names), samples_per_run):
        rows = slice(start, start + samples_per_run)
        yield Run(names[rows], {name: array[rows] for name, array in batch.items()})


def run_one_by_one(inputs: Sequence[InputSpec]) -> bool:
    """Tell whether samples run each by itself: the graph has no batch size of its own."""
    return all(isinstance(spec.shape[0], str) for spec in inputs if spec.shape)


class Collector:
    """A session whose tensors are shown to observers.

    Args:
        model: A float graph, attention nodes included; not kept.
        observers: By name of the tensor that each is shown, in the graph's order.
        channel_observers: By name, of some of these tensors.

    Raises:
        GraphError: If ONNX Runtime does not load the graph.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        observers: Mapping[str, Observer],
        channel_observers: Mapping[str, ChannelMaxObserver],
    ) -> None:
        self._observers = observers
        self._channel_observers = channel_observers
        self._locks = {name: Lock() for name in observers}
        specs = input_specs(model)
        sizes = [spec.shape[0] for spec in specs if spec.shape]
        self._one_by_one = run_one_by_one(specs)
        inputs = {spec.name for spec in specs}
        # A graph must not give out its own input.
        self._outputs = [name for name in self._observers if name not in inputs]
        cores = os.cpu_count() or 1
        together = max((size for size in sizes if isinstance(size, int)), default=1)
        at_once = max(1, min(cores, _MOST_SAMPLES // max(together, 1)))
        self._session = (
            # The threads that run samples work too, and share the session's own.
            open_session(
                _with_outputs(decompose(model), self._outputs), threads=cores - at_once + 1
            )
            if self._outputs
            else None
        )
        self._threads = ThreadPoolExecutor(at_once)
        self._running: deque[Future[None]] = deque()
        self._most_running = 2 * at_once  # half of them wait, so that no thread does

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def samples_per_run(self, batch_size: int) -> int:
        """Tell how many samples run at once where so many are read at a time."""
        return 1 if self._one_by_one else batch_size

    def observe(self, batch: Mapping[str, Array], names: Sequence[str]) -> None:
        """Have some samples run and shown to the observers; the last ones still run on return.

        Args:
            batch: Inputs by name, samples along axis 0.
            names: What messages call each sample.

        Raises:
            GraphError: If the graph does not run, or a tensor takes on NaN or infinity, on these
                samples or earlier ones; it names the first such sample and its first such tensor.
        """
        for run in split_into_runs(batch, names, self.samples_per_run(len(names))):
            self._start(run)

    def settle(self) -> None:
        """Wait until the observers have seen every sample.

        Raises:
            GraphError: As `observe`.
        """
        while self._running:
            self._running.popleft().result()

    def _start(self, run: Run) -> None:
        while len(self._running) >= self._most_running:
            self._running.popleft().result()
        self._running.append(self._threads.submit(self._run, run))

    def _run(self, run: Run) -> None:
        results = self._results(run)  # keeps what the views look at
        values = {n: _view(v) for n, v in zip(self._outputs, results, strict=True)}
        values |= {name: array for name, array in run.inputs.items() if name in self._observers}
        for name in self._observers:
            with self._locks[name]:
                self._show(name, values[name], run.names)

    def _results(self, run: Run) -> list[Any]:
        if self._session is None:  # of the graph's inputs alone a scale is needed
            return []
        binding = self._session.io_binding()
        try:
            for name, array in run.inputs.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name in self._outputs:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
        except Exception as err:
            raise refused("run", err, on=_list(run.names)) from err
        return binding.get_outputs()

    def _show(self, name: str, values: Floats, samples: Sequence[str]) -> None:
        observer = self._observers[name]
        for its, part in _split(values, samples):
            try:
                observer.update(part)
            except NonFiniteError as err:
                raise GraphError(
                    f"the tensor {name} takes on NaN or infinity on {_list(its)}",
                    "look at the weights before it and at the inputs' preprocessing",
                ) from err
        if name in self._channel_observers:
            self._channel_observers[name].update(values)


def _list(samples: Sequence[str]) -> str:
    return samples[0] if len(samples) == 1 else f"one of {', '.join(samples)}"


def _split(values: Floats, samples: Sequence[str]) -> Iterator[tuple[Sequence[str], Floats]]:
    """Take a batch's tensor apart into those of its samples, with their names.

    Windows, heads and rows that are folded into axis 0 stand behind the sample they belong to. A
    tensor that is not divided so passes as one sample.
    """
    count = len(samples)
    if count > 1 and values.ndim and len(values) % count == 0:
        for name, part in zip(samples, values.reshape(count, -1), strict=True):
            yield [name], part
    else:
        yield samples, values


def _view(value: Any) -> Floats:
    """Look at a result of ONNX Runtime where it lies; valid as long as the result is."""
    shape = value.shape()
    size = math.prod(shape)
    if not size:
        return np.empty(shape, np.float32)
    buffer = (ctypes.c_float * size).from_address(value.data_ptr())
    return np.frombuffer(buffer, np.float32).reshape(shape)


def _with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Make float32 tensors of a graph its only outputs, in place."""
    graph = model.graph
    del graph.output[:]
    for name in tensors:
        graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return model
