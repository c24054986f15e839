"""Quantized graphs compute what the definition says, and nothing else is touched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgeattn.errors import GraphError, TableError
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import place_qdq
from tests.graphs import from_text
from tests.quantization import (
    as_is,
    block,
    block_weights,
    fake_quantized,
    fake_quantized_matrix,
    floats,
    observed_amax,
    run_block,
    unit_scales,
    with_weights,
)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    """Run a graph as it is written: every optimization off."""
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)[0]


def ops(model: onnx.ModelProto) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def quantized_block() -> tuple[onnx.ModelProto, dict[str, float], np.ndarray]:
    x, weights = floats(3, 4, 8), block_weights()
    amax = observed_amax(lambda note: run_block(x, weights, note, as_is))
    scales = {name: float(np.float32(value / 127)) for name, value in amax.items()}
    model, _ = insert_qdq(block(), scales)
    return model, scales, x


def test_a_block_computes_what_fake_quantization_says():
    model, scales, x = quantized_block()
    expected = run_block(
        x,
        block_weights(),
        lambda name, values: fake_quantized(values, scales[name]),
        fake_quantized_matrix,
    )
    np.testing.assert_allclose(run(model, x=x), expected, atol=2e-5)
    # The rounding is there, and of the size that 8 bits have.
    assert 25 < sqnr_db(run(block(), x=x), run(model, x=x)) < 60


def test_only_linear_layers_with_constant_weights_read_rounded_tensors():
    model, scales, _ = quantized_block()
    made_by = producers(model)
    assert sorted(scales) == ["active", "mixed", "norm", "sum"]
    for node in model.graph.node:
        sources = {made_by[name].op_type for name in node.input if name in made_by}
        if node.op_type == "Gemm" or (
            node.op_type == "MatMul" and node.output[0] not in ("logits", "mixed")
        ):
            assert made_by[node.input[1]].op_type == "DequantizeLinear"
            data = made_by[node.input[0]]
            if data.op_type == "Reshape":
                data = made_by[data.input[0]]
            assert data.op_type == "DequantizeLinear"
        elif node.op_type not in ("DequantizeLinear", "Reshape"):
            assert "DequantizeLinear" not in sources, node
    assert ops(model)["QuantizeLinear"] == 4
    assert ops(model)["DequantizeLinear"] == 4 + 6


def test_readers_of_one_tensor_share_one_pair_and_residual_adds_read_the_float_tensor():
    model, _, _ = quantized_block()
    by_output = producers(model)
    shared = {by_output[name].input[0] for name in ("q", "k", "v")}
    assert len(shared) == 1
    assert list(by_output["y"].input) == ["sum", "back"]
    assert by_output["sum"].input[0] == "x"


def test_the_source_graph_is_not_changed():
    model = block()
    before = model.SerializeToString(deterministic=True)
    insert_qdq(model, unit_scales(model))
    assert model.SerializeToString(deterministic=True) == before


def test_zero_points_are_zero_and_scales_positive_float32():
    model, _, _ = quantized_block()
    values = initializers(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = values[node.input[1]], values[node.input[2]]
            assert scale.dtype == np.float32
            assert zero.dtype == np.int8
            assert zero.shape == scale.shape
            assert not zero.any()
            assert (scale > 0).all()


def test_weights_shrink_to_a_quarter():
    weight = floats(256, 256)
    model = with_weights(
        "g (float[N,256] x) => (float[N,256] y) { y = MatMul(x, w) }", {"w": weight}
    )
    quantized, _ = insert_qdq(model, {"x": 0.03})
    assert "w" not in initializers(quantized)
    assert quantized.ByteSize() < weight.nbytes / 4 + 4 * 256 + 256 + 1500


CONVOLUTIONS = {
    "2-D with stride and padding": ((2, 3, 7, 9), (5, 3, 3, 3), "strides=[2,2], pads=[1,1,1,1]"),
    "1-D": ((2, 6, 11), (4, 6, 3), "pads=[1,1]"),
    "1x1": ((1, 8, 5, 5), (3, 8, 1, 1), "strides=[1,1]"),
    "grouped": ((2, 8, 5, 5), (16, 4, 3, 3), "group=2"),
}


def convolution(x: np.ndarray, w: np.ndarray, b: np.ndarray, attributes: str) -> onnx.ModelProto:
    shape = ",".join(map(str, x.shape))
    text = f"g (float[{shape}] x) => (float[{','.join('ABCD'[: x.ndim])}] y)"
    return with_weights(text + f" {{ y = Conv<{attributes}>(x, w, b) }}", {"w": w, "b": b})


@pytest.mark.parametrize(("shape", "kernel", "attributes"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution_is_that_of_rounded_input_and_channels(shape, kernel, attributes):
    x, w, b = floats(*shape), floats(*kernel), floats(kernel[0])
    scale = float(np.float32(np.abs(x).max() / 127))
    model, decisions = insert_qdq(convolution(x, w, b, attributes), {"x": scale})
    channel_scales = (np.abs(w).max(axis=tuple(range(1, w.ndim))) / np.float32(127)).reshape(
        -1, *[1] * (w.ndim - 1)
    )
    rounded_x = fake_quantized(x.astype(np.float64), scale).astype(np.float32)
    rounded_w = fake_quantized(w.astype(np.float64), channel_scales).astype(np.float32)
    expected = run(convolution(rounded_x, rounded_w, b, attributes), x=rounded_x)
    np.testing.assert_allclose(run(model, x=x), expected, atol=1e-4)
    assert [d.quantized for d in decisions] == [True, True]


@pytest.mark.parametrize("kernel", [(8, 1, 3, 3), (4, 4, 3, 3), (6, 4, 3, 3)])
def test_groups_that_tensorrt_has_no_int8_for_stay_in_float(kernel):
    channels = 8
    groups = channels // kernel[1]
    nodes = f"g (float[1,{channels},5,5] x) => (float[A,B,C,D] y) {{ h = Conv<group={groups}>(x, w)"
    model = with_weights(
        nodes + " y = Conv(h, v) }", {"w": floats(*kernel), "v": floats(2, kernel[0], 1, 1)}
    )
    quantized, decisions = insert_qdq(model, {"h": 0.1})
    kept = [d for d in decisions if not d.quantized]
    assert [(d.op_type, d.tensor) for d in kept] == [("Conv", "x"), ("Conv", "w")]
    assert all("wants multiples of 4" in d.reason for d in kept)
    assert list(quantized.graph.node[0].input) == ["x", "w"]


LINEAR = "g (float[N,6] x) => (float[N,4] y) { %s }"
# Every way to write x @ W for one W [6, 4].
FORMS = {
    "initializer": ("y = MatMul(x, w)", lambda w: {"w": w}),
    "transposed": ("t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)", lambda w: {"w": w.T.copy()}),
    "identities": ("i = Identity(w) j = Identity(i) y = MatMul(x, j)", lambda w: {"w": w}),
    "half precision": (
        "c = Cast<to=1>(w) y = MatMul(x, c)",
        lambda w: {"w": w.astype(np.float16)},
    ),
    "reshaped": (
        "r = Reshape(w, s) y = MatMul(x, r)",
        lambda w: {"w": w.ravel(), "s": np.array([6, 4])},
    ),
    "Gemm": ("y = Gemm(x, w)", lambda w: {"w": w}),
    "Gemm transB": ("y = Gemm<transB=1>(x, w)", lambda w: {"w": w.T.copy()}),
    "Gemm of transposed": (
        "t = Transpose<perm=[1,0]>(w) y = Gemm(x, t)",
        lambda w: {"w": w.T.copy()},
    ),
    "Gemm with bias": ("y = Gemm(x, w, b)", lambda w: {"w": w, "b": np.zeros(4, np.float32)}),
    "input through Identity": ("i = Identity(x) y = MatMul(i, w)", lambda w: {"w": w}),
    "input through Reshape": (
        "r = Reshape(x, s) z = MatMul(r, w) y = Squeeze(z, a)",
        lambda w: {"w": w, "s": np.array([1, -1, 6]), "a": np.array([0])},
    ),
    "input through Transpose": (
        "t = Transpose<perm=[1,0]>(x) y = Gemm<transA=1>(t, w)",
        lambda w: {"w": w},
    ),
}


@pytest.mark.parametrize(("nodes", "weights"), FORMS.values(), ids=FORMS)
def test_a_layer_is_quantized_alike_however_it_is_written(nodes, weights):
    x = floats(5, 6)
    w = floats(6, 4).astype(np.float16).astype(np.float32)
    scale = float(np.float32(np.abs(x).max() / 127))
    model, decisions = insert_qdq(with_weights(LINEAR % nodes, weights(w)), {"x": scale})
    expected = fake_quantized(x.astype(np.float64), scale) @ fake_quantized_matrix("w", w)
    np.testing.assert_allclose(run(model, x=x), expected, atol=1e-5)
    assert [d.quantized for d in decisions] == [True, True]
    assert decisions[0].tensor == "x"
    # No float weight is left, nor what led to it.
    left = [v.size for v in initializers(model).values() if v.dtype.kind == "f"]
    assert max(left) <= 4
    assert ops(model)["QuantizeLinear"] == 1
    assert "Identity" not in ops(model)
    assert "Cast" not in ops(model)


def test_a_constant_node_is_a_weight_like_an_initializer():
    w = floats(6, 4)
    model = from_text(LINEAR % "y = MatMul(x, c)")
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(w))
    matmul = model.graph.node[0]
    del model.graph.node[:]
    model.graph.node.extend([constant, matmul])
    quantized, _ = insert_qdq(model, {"x": 0.02})
    assert ops(quantized) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "MatMul": 1}


def test_a_weight_that_two_layers_share_is_stored_once_in_each_direction():
    w = floats(6, 6)
    text = "g (float[N,6] x) => (float[N,6] y) { a = MatMul(x, w) b = MatMul(a, w) %s }"
    once, _ = insert_qdq(with_weights(text % "y = Relu(b)", {"w": w}), {"x": 0.02, "a": 0.02})
    assert sum(v.size == 36 for v in initializers(once).values()) == 1
    both, _ = insert_qdq(
        with_weights(text % "y = Gemm<transB=1>(b, w)", {"w": w}),
        {"x": 0.02, "a": 0.02, "b": 0.02},
    )
    axes = sorted(
        a.i
        for node in both.graph.node
        for a in node.attribute
        if node.op_type == "DequantizeLinear"
    )
    assert axes == [0, 1]


def test_a_weight_that_a_float_node_reads_too_stays_beside_its_integers():
    text = """g (int64[N] i, float[N,6] x) => (float[N,6] y, float[N,4] z) {
        y = Gather(w, i) z = Gemm<transB=1>(x, w) }"""
    model, _ = insert_qdq(with_weights(text, {"w": floats(4, 6)}), {"x": 0.02})
    dtypes = sorted(v.dtype.name for v in initializers(model).values() if v.shape == (4, 6))
    assert dtypes == ["float32", "int8"]
    assert list(producers(model)["y"].input) == ["w", "i"]


def test_padding_with_zeros_takes_the_scale_of_what_it_pads():
    text = """g (float[1,3,5,5] x) => (float[A,B,C,D] y) {
        p = Pad(x, pads) a = Conv(p, w) b = Conv(x, w1) y = Concat<axis=1>(a, b) }"""
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    weights = {"pads": pads, "w": floats(4, 3, 3, 3), "w1": floats(4, 3, 1, 1)}
    model = with_weights(text, weights)
    assert place_qdq(model).activations == ("x",)
    quantized, _ = insert_qdq(model, {"x": 0.03})
    x = floats(1, 3, 5, 5)
    assert sqnr_db(run(model, x=x), run(quantized, x=x)) > 25
    # TensorRT may not carry INT8 through a Pad: the pair stands between it and the convolution.
    made_by = producers(quantized)
    assert made_by[made_by[made_by["a"].input[0]].input[0]].input[0] == "p"


def test_padding_with_anything_else_has_a_scale_of_its_own():
    text = "g (float[1,3,5,5] x) => (float[A,B,C,D] y) { p = Pad%s y = Conv(p, w) }"
    weights = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": floats(4, 3, 3, 3)}
    weights["nine"] = np.float32(9)
    for form in ("(x, pads, nine)", '<mode="reflect">(x, pads)'):
        assert place_qdq(with_weights(text % form, weights)).activations == ("p",)


def test_a_name_that_is_taken_is_not_used_again():
    text = """g (float[N,6] x) => (float[N,4] y) {
        x_quantized = Relu(x) w_int8 = MatMul(x_quantized, v) x_dequantized = Relu(w_int8)
        z = MatMul(x, w) y = Add(z, x_dequantized) }"""
    model = with_weights(text, {"w": floats(6, 4), "v": floats(6, 4)})
    quantized, _ = insert_qdq(model, unit_scales(model))
    onnx.checker.check_model(quantized, full_check=True)
    x = floats(3, 6)
    assert sqnr_db(run(model, x=x), run(quantized, x=x)) > 25


def test_an_output_of_the_graph_that_is_quantized_stays_float_outside():
    text = "g (float[N,6] x) => (float[N,6] h, float[N,6] y) { h = MatMul(x, w) y = MatMul(h, w) }"
    model = with_weights(text, {"w": floats(6, 6)})
    quantized, _ = insert_qdq(model, unit_scales(model, 0.1))
    assert [o.name for o in quantized.graph.output] == ["h", "y"]
    x = floats(3, 6)
    exact = fake_quantized(x, 0.1) @ fake_quantized_matrix("w", initializers(model)["w"])
    np.testing.assert_allclose(run(quantized, x=x), exact, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-60, 1e39])
def test_a_scale_that_is_not_finite_and_positive_is_refused(scale):
    model = block()
    with pytest.raises(TableError, match="the scale of mixed is"):
        insert_qdq(model, unit_scales(model) | {"mixed": scale})


def test_missing_and_unknown_scales_are_refused_by_name():
    model = block()
    scales = unit_scales(model)
    with pytest.raises(TableError, match="there is a scale of other"):
        insert_qdq(model, scales | {"other": 1.0})
    del scales["sum"]
    with pytest.raises(TableError, match="1 of 4 tensors have no scale, the first is sum"):
        insert_qdq(model, scales)


def test_a_quantized_graph_is_not_quantized_again():
    model, scales, _ = quantized_block()
    with pytest.raises(GraphError, match="quantized already: it holds 14 Q/DQ nodes"):
        insert_qdq(model, scales)
