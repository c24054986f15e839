"""Where the time of a query goes on the CPU engine."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from edgeattn.engine.cpu import CpuEngine
from edgeattn.engine.cpu_layers import NodeTimes
from edgeattn.graph.names import name_nodes
from edgeattn.profiling.layers.cost import GraphCosts
from edgeattn.profiling.layers.modules import ModuleMap
from edgeattn.profiling.layers.origins import Origin, origins
from edgeattn.profiling.layers.profiler_cost import fitted_cost_ms, profiler_cost_ms
from edgeattn.profiling.layers.roofline import Ceiling, with_rates
from edgeattn.profiling.layers.rows import LayerProfile, LayerRow, module_tree, typical_runs
from edgeattn.profiling.measure import measure_interleaved

# Enough for the median of each node; a turn of the interleaved loop is long by itself.
ITERATIONS = 20
_DURATION_S = 0.2
_WARM_UP_MS = 100.0

_INTEGER_OPS = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger")


def profile_cpu_layers(
    engine: CpuEngine,
    inputs: Mapping[str, np.ndarray],
    *,
    iterations: int = ITERATIONS,
    whole_ms: float | None = None,
    ceiling: Ceiling | None = None,
) -> LayerProfile:
    """Measure the nodes of a query, in turns with queries that nobody looks into.

    The two are run side by side, so that clocks and neighbours are the same for both. What the
    profiler itself adds to a node is measured and taken off. The times are not stretched to fill
    the whole: what their sum lacks is what passes between nodes.

    Args:
        engine: The engine.
        inputs: Arrays by name.
        iterations: Least number of runs of each kind.
        whole_ms: Latency to scale everything to, if it was measured at another time: the nodes'
            times are multiplied by its ratio to the latency measured here.
        ceiling: What this processor can do; none is known without measuring it.

    Raises:
        DataError: If the inputs do not fit the engine, or `iterations` is out of range.
        EngineError: If the engine fails, or ONNX Runtime's profile is not whole.
    """
    profiled = engine.bind_profiled(inputs)
    try:
        alone = engine.bind(inputs)
        measured = measure_interleaved(
            {"alone": alone, "profiled": profiled},
            iterations=iterations,
            duration_s=_DURATION_S,
            warm_up_ms=_WARM_UP_MS,
        )
        session = profiled.finish(measured["profiled"].times)
    finally:
        profiled.close()
    here_ms = statistics.median(measured["alone"].latency_ms)
    all_profiled_ms = measured["profiled"].latency_ms
    profiled_ms = statistics.median(all_profiled_ms)
    whole = here_ms if whole_ms is None else whole_ms
    least_ms = added_ms = profiler_cost_ms()
    # A sample of a batch is no query: what its runs usually sum to, nothing beside tells.
    near_ms = None if engine.samples_apart else here_ms + least_ms * len(session.nodes)
    times_ms = [node.times_ms for node in session.nodes]
    typical = typical_runs(times_ms, near_ms)
    if not engine.samples_apart:
        runs_ms = [all_profiled_ms[run] for run in typical]
        most_ms = (statistics.fmean(runs_ms) - here_ms) / max(len(times_ms), 1)
        reported_ms = [statistics.fmean(node[run] for run in typical) for node in times_ms]
        added_ms = fitted_cost_ms(reported_ms, here_ms, least_ms, most_ms)
    scale = _Scale(typical, least_ms, added_ms, whole / here_ms, whole)
    if engine.samples_apart:
        # Samples that run side by side share the cores: what one takes alone says how its time is
        # spent, not how long the batch takes.
        scaled_ms = sum(map(scale.typical_ms, session.nodes))
        scale = scale._replace(factor=scale.factor * whole / scaled_ms if scaled_ms else 1.0)
    rows = _Rows(engine, inputs, session.optimized, ceiling)
    layers = tuple(rows.row(node, scale) for node in session.nodes)
    total_ms = sum(row.ms for row in layers)
    return LayerProfile(
        rows=layers,
        modules=module_tree(layers, rows.modules.notes),
        total_ms=total_ms,
        whole_ms=whole,
        runs=len(measured["profiled"].times),
        note=" ".join(_note(engine, (here_ms, profiled_ms), scale, total_ms)),
        ceiling=ceiling.device if ceiling is not None else "",
        roofs=ceiling.roofs() if ceiling is not None else None,
    )


class _Scale(NamedTuple):
    """How the profiler's times become a query's.

    Attributes:
        typical: Numbers of the runs that count for `ms`.
        least_ms: What the profiler adds to a node that does nothing.
        added_ms: What is taken off each node for the profiler.
        factor: To what the whole takes.
        whole_ms: What the whole takes.
    """

    typical: Sequence[int]
    least_ms: float
    added_ms: float
    factor: float
    whole_ms: float

    def typical_ms(self, node: NodeTimes) -> float:
        """Give the time of a node in typical runs."""
        return self.of(statistics.fmean(node.times_ms[run] for run in self.typical))

    def of(self, reported_ms: float) -> float:
        """Give the time of a node for what the profiler reports."""
        return max(0.0, reported_ms - self.added_ms) * self.factor


class _Rows:
    """Makes rows of the nodes that a session ran."""

    def __init__(
        self,
        engine: CpuEngine,
        inputs: Mapping[str, np.ndarray],
        optimized: onnx.ModelProto,
        ceiling: Ceiling | None,
    ) -> None:
        given = onnx.load_from_string(engine.graph)
        name_nodes(given.graph)
        batch = 1 if engine.samples_apart else None
        shapes = {name: (batch or a.shape[0], *a.shape[1:]) for name, a in inputs.items() if a.ndim}
        self.modules = ModuleMap(given)
        self._origins = origins(given, optimized)
        self._costs = GraphCosts(given, shapes)
        self._ceiling = ceiling

    def row(self, node: NodeTimes, scale: _Scale) -> LayerRow:
        origin = self._origins.get(node.name, Origin((), ()))
        ms = scale.typical_ms(node)
        is_integer = node.op_type.startswith(_INTEGER_OPS)
        row = LayerRow(
            name=node.name,
            kind=node.op_type,
            module=self.modules.path_of(origin.serves),
            ms=ms,
            median_ms=scale.of(statistics.median(node.times_ms)),
            mean_ms=scale.of(statistics.fmean(node.times_ms)),
            share=ms / scale.whole_ms,
            nodes=origin.nodes,
            precision="int8" if is_integer else node.dtype,
        )
        return with_rates(row, self._costs.of(origin.nodes), self._ceiling)


def _note(
    engine: CpuEngine, medians_ms: tuple[float, float], scale: _Scale, total_ms: float
) -> Iterator[str]:
    """Say how the times were measured, one sentence each.

    Args:
        engine: The engine.
        medians_ms: Of queries without the profiler, and with it.
        scale: How the profiler's times were changed.
        total_ms: Sum of the layers' times.
    """
    here_ms, profiled_ms = medians_ms
    yield (
        "ONNX Runtime's profiler, in a session of its own with the engine's options, in turns with "
        f"queries that nobody looked into: {here_ms:.3f} ms at the median without it, "
        f"{profiled_ms:.3f} ms with it."
    )
    yield (
        f"It adds {1e3 * scale.least_ms:.1f} µs to each node that does nothing, measured, and more "
        f"to others: {1e3 * scale.added_ms:.1f} µs were taken off each, the least with which the "
        "layers do not take longer than the query."
        if scale.added_ms > scale.least_ms
        else f"It adds {1e3 * scale.least_ms:.1f} µs to each node, measured on nodes that do "
        "nothing and taken off."
    )
    if engine.samples_apart:
        yield (
            "The samples of a batch run apart, one per thread: one was profiled alone, and its "
            "times are scaled so that they sum to the latency of the batch."
        )
        return
    if scale.whole_ms != here_ms:
        yield (
            f"Times are scaled by {scale.factor:.3f}, to the latency of {scale.whole_ms:.3f} ms."
        )
    yield f"The layers sum to {100 * total_ms / scale.whole_ms:.1f} % of the whole."
