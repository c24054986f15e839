"""A network that exports nothing and is measured in a blink, and the files of sweeps over it."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PRODUCT = """
[axes]
models = ["net"]
precisions = ["fp32", "int8"]
batch_sizes = [1, 3]

[models.net]
source = "net.onnx"
calibration = { data = "samples.npz", method = "minmax" }
accuracy = "labelled.npz"

[measure]
iterations = 2
duration_s = 0.01
warm_up_ms = 0
board = false
"""


def write_network(folder):
    """Write `net.onnx`, two products with a Relu between them at any batch size, and its data."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((8, 16), (16, 4))]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "w1"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "net.onnx")
    samples = rng.standard_normal((12, 8)).astype(np.float32)
    classes = (np.maximum(samples @ weights[0], 0) @ weights[1]).argmax(1)
    np.savez(folder / "samples.npz", x=samples)
    np.savez(folder / "labelled.npz", x=samples, label=classes)


def write_sweep(folder, text=PRODUCT):
    """Write the network and the file of a sweep; returns the latter."""
    write_network(folder)
    path = folder / "sweep.toml"
    path.write_text(text)
    return path
