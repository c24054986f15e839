"""An attention node between two linear layers, quantized, and a way to run it as it is written."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from edgeattn.graph.op import OP_DOMAIN, make_attention_node
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import place_qdq
from tests.cases import Case
from tests.quantization import floats

CHANNELS = 6


def layer(case: Case, *, between: str = "") -> onnx.ModelProto:
    """Make a graph of projection, attention, projection for a case.

    Args:
        between: `reshape`: the projection works on rows, as exporters write it.
    """
    spec = case.spec
    tensors = case.tensors("float32")
    weights = {name: tensors[name] for name in spec.input_names[1:]}
    weights["w_in"] = floats(CHANNELS, spec.qkv_channels)
    weights["b_in"] = floats(spec.qkv_channels)
    weights["w_out"] = floats(spec.out_channels, 5)
    nodes = [
        helper.make_node("MatMul", ["x", "w_in"], ["product"], name="in"),
        helper.make_node("Add", ["product", "b_in"], ["qkv"], name="bias"),
        make_attention_node(spec, spec.input_names, "out", "attention"),
        helper.make_node("MatMul", ["out", "w_out"], ["y"], name="out_projection"),
    ]
    if between == "reshape":
        weights["rows"] = np.array([-1, CHANNELS])
        weights["map"] = np.array([case.batch, case.height, case.width, spec.qkv_channels])
        nodes.insert(0, helper.make_node("Reshape", ["x", "rows"], ["x_rows"]))
        nodes[1].input[0] = "x_rows"
        nodes[2].output[0] = "qkv_rows"
        nodes.insert(3, helper.make_node("Reshape", ["qkv_rows", "map"], ["qkv"]))
    shape = (case.batch, case.height, case.width)
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (*shape, CHANNELS))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (*shape, 5))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(OP_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray, *outputs: str) -> list[np.ndarray]:
    """Run a graph as it is written, attention decomposed."""
    standard = decompose(model)
    onnx.checker.check_model(standard)
    there = {output.name for output in standard.graph.output}
    standard.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in outputs if name not in there
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        standard.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(list(outputs) or None, {"x": x})


def input_of(case: Case) -> np.ndarray:
    return floats(case.batch, case.height, case.width, CHANNELS)


def scales_of(model: onnx.ModelProto, x: np.ndarray) -> dict[str, float]:
    tensors = place_qdq(model, "full").activations
    values = run(model, x, *tensors)
    return {
        name: float(np.float32(np.abs(a).max(initial=1e-6) / 127))
        for name, a in zip(tensors, values, strict=True)
    }


def quantized(model: onnx.ModelProto, x: np.ndarray) -> tuple[onnx.ModelProto, dict[str, float]]:
    scales = scales_of(model, x)
    return insert_qdq(model, scales, "attention")[0], scales
