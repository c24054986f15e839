"""Shifted layers: each channel moves by what was asked, wherever the bias is or is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn.graph.passes.correct_bias import correct_bias
from tests.graph_runs import run, tensors_of
from tests.quantization import floats, with_weights

WEIGHTS = {
    "w": floats(5, 3),
    "k": floats(3, 2, 3, 3),
    "k1": floats(3, 5, 2),
    "row": floats(3),
    "column": floats(4, 1),
    "table": floats(4, 3),
    "scalar": np.float32(0.7),
    "zero": np.int64(0),
    "five": np.array([5, 5]),
}
MATRIX = "g (float[4,5] x) => (float[4,3] y)"
IMAGE = "g (float[N,2,7,5] x) => (float[N,3,h,v] y)"

# Graph, the layer's output, whether the new constant takes an old one's place.
LAYERS = {
    "a_gemm_with_a_bias": (MATRIX, "y = Gemm(x, w, row)", "y", True),
    "a_gemm_without_a_bias": (MATRIX, "y = Gemm<alpha = 2.0>(x, w)", "y", True),
    "a_gemm_with_half_its_bias": (MATRIX, "y = Gemm<beta = 0.5>(x, w, table)", "y", True),
    "a_gemm_with_half_of_no_bias": (MATRIX, "y = Gemm<beta = 0.5>(x, w)", "y", True),
    "a_gemm_with_a_bias_that_is_off": (MATRIX, "y = Gemm<beta = 0.0>(x, w, row)", "y", True),
    "a_gemm_with_one_bias_for_all": (MATRIX, "y = Gemm(x, w, scalar)", "y", True),
    "a_gemm_with_a_bias_per_row": (MATRIX, "y = Gemm(x, w, column)", "y", True),
    "a_gemm_with_a_computed_bias": (
        MATRIX, "m = ReduceMean(x)\ny = Gemm(x, w, m)", "y", False
    ),
    "a_matmul_with_a_bias": (MATRIX, "p = MatMul(x, w)\ny = Add(p, row)", "p", True),
    "a_matmul_with_its_bias_on_the_left": (MATRIX, "p = MatMul(x, w)\ny = Add(row, p)", "p", True),
    "a_matmul_with_a_scalar_bias": (MATRIX, "p = MatMul(x, w)\ny = Add(p, scalar)", "p", True),
    "a_matmul_with_a_table_added": (MATRIX, "p = MatMul(x, w)\ny = Add(p, table)", "p", True),
    "a_matmul_without_a_bias": (MATRIX, "y = MatMul(x, w)", "y", False),
    "a_matmul_read_twice": (
        MATRIX, "p = MatMul(x, w)\nq = Add(p, row)\nr = Neg(p)\ny = Add(q, r)", "p", False
    ),
    "a_matmul_doubled": (MATRIX, "p = MatMul(x, w)\ny = Add(p, p)", "p", False),
    "a_matmul_reshaped": (
        MATRIX, "p = MatMul(x, w)\nt = Transpose<perm = [0, 1]>(p)\ny = Add(t, row)", "p", False
    ),
    "a_conv_with_a_bias": (IMAGE, "y = Conv(x, k, row)", "y", True),
    "a_conv_without_a_bias": (IMAGE, "y = Conv<strides = [2, 1]>(x, k)", "y", True),
    "a_conv_with_a_computed_bias": (
        IMAGE, "m = ReduceMean<keepdims = 0>(x)\ns = Mul(row, m)\ny = Conv(x, k, s)", "y", False
    ),
    "a_conv_of_a_signal": (
        "g (float[N,5,7] x) => (float[N,3,l] y)", "y = Conv(x, k1)", "y", True
    ),
}  # fmt: skip


def model_of(head: str, body: str) -> onnx.ModelProto:
    used = {name: array for name, array in WEIGHTS.items() if any(
        f"{before}{name}{after}" in body for before in "( " for after in ",)")}  # fmt: skip
    return with_weights(f"{head} {{ {body} }}", used)


def input_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return {"x": floats(*(dim.dim_value or 3 for dim in dims))}


@pytest.mark.parametrize(("head", "body", "layer", "in_place"), LAYERS.values(), ids=LAYERS)
def test_each_channel_of_a_layer_moves_by_its_shift(head, body, layer, in_place):
    model = model_of(head, body)
    before, x = model.SerializeToString(), input_of(model)
    shift = np.array([0.5, -2.0, 1e-3], np.float32)
    corrected, decisions = correct_bias(model, {layer: shift})
    onnx.checker.check_model(corrected)
    assert model.SerializeToString() == before
    assert (len(corrected.graph.node) == len(model.graph.node)) is in_place
    assert [output.name for output in corrected.graph.output] == ["y"]

    # What follows the layer is linear, so the graph's own output moves by a known amount.
    moved = tensors_of(model, [layer], x)[layer] + (
        shift.reshape(-1, *[1] * (len(x["x"].shape) - 2)) if "Conv" in body else shift
    )
    sources = onnx.ModelProto()
    sources.CopyFrom(model)
    rest = [node for node in sources.graph.node if layer not in node.output]
    del sources.graph.node[:]
    sources.graph.node.extend(rest)
    if layer == "y":
        expected = moved
    else:
        value = onnx.helper.make_tensor_value_info(layer, 1, moved.shape)
        sources.graph.input.append(value)
        expected = run(sources, {**x, layer: moved})[0]
    np.testing.assert_allclose(run(corrected, x)[0], expected, atol=1e-5)

    (decision,) = decisions
    assert decision.node == layer
    assert decision.reason == "bias: takes away the mean error of INT8, at most 2 in a channel"
    assert decision.tensor in {tensor.name for tensor in corrected.graph.initializer}
    assert not decision.quantized


def test_layers_that_share_a_bias_get_their_own():
    text = """g (float[4,5] x) => (float[4,3] y) {
        a = Gemm(x, w, row)
        b = Gemm(x, w, row)
        y = Sub(a, b)
    }"""
    model = with_weights(text, {name: WEIGHTS[name] for name in ("w", "row")})
    shift = np.array([1, 2, 3], np.float32)
    corrected, _ = correct_bias(model, {"a": shift})
    np.testing.assert_allclose(
        run(corrected, input_of(model))[0], np.tile(shift, (4, 1)), atol=1e-5
    )


def test_a_layer_that_is_an_output_and_has_a_bias_is_shifted_in_both():
    text = """g (float[4,5] x) => (float[4,3] p, float[4,3] y) {
        p = MatMul(x, w)
        y = Add(p, row)
    }"""
    model = with_weights(text, {name: WEIGHTS[name] for name in ("w", "row")})
    shift = np.array([1, 2, 3], np.float32)
    before, x = run(model, input_of(model)), input_of(model)
    for old, new in zip(before, run(correct_bias(model, {"p": shift})[0], x), strict=True):
        np.testing.assert_allclose(new, old + shift, atol=1e-5)


def test_a_layer_that_control_flow_reads_is_shifted_there_too():
    text = """g (float[4,5] x, bool c) => (float[4,3] y) {
        p = MatMul(x, w)
        q = Add(p, row)
        r = If (c) <
            then_branch = t () => (float[4,3] one) { one = Neg(p) },
            else_branch = e () => (float[4,3] two) { two = Identity(p) }
        >
        y = Add(q, r)
    }"""
    model = with_weights(text, {name: WEIGHTS[name] for name in ("w", "row")})
    shift = np.array([1, 2, 3], np.float32)
    x = {"x": floats(4, 5), "c": np.array(False)}
    corrected, _ = correct_bias(model, {"p": shift})
    np.testing.assert_allclose(run(corrected, x)[0], run(model, x)[0] + 2 * shift, atol=1e-5)


def test_no_shift_changes_nothing():
    model = model_of(MATRIX, "y = MatMul(x, w)")
    corrected, decisions = correct_bias(model, {"y": np.zeros(3, np.float32)})
    assert corrected.graph == model.graph
    assert not decisions
