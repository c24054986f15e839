"""Times of an engine's layers, as TensorRT reports them to an IProfiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.errors import EngineError

if TYPE_CHECKING:
    import tensorrt

    from edgeattn.engine.tensorrt.execution import Execution

# What a first run loads and sets up is no layer's time.
_WARM_UP_RUNS = 3


@dataclass(frozen=True)
class LayerTime:
    """The times of one layer.

    Attributes:
        name: As the engine inspector spells it; the layer's number in an engine that was built
            with the profiling verbosity `none`.
        times_ms: One for each run; of a layer that runs several times in a run, their sum.
    """

    name: str
    times_ms: tuple[float, ...]


class LayerReport:
    """What a profiler is told, in Python's terms and without TensorRT."""

    def __init__(self) -> None:
        self._runs: list[dict[str, float]] = []

    def begin_run(self) -> None:
        """Count what comes for the next run."""
        self._runs.append({})

    def add(self, name: str, milliseconds: float) -> None:
        """Note the time of a layer."""
        if self._runs:
            times = self._runs[-1]
            times[name] = times.get(name, 0.0) + milliseconds

    def layers(self) -> list[LayerTime]:
        """Give the layers in the order in which they were first reported."""
        names = dict.fromkeys(name for run in self._runs for name in run)
        return [LayerTime(name, tuple(run.get(name, 0.0) for run in self._runs)) for name in names]


def make_profiler(report: LayerReport) -> tensorrt.IProfiler:
    """Make an object of TensorRT's class that tells a report.

    Raises:
        MissingDependencyError: If TensorRT is not installed.
    """
    trt = import_tensorrt()

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            report.add(layer_name, ms)

    return Profiler()


def measure_layers(execution: Execution, iterations: int) -> list[LayerTime]:
    """Run the query that an execution holds over and over and note the times of its layers.

    To be called where the primary context is current.

    Layers are timed by events between them, which cost some time themselves: their sum is more
    than the query takes without a profiler. Layers of auxiliary streams run side by side: then the
    sum is more still.

    Args:
        execution: One that launches no graphs, its query filled. It is of no other use from now
            on: its context keeps the profiler.
        iterations: Number of runs.

    Raises:
        EngineError: If TensorRT reports nothing.
        MissingDependencyError: If TensorRT is not installed.
    """
    for _ in range(_WARM_UP_RUNS):
        execution.run(execution.query)
    report = LayerReport()
    # A profiler that reports within the enqueue makes it wait for each layer.
    execution.context.enqueue_emits_profile = False
    execution.context.profiler = make_profiler(report)
    for _ in range(iterations):
        report.begin_run()
        execution.run(execution.query)
        if not execution.context.report_to_profiler():
            raise EngineError("TensorRT does not report the times of its layers")
    layers = report.layers()
    if not layers:
        raise EngineError("TensorRT reported no layer to the profiler")
    return layers
