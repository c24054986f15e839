"""Running graphs in ONNX Runtime as they are written: no fusion, no integer kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from edgeattn.graph.passes.decompose import decompose


def run(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compute a graph's outputs."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    data = decompose(model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def tensors_of(
    model: onnx.ModelProto, names: Sequence[str], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Compute float32 tensors inside a graph."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in names:
        probe.graph.node.append(helper.make_node("Identity", [name], [f"{name}/seen"]))
        value = helper.make_tensor_value_info(f"{name}/seen", TensorProto.FLOAT, None)
        probe.graph.output.append(value)
    return dict(zip(names, run(probe, inputs), strict=True)) if names else {}
