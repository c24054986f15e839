"""What this processor can do at best through the CPU engine: measured, since nobody publishes it.

Bandwidth is that of a sum of two tensors, the best of sizes from those that fit a core's cache to
those that fit none: a layer between others finds its input in some cache, so that the memory's
bandwidth alone would be no ceiling. Products are those of large square matrices, whose second
factor is a constant that ONNX Runtime packs beforehand, as weights are.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeattn.artifacts import Manifest
from edgeattn.engine.cpu import CpuEngine
from edgeattn.profiling.layers.roofline import Ceiling
from edgeattn.profiling.measure import measure

_ELEMENTS = tuple(1 << power for power in (14, 16, 18, 20, 22, 24))
# Products that take about a millisecond: some of them find the processor undisturbed.
_SIDE = 512


@functools.cache
def cpu_ceiling(threads: int) -> Ceiling:
    """Measure the ceiling, which takes some seconds, once in a process.

    Args:
        threads: Threads of the engine whose layers are to be compared with it.

    Raises:
        EngineError: If ONNX Runtime fails.
    """
    gb_s = max(3 * 4 * count / _best_s(_sum(count), threads) / 1e9 for count in _ELEMENTS)
    operations = 2.0 * _SIDE**3 / 1e9
    return Ceiling(
        f"measured on {threads} thread{'s' if threads > 1 else ''}: the fastest sums of tensors "
        f"of {_ELEMENTS[0] >> 8} KiB to {_ELEMENTS[-1] >> 18} MiB, products of {_SIDE} by {_SIDE}",
        gb_s,
        {
            "float32": operations / _best_s(_product("MatMul", np.float32, np.float32), threads),
            "int8": operations / _best_s(_product("MatMulInteger", np.uint8, np.int8), threads),
        },
    )


def _best_s(model: onnx.ModelProto, threads: int) -> float:
    """Time a graph: its fastest query, for a ceiling is what can be reached."""
    data, manifest = model.SerializeToString(), Manifest("engine", target="cpu")
    with CpuEngine(data, manifest, threads=threads) as engine:
        # Written, for zeros that nobody wrote are one page of memory for all.
        shapes = {each.name: [int(size) for size in each.shape] for each in engine.inputs}
        ones = {each.name: np.ones(shapes[each.name], each.dtype) for each in engine.inputs}
        query = engine.bind(ones)
        times = measure(query, iterations=10, duration_s=0.1, warm_up_ms=10.0)
    return min(times.latency_ms) / 1e3


def _sum(count: int) -> onnx.ModelProto:
    make = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"], "sum")],
        "sum",
        [make(name, TensorProto.FLOAT, (count,)) for name in "ab"],
        [make("y", TensorProto.FLOAT, (count,))],
    )
    return _model(graph)


def _product(op_type: str, left: type[np.generic], right: type[np.generic]) -> onnx.ModelProto:
    make, sizes = helper.make_tensor_value_info, (_SIDE, _SIDE)
    weights = np.ones(sizes, right)
    out = TensorProto.FLOAT if left is np.float32 else TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x", "w"], ["y"], "product")],
        "product",
        [make("x", helper.np_dtype_to_tensor_dtype(np.dtype(left)), sizes)],
        [make("y", out, sizes)],
        [numpy_helper.from_array(weights, "w")],
    )
    return _model(graph)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
