"""What ONNX Runtime's profiler adds to the time of each node.

It takes a node's end only after it has put the shapes of its tensors into words, which takes some
microseconds: of a node that takes one itself, nearly all. What it adds is measured on a chain of
nodes that do next to nothing, with the profiler and without.
"""

from __future__ import annotations

import statistics

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeattn.artifacts import Manifest
from edgeattn.engine.cpu import CpuEngine
from edgeattn.profiling.measure import measure_interleaved

_NODES = 64
_ITERATIONS = 40


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
