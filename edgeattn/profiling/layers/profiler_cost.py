"""What ONNX Runtime's profiler adds to the time of each node.

It takes a node's end only after it has put the shapes of its tensors into words, which takes some
microseconds: of a node that takes one itself, nearly all. What it adds is measured on a chain of
nodes that do next to nothing, with the profiler and without.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeattn.artifacts import Manifest
from edgeattn.engine.cpu import CpuEngine
from edgeattn.profiling.measure import measure_interleaved

_NODES = 64
_ITERATIONS = 40
_BISECTIONS = 40


def profiler_cost_ms() -> float:
    """Measure what the profiler adds to a node of two inputs of four axes, in milliseconds.

    Raises:
        EngineError: If ONNX Runtime fails, or its profile is not whole.
    """
    with CpuEngine(_chain().SerializeToString(), Manifest("engine", target="cpu"), threads=1) as e:
        inputs = {"x0": np.zeros((1, 1, 1, 1), np.float32)}
        profiled = e.bind_profiled(inputs)
        try:
            measured = measure_interleaved(
                {"alone": e.bind(inputs), "profiled": profiled},
                iterations=_ITERATIONS,
                duration_s=0.0,
                warm_up_ms=1.0,
            )
            nodes = profiled.finish(measured["profiled"].times).nodes
        finally:
            profiled.close()
    reported = [statistics.fmean(node.times_ms) for node in nodes]
    return statistics.median(reported) - statistics.median(measured["alone"].latency_ms) / _NODES


def fitted_cost_ms(
    reported_ms: Sequence[float], whole_ms: float, least_ms: float, most_ms: float
) -> float:
    """Find what the profiler adds to each node of a network, where that is more than to idle ones.

    Between nodes that work it finds its code and data less often in a cache. Nothing measures that
    by itself; but nodes that run one after the other do not take longer than the query. So it is
    the least for which they do not, and no more than all that a query takes longer with it.

    Args:
        reported_ms: Times of the nodes as the profiler tells them.
        whole_ms: What a query takes without it.
        least_ms: What it adds to a node that does nothing.
        most_ms: What a query takes longer with it, for each node.
    """

    def rest_ms(cost_ms: float) -> float:
        return sum(max(0.0, node - cost_ms) for node in reported_ms) - whole_ms

    if most_ms <= least_ms or rest_ms(least_ms) <= 0:
        return least_ms
    if rest_ms(most_ms) >= 0:
        return most_ms
    low, high = least_ms, most_ms
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rest_ms(middle) > 0 else (low, middle)
    return high


def _chain() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Add", [f"x{i}", f"x{i}"], [f"x{i + 1}"], f"add{i}") for i in range(_NODES)
    ]
    first, last = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 1, 1))
        for name in ("x0", f"x{_NODES}")
    )
    graph = helper.make_graph(nodes, "chain", [first], [last])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
