"""Scales read from graphs that other tools quantized, and what stands against them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeattn.graph.qdq_scales import ActivationScale, activation_scales
from tests.quantization import floats, with_weights

SCALE, ZERO = np.float32(0.25), np.int8(0)


def scales(text: str, **weights: np.ndarray) -> list[ActivationScale]:
    head = "g (float[N,2,6] x) => (float[A,B,C] y) { %s }"
    return activation_scales(with_weights(head % text, {"s": SCALE, "z": ZERO} | weights))


def obstacle(node: str, **weights: np.ndarray) -> str:
    (found,) = scales(f"q = {node} y = DequantizeLinear(q, s, z)", **weights)
    assert found.names == ("x",)
    return found.obstacle


def test_each_rounded_activation_is_listed_in_the_graphs_order():
    found = scales(
        """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) h = MatMul(d, w)
        qh = QuantizeLinear(h, t, z) y = DequantizeLinear(qh, t, z)""",
        w=floats(6, 4),
        t=np.float32(0.5),
    )
    assert found == [ActivationScale(("x",), 0.25, ""), ActivationScale(("h",), 0.5, "")]


def test_a_weight_that_is_rounded_in_the_graph_is_no_activation():
    found = scales(
        """qw = QuantizeLinear(w, s, z) dw = DequantizeLinear(qw, s, z)
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, dw)""",
        w=floats(6, 4),
    )
    assert [entry.names for entry in found] == [("x",)]


def test_values_are_followed_through_moves_padding_casts_and_rounding():
    found = scales(
        """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        r = Reshape(d, rows) p = Pad(r, pads) h = Cast<to = 10>(p)
        qh = QuantizeLinear(h, half, z) dh = DequantizeLinear(qh, half, z) y = Cast<to = 1>(dh)""",
        rows=np.array([-1, 2, 6]),
        pads=np.array([0, 0, 0, 0, 0, 1]),
        half=np.float16(0.25),
    )
    assert found[1].names == ("h", "p", "r", "d", "x")
    assert found[1].quant_scale == 0.25


def test_a_tensor_that_is_computed_ends_the_way_back():
    found = scales("a = Relu(x) t = Transpose(a) q = QuantizeLinear(t, s, z) y = Cast<to = 1>(q)")
    assert [entry.names for entry in found] == [("t", "a")]


def test_one_scale_in_a_vector_is_one_scale():
    (found,) = scales(
        "q = QuantizeLinear(x, v, vz) y = DequantizeLinear(q, v, vz)",
        v=np.array([0.5], np.float32),
        vz=np.array([0], np.int8),
    )
    assert (found.quant_scale, found.obstacle) == (0.5, "")


def test_constants_may_be_nodes():
    text = """c = Constant<value_float = 0.125>() cz = Constant<value = int8 {0}>()
        q = QuantizeLinear(x, c, cz) y = DequantizeLinear(q, c, cz)"""
    (found,) = scales(text)
    assert (found.quant_scale, found.obstacle) == (0.125, "")


@pytest.mark.parametrize(
    ("zero_point", "reason"),
    [
        (np.uint8(128), "it is rounded to uint8, not int8"),
        (np.int16(0), "it is rounded to int16, not int8"),
        (np.int8(-7), "its zero point is -7, not 0"),
    ],
)
def test_another_type_and_a_zero_point_are_named(zero_point, reason):
    assert obstacle("QuantizeLinear(x, s, o)", o=zero_point) == reason


def test_fp8_is_named():
    model = with_weights(
        "g (float[N] x) => (float[N] y) { q = QuantizeLinear(x, s, o) y = DequantizeLinear(q, s) }",
        {"s": SCALE},
    )
    model.graph.initializer.append(helper.make_tensor("o", TensorProto.FLOAT8E4M3FN, [], [0.0]))
    assert activation_scales(model)[0].obstacle == "it is rounded to float8_e4m3fn, not int8"


def test_no_zero_point_means_uint8_unless_the_node_says_int8():
    assert obstacle("QuantizeLinear(x, s)") == "it is rounded to uint8, not int8"
    assert obstacle(f"QuantizeLinear<output_dtype = {TensorProto.INT8}>(x, s)") == ""


def test_a_scale_per_channel_is_named():
    reason = obstacle(
        "QuantizeLinear<axis = 1>(x, v, vz)", v=np.ones(2, np.float32), vz=np.zeros(2, np.int8)
    )
    assert reason == "it has 2 scales, not one"


@pytest.mark.parametrize("what", ["scale", "zero point"])
def test_what_is_computed_at_run_time_is_named(what):
    inputs = {"scale": "m, z", "zero point": "s, m"}[what]
    text = f"m = ReduceMax<keepdims = 0>(x) q = QuantizeLinear(x, {inputs}) y = Cast<to = 1>(q)"
    assert scales(text)[0].obstacle == f"its {what} is computed at run time"


def test_onnx_runtimes_own_operators_are_read_too():
    model = with_weights(
        "g (float[N] x) => (float[N] y) { q = QuantizeLinear(x, s, z) h = DequantizeLinear(q, s, z)"
        " r = QuantizeLinear(h, s, z) y = DequantizeLinear(r, s, z) }",
        {"s": SCALE, "z": ZERO},
    )
    for node in model.graph.node:
        node.domain = "com.microsoft"
    assert [entry.names for entry in activation_scales(model)] == [("x",), ("h", "x")]


def test_a_float_graph_rounds_nothing():
    assert scales("y = Relu(x)") == []
    assert activation_scales(onnx.ModelProto()) == []
