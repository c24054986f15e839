"""Half types on the CPU: each result is rounded to the type that the graph names."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.half_types import HALF_TYPES
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.emulate_half import emulate_half, half_types_of
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.graph.passes.insert_qdq import insert_qdq
from tests.graph_runs import run
from tests.graphs import from_text
from tests.quantization import block, floats, unit_scales, with_weights

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
CHAIN = """
g (float[N,6] x) => (float[N,6] y) {
    a = Cast<to = %d>(x)
    b = Mul(a, w)
    c = Add(b, v)
    d = Relu(c)
    e = Sub(d, b)
    f = Abs(e)
    h = Sqrt(f)
    y = Cast<to = 1>(h)
}
"""


@pytest.mark.parametrize("half", HALF_TYPES)
def test_each_result_is_rounded_as_numpy_rounds_it(half: str) -> None:
    dtype = DTYPES[half]
    w, v = (floats(6).astype(dtype), (floats(1, 6)[0] * 3).astype(dtype))
    model = with_weights(CHAIN % HALF_TYPES[half], {"w": w, "v": v})
    x = floats(500, 6) * 100
    x[0] = [1e-7, 3e-5, 65519, 65520, -1e6, 0]  # subnormal numbers, and both sides of infinity
    with np.errstate(over="ignore", invalid="ignore"):
        b = x.astype(dtype) * w
        d = np.maximum(b + v, dtype.type(0))
        expected = np.sqrt(np.abs(d - b)).astype(np.float32)
    (found,) = run(emulate_half(model), {"x": x})
    np.testing.assert_array_equal(found, expected)


def test_an_overflow_of_fp16_shows() -> None:
    text = (
        "g (float[N] x) => (float[N] y) "
        "{ a = Cast<to = 10>(x) b = Mul(a, a) c = Sqrt(b) y = Cast<to = 1>(c) }"
    )
    x = np.array([300, 200], np.float32)
    (found,) = run(emulate_half(from_text(text)), {"x": x})
    np.testing.assert_array_equal(found, [np.inf, 200])


@pytest.mark.parametrize("half", HALF_TYPES)
def test_products_are_added_up_in_float32(half: str) -> None:
    dtype = DTYPES[half]
    x, w = floats(7, 300), floats(300, 5).astype(dtype)
    text = f"g (float[N,300] x) => (float[N,5] y) {{ a = Cast<to = {HALF_TYPES[half]}>(x) "
    text += "b = MatMul(a, w) y = Cast<to = 1>(b) }"
    (found,) = run(emulate_half(with_weights(text, {"w": w})), {"x": x})
    exact = x.astype(dtype).astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_array_equal(found, found.astype(dtype).astype(np.float32))
    step = np.abs(exact) * float(ml_dtypes.finfo(dtype).eps) / 2 + 1e-5
    assert (np.abs(found - exact) <= step).all()


def test_a_float32_graph_is_given_back() -> None:
    model = block()
    assert emulate_half(model) is model
    assert half_types_of(model) == frozenset()


def test_the_graph_given_is_not_changed() -> None:
    model, _ = convert_to_half(block(), "float16")
    before = model.SerializeToString(deterministic=True)
    emulate_half(model)
    assert model.SerializeToString(deterministic=True) == before


def test_half_inputs_and_outputs_keep_their_type() -> None:
    text = "g (float16[N] x) => (float16[N] y, float16[N] z) { y = Add(x, x) z = Identity(x) }"
    emulated = emulate_half(from_text(text))
    onnx.checker.check_model(emulated, full_check=True)
    x = floats(5).astype(np.float16)
    y, z = run(emulated, {"x": x})
    assert (y.dtype, z.dtype) == (np.float16, np.float16)
    np.testing.assert_array_equal(y, x + x)
    np.testing.assert_array_equal(z, x)


def test_large_weights_keep_their_size() -> None:
    text = "g (float16[N,100] x) => (float16[N,100] y) { y = MatMul(x, w) }"
    model = with_weights(text, {"w": floats(100, 100).astype(np.float16)})
    assert [t.data_type for t in emulate_half(model).graph.initializer] == [TensorProto.FLOAT16]


@pytest.mark.parametrize("half", HALF_TYPES)
def test_integer_kernels_find_their_pairs(half: str) -> None:
    model = block()
    quantized, _ = insert_qdq(model, unit_scales(model))
    converted, _ = convert_to_half(quantized, half)
    emulated = emulate_half(decompose(converted))
    onnx.checker.check_model(emulated, full_check=True)
    producer = {node.output[0]: node.op_type for node in emulated.graph.node}
    weights = {t.name: numpy_helper.to_array(t) for t in emulated.graph.initializer}
    layers = [node for node in emulated.graph.node if node.op_type in ("MatMul", "Gemm")]
    sources = [{producer[name] for name in node.input[:2]} for node in layers]
    assert sum("DequantizeLinear" in found for found in sources) == 6
    assert not any({"DequantizeLinear", "Cast"} <= found for found in sources)
    scales = [n.input[1] for n in emulated.graph.node if n.op_type == "DequantizeLinear"]
    assert {weights[name].dtype.name for name in scales} == {"float32"}


def test_bodies_of_control_flow_in_a_half_type_are_left_to_the_runtime() -> None:
    text = (
        "g (float16[N] x, bool c) => (float16[N] y) { h = Neg(x) "
        "y = If (c) <then_branch = t () => (float16[N] a) { a = Abs(h) }, "
        "else_branch = e () => (float16[N] b) { b = Identity(h) }> }"
    )
    model = from_text(text)
    assert emulate_half(model) is model


def test_operators_beyond_the_standard_get_and_give_half_tensors() -> None:
    text = (
        "g (float16[N,6] x) => (float16[N,6] y) "
        "{ a = Add(x, x) b = com.microsoft.FastGelu(a) y = Add(b, a) }"
    )
    model = from_text(text)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT16, None))
    emulated = emulate_half(model)
    (node,) = [node for node in emulated.graph.node if node.op_type == "FastGelu"]
    (cast,) = [n for n in emulated.graph.node if n.output[0] == node.input[0]]
    assert (cast.op_type, cast.attribute[0].i) == ("Cast", TensorProto.FLOAT16)
    x = floats(3, 6).astype(np.float16)
    (found,) = run(emulated, {"x": x})
    twice = (x + x).astype(np.float64)
    expected = twice * (0.5 + 0.5 * np.tanh(0.7978845608 * (twice + 0.044715 * twice**3))) + twice
    np.testing.assert_allclose(found, expected, atol=4e-3)


def test_operators_with_a_type_of_their_own_are_widened() -> None:
    one = numpy_helper.from_array(np.ones(1, np.float16))
    model = from_text(
        "g (float[N] x) => (float[N] y) "
        "{ s = Shape(x) a = Cast<to = 10>(x) b = Add(a, c) y = Cast<to = 1>(b) }"
    )
    model.graph.node.insert(1, helper.make_node("ConstantOfShape", ["s"], ["c"], value=one))
    (found,) = run(emulate_half(model), {"x": np.array([2049, 1], np.float32)})
    np.testing.assert_array_equal(found, [2048, 2])  # 2049 becomes 2048, and so does 2049
