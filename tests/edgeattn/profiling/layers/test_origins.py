"""Tracing what ONNX Runtime made of a graph back to the graph, on its own optimizer's output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgeattn.engine.cpu_session import session_options
from edgeattn.profiling.layers.origins import Origin, origins
from tests.graphs import from_text, int8_chain


def optimized(model: onnx.ModelProto, folder: Path, arithmetic: str | None = None):
    options = session_options(1, arithmetic)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


def with_weights(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    model = from_text(text)
    rng = np.random.default_rng(3)
    for name, shape in shapes.items():
        value = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    return model


def traced(model: onnx.ModelProto, folder: Path) -> dict[str, Origin]:
    """Give the origins by operator, of which the optimized graph has one each."""
    made = optimized(model, folder)
    found = origins(model, made)
    assert set(found) == {node.name or node.output[0] for node in made.graph.node}
    kinds = [node.op_type for node in made.graph.node]
    assert len(kinds) == len(set(kinds))
    return {node.op_type: found[node.name or node.output[0]] for node in made.graph.node}


def test_a_fused_node_computes_what_lies_between_its_tensors(tmp_path):
    model = with_weights(
        "g (float[2,8,16] q, float[2,8,16] k) => (float[2,8,8] y) {"
        " scaled = Mul (q, scale) turned = Transpose <perm = [0, 2, 1]> (k)"
        " y = MatMul (scaled, turned) }",
        scale=(),
    )
    found = traced(model, tmp_path)
    nodes = ("Mul_scaled", "Transpose_turned", "MatMul_y")
    assert found == {"FusedMatMul": Origin(nodes, nodes)}


def test_a_linear_layer_between_reshapes_is_its_product(tmp_path):
    model = with_weights(
        "g (float[2,8,16] x) => (float[2,8,4] y) {"
        " a = MatMul (x, w) b = Add (a, bias) y = Sin (b) }",
        w=(16, 4),
        bias=(4,),
    )
    made = optimized(model, tmp_path)
    found = origins(model, made)
    kinds = {node.name: node.op_type for node in made.graph.node}
    layer = ("MatMul_a", "Add_b")
    assert {kinds[name]: origin for name, origin in found.items() if origin.nodes} == {
        "Gemm": Origin(layer, layer),
        "Sin": Origin(("Sin_y",), ("Sin_y",)),
    }
    helpers = [origin for name, origin in found.items() if kinds[name] == "Reshape"]
    assert helpers == [Origin((), layer)] * 2


def test_convolutions_in_blocked_layout_are_told_by_their_names(tmp_path):
    model = with_weights(
        "g (float[1,32,8,8] x) => (float[1,32,8,8] y) {"
        " a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)"
        " b = Relu (a)"
        " c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b, v)"
        " y = Sin (c) }",
        w=(32, 32, 3, 3),
        v=(32, 32, 3, 3),
    )
    made = optimized(model, tmp_path)
    found = origins(model, made)
    computed = [found[node.name].nodes for node in made.graph.node if node.op_type == "Conv"]
    assert computed == [("Conv_a", "Relu_b"), ("Conv_c",)]
    everything = [label for origin in found.values() for label in origin.nodes]
    assert sorted(everything) == ["Conv_a", "Conv_c", "Relu_b", "Sin_y"]


@pytest.mark.parametrize("arithmetic", ["fused", "unfused"])
def test_a_quantized_network_is_traced_whole(tmp_path, arithmetic):
    model = int8_chain(2, batch=4)
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}_{node.op_type}"
    found = origins(model, optimized(model, tmp_path, arithmetic))
    assert all(origin.serves for origin in found.values())
    products = {node.name for node in model.graph.node if node.op_type == "MatMul"}
    held = [products.intersection(origin.nodes) for origin in found.values()]
    assert sorted(len(each) for each in held if each) == [1] * len(products)
    assert set.union(*held) == products


def test_a_node_that_nothing_explains_has_no_origin():
    given = with_weights("g (float[2] x) => (float[2] y) { y = Neg (x) }")
    made = onnx.ModelProto()
    made.CopyFrom(given)
    made.graph.node.append(helper.make_node("Abs", ["x"], ["stray"], "stray"))
    assert origins(given, made) == {
        "Neg_y": Origin(("Neg_y",), ("Neg_y",)),
        "stray": Origin((), ()),
    }
