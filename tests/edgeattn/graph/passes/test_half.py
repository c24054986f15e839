"""FP16 and BF16 written into graphs: what becomes half, what stays float32, and the Casts."""

from __future__ import annotations

from collections import Counter

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.errors import GraphError, SpecError
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.explicit_int8 import explicit_int8_faults
from edgeattn.graph.half_types import HALF_TYPES
from edgeattn.graph.op import is_attention, make_attention_node
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.emulate_half import emulate_half
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import RECIPES
from edgeattn.graph.shapes import infer_types
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.graph_runs import run
from tests.graphs import from_text
from tests.quantization import block, floats, unit_scales, with_weights

HALVES = tuple(HALF_TYPES)
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
LAYERS = "g (float[N,6] x) => (float[N,6] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
# A layer norm as exporters below opset 17 write it.
NORM = """
g (float[N,8] x) => (float[N,8] y) {
    h = MatMul(x, w)
    mean = ReduceMean(h, axes)
    centred = Sub(h, mean)
    squares = Mul(centred, centred)
    variance = ReduceMean(squares, axes)
    raised = Add(variance, epsilon)
    deviation = Sqrt(raised)
    norm = Div(centred, deviation)
    scaled = Mul(norm, gain)
    y = MatMul(scaled, w)
}
"""
NORM_CONSTANTS = {
    "axes": np.array([-1]),
    "epsilon": np.float32(1e-5),
    "gain": np.linspace(0.5, 2, 8).astype(np.float32),
}


def layers() -> onnx.ModelProto:
    return with_weights(LAYERS, {"w": floats(6, 6), "v": floats(6, 6) * 2})


def norm(size: float = 1.0) -> onnx.ModelProto:
    return with_weights(NORM, {"w": (floats(8, 8) * size).astype(np.float32), **NORM_CONSTANTS})


def kept(model: onnx.ModelProto, half: str = "float16", **options: object) -> dict[str, str]:
    """What each node is computed in, by name."""
    return {d.node: d.kept for d in convert_to_half(model, half, **options)[1]}


def why(model: onnx.ModelProto, node: str, half: str = "float16") -> str:
    return {d.node: d.reason for d in convert_to_half(model, half)[1]}[node]


def casts(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Cast"]


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    return {name: found.element for name, found in infer_types(model).items()}


def check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(decompose(model), full_check=True)


def emulated(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return run(emulate_half(decompose(model)), {"x": x})[0]


@pytest.mark.parametrize("half", HALVES)
def test_layers_and_weights_become_half_and_the_graphs_ends_stay_float32(half: str) -> None:
    model = layers()
    converted, decisions = convert_to_half(model, half)
    check(converted)
    types = types_of(converted)
    assert [types[name] for name in "xy"] == [FLOAT, FLOAT]
    weights = {t.name: t for t in converted.graph.initializer}
    assert {t.data_type for t in weights.values()} == {HALF_TYPES[half]}
    assert len(weights) == 2
    assert [d.kept for d in decisions] == [half] * 3
    assert len(casts(converted)) == 2  # one at each end
    dtype = np.float16 if half == "float16" else ml_dtypes.bfloat16
    original = numpy_helper.to_array(model.graph.initializer[0])
    copy = numpy_helper.to_array(weights[f"w_{half}"])
    np.testing.assert_array_equal(copy.astype(np.float32), original.astype(dtype))


def test_the_graph_given_is_not_changed() -> None:
    model = layers()
    before = model.SerializeToString(deterministic=True)
    convert_to_half(model, "float16")
    assert model.SerializeToString(deterministic=True) == before


def test_the_ends_become_half_where_asked() -> None:
    converted, _ = convert_to_half(layers(), "float16", keep_io=False)
    check(converted)
    assert casts(converted) == []
    ends = (*converted.graph.input, *converted.graph.output)
    assert [value.type.tensor_type.elem_type for value in ends] == [FLOAT16, FLOAT16]
    x = floats(3, 6).astype(np.float16)
    (y,) = run(emulate_half(converted), {"x": x})
    assert y.dtype == np.float16
    (expected,) = run(layers(), {"x": x.astype(np.float32)})
    assert sqnr_db(expected, y) > 55


@pytest.mark.parametrize("half", HALVES)
def test_a_transformer_block_keeps_norm_and_softmax_in_float32(half: str) -> None:
    model = block()
    converted, decisions = convert_to_half(model, half)
    check(converted)
    assert {d.node for d in decisions if d.kept == "float32"} == {"norm", "probabilities"}
    # x to half; x is float32 for the norm. Norm, logits and probabilities; y back.
    assert len(casts(converted)) == 5
    x = floats(3, 4, 8)
    (expected,) = run(model, {"x": x})
    assert sqnr_db(expected, emulated(converted, x)) > (52 if half == "float16" else 34)


def test_a_norm_in_single_operators_stays_float32_whole() -> None:
    converted, decisions = convert_to_half(norm(), "float16")
    check(converted)
    in_half = [d.node for d in decisions if d.kept == "float16"]
    assert in_half == ["h", "y"]
    assert len(casts(converted)) == 4  # at the ends of the graph, and at those of the norm


def test_squares_beyond_fp16_do_no_harm_in_a_norm() -> None:
    model = norm(size=300)
    x = floats(20, 8)
    (expected,) = run(model, {"x": x})
    assert np.square(x @ numpy_helper.to_array(model.graph.initializer[0])).max() > 65504
    converted, _ = convert_to_half(model, "float16")
    assert sqnr_db(expected, emulated(converted, x)) > 55


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("Softmax(h)", "softmax is computed in float32"),
        ("ReduceMean<keepdims = 1>(h)", "sums over many values are taken in float32"),
        ("LayerNormalization(h, v)", "normalization is computed in float32"),
        ("Exp(h)", "its results span more than the half type's range or digits"),
        ("Mul(h, h)", "squares are taken in float32"),
        ("Div(v, h)", "its results span more than the half type's range or digits"),
        ("Relu(h)", "nothing speaks against it"),
        ("Gelu(h)", "nothing speaks against it"),
    ],
)
def test_operators_are_guarded_with_a_reason(op: str, reason: str) -> None:
    text = "g (float[N,6] x) => (float[A,B] z) { h = MatMul(x, w) y = %s z = MatMul(y, w) }"
    model = with_weights(text % op, {"w": floats(6, 6), "v": np.ones(6, np.float32)})
    assert why(model, "y") == reason


def test_float32_spreads_to_what_reads_nothing_else() -> None:
    text = (
        "g (float[N,6] x) => (float[N,6] y) { h = MatMul(x, w) n = Softmax(h) a = Add(n, v) "
        "b = Relu(a) r = Transpose(b) t = Transpose(r) y = MatMul(t, w) }"
    )
    model = with_weights(text, {"w": floats(6, 6), "v": floats(6)})
    found = kept(model)
    assert [found[name] for name in "nabrt"] == ["float32"] * 3 + ["float16"] * 2
    assert len(casts(convert_to_half(model, "float16")[0])) == 4


def test_moves_between_float32_nodes_stay_float32_however_many() -> None:
    text = (
        "g (float[N,6] x) => (float[N,6] y) { h = MatMul(x, w) a = Softmax(h) b = Transpose(a) "
        "c = Transpose(b) d = Identity(c) y = Softmax(d) }"
    )
    converted, decisions = convert_to_half(with_weights(text, {"w": floats(6, 6)}), "float16")
    assert [d.node for d in decisions if d.kept == "float16"] == ["h"]
    assert len(casts(converted)) == 2


def test_float32_does_not_spread_along_a_residual_stream() -> None:
    text = (
        "g (float[N,6] x) => (float[N,6] y) { s = LayerNormalization(x, g1) "
        "a = LayerNormalization(s, g1) b = MatMul(a, w) t = Add(s, b) "
        "c = LayerNormalization(t, g1) d = MatMul(c, w) y = Add(t, d) }"
    )
    model = with_weights(text, {"w": floats(6, 6), "g1": np.ones(6, np.float32)})
    found = kept(model)
    assert (found["t"], found["y"]) == ("float16", "float16")


def test_preprocessing_of_a_float32_input_stays_float32() -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { a = Sub(x, v) b = Div(a, v) y = MatMul(b, w) }"
    model = with_weights(text, {"w": floats(6, 6), "v": floats(6)})
    assert kept(model) == {"a": "float32", "b": "float32", "y": "float16"}


def test_one_cast_serves_all_readers_and_one_copy_all_uses_of_a_weight() -> None:
    text = (
        "g (float[N,6] x) => (float[N,6] y) { a = MatMul(x, w) b = MatMul(x, w) c = Add(a, b) "
        "n = Softmax(c) m = ReduceSum<keepdims = 1>(c) d = MatMul(n, w) e = Mul(m, d) "
        "y = Add(e, d) }"
    )
    model = with_weights(text, {"w": floats(6, 6)})
    converted, _ = convert_to_half(model, "float16")
    check(converted)
    assert len(converted.graph.initializer) == 1
    sources = Counter((node.input[0], node.attribute[0].i) for node in casts(converted))
    assert set(sources.values()) == {1}


def test_a_weight_that_both_types_read_is_there_in_both() -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { n = LayerNormalization(x, v) y = Mul(z, v) %s }"
    text = text.replace("y = Mul(z, v) %s", "z = MatMul(n, w) y = Mul(z, v)")
    model = with_weights(text, {"w": floats(6, 6), "v": floats(6)})
    converted, _ = convert_to_half(model, "float16")
    check(converted)
    found = {t.name: t.data_type for t in converted.graph.initializer}
    assert found == {"v": FLOAT, "v_float16": FLOAT16, "w_float16": FLOAT16}


@pytest.mark.parametrize(
    ("constant", "half", "reason"),
    [
        (70000.0, "float16", "v holds 7e+04, beyond the range of float16"),
        (65504.0, "float16", ""),
        (float(np.finfo(np.float32).min), "bfloat16", "v holds 3.4e+38, beyond the range"),
        (70000.0, "bfloat16", ""),
        (1e-6, "float16", "v holds nothing above 1e-06, too small for float16"),
        (1e-6, "bfloat16", ""),
        (0.0, "float16", ""),
        (-np.inf, "float16", ""),
    ],
)
def test_a_constant_that_does_not_fit_keeps_its_reader_in_float32(
    constant: float, half: str, reason: str
) -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { h = MatMul(x, w) m = Add(h, v) y = MatMul(m, w) }"
    values = np.zeros(6, np.float32)
    values[2] = constant
    model = with_weights(text, {"w": floats(6, 6), "v": values})
    assert why(model, "m", half).startswith(reason or "nothing speaks against it")


def test_a_large_weight_behind_a_transpose_keeps_its_layer_in_float32() -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { t = Transpose(w) h = Relu(x) y = MatMul(h, t) }"
    model = with_weights(text, {"w": floats(6, 6) * 1e5})
    assert set(kept(model).values()) == {"float32"}
    assert casts(convert_to_half(model, "float16")[0]) == []


def test_tensors_that_overflow_keep_all_their_nodes_in_float32() -> None:
    model = layers()
    assert kept(model, overflows={"h": 1e5}) == {"h": "float32", "r": "float32", "y": "float16"}
    moved = "g (float[N,6] x) => (float[N,6] y) { h = MatMul(x, w) t = Transpose(h) y = Abs(t) }"
    model = with_weights(moved, {"w": floats(6, 6)})
    assert set(kept(model, overflows={"h": 1e5}).values()) == {"float32"}


def test_nodes_stay_in_float32_by_name() -> None:
    assert kept(layers(), keep_float=["y"])["y"] == "float32"
    with pytest.raises(SpecError, match="there is no node named 'z'"):
        convert_to_half(layers(), "float16", keep_float=["z"])


@pytest.mark.parametrize("half", HALVES)
def test_attention_computes_in_the_half_type_itself_with_tables_in_float32(half: str) -> None:
    group = HeadGroup(2, (2, 3), (1, 1))
    spec = AttentionSpec(4, 2, (group,), has_bias=True, pad_mode="bias_kv")
    weights = {"bias": floats(group.bias_entries), "pad": floats(2 * 2 * 4), "w": floats(24, 24)}
    text = "g (float[N,5,7,24] x) => (float[N,5,7,8] y) { qkv = MatMul(x, w) y = Relu(out) }"
    model = with_weights(text, weights)
    node = make_attention_node(spec, ["qkv", "bias", "pad"], "out", "attention")
    model.graph.node.insert(1, node)
    model.opset_import.append(helper.make_opsetid("edgeattn", 1))
    converted, decisions = convert_to_half(model, half)
    check(converted)
    types = types_of(converted)
    (found,) = [node for node in converted.graph.node if is_attention(node)]
    assert [types[name] for name in found.input] == [HALF_TYPES[half], FLOAT, FLOAT]
    assert types[found.output[0]] == HALF_TYPES[half]
    assert {d.node: d.kept for d in decisions}["attention"] == half
    x = floats(2, 5, 7, 24) / 5
    (expected,) = run(model, {"x": x})
    assert sqnr_db(expected, emulated(converted, x)) > (55 if half == "float16" else 35)


def test_a_cast_is_not_cast_again() -> None:
    text = (
        "g (float[N,6] x, bool[N,6] b) => (float[N,6] y) { m = Cast<to = 1>(b) "
        "f = Cast<to = 1>(x) h = MatMul(f, w) k = Mul(h, m) y = MatMul(k, w) }"
    )
    converted, _ = convert_to_half(with_weights(text, {"w": floats(6, 6)}), "float16")
    check(converted)
    made = {node.output[0] for node in casts(converted)}
    assert not any(node.input[0] in made for node in casts(converted))
    assert len(casts(converted)) == 3


def test_numbers_made_of_sizes_stay_float32() -> None:
    text = (
        "g (float[N,6] x) => (float[N,6] y, int64[1] n) { s = Shape<end = 1>(x) "
        "f = Cast<to = 1>(s) d = Div(f, two) c = Ceil(d) n = Cast<to = 7>(c) y = MatMul(x, w) }"
    )
    model = with_weights(text, {"w": floats(6, 6), "two": np.float32(2)})
    converted, _ = convert_to_half(model, "float16")
    check(converted)
    assert run(converted, {"x": floats(4099, 6)})[1] == 2050  # FP16 ends at 2048 for odd numbers


@pytest.mark.parametrize("ends", ["(float[N,6] y)", "(float[N,6] y, float[N,6] h)"])
def test_bodies_of_control_flow_stay_float32(ends: str) -> None:
    text = (
        "g (float[N,6] x, bool c) => (float[N,6] y) { h = MatMul(x, w) "
        "p = If (c) <then_branch = t () => (float[N,6] a) { a = Relu(h) }, "
        "else_branch = e () => (float[N,6] b) { b = Identity(h) }> y = MatMul(p, w) }"
    )
    text = text.replace("(float[N,6] y) {", ends + " {")
    model = with_weights(text, {"w": floats(6, 6)})
    converted, decisions = convert_to_half(model, "float16")
    check(converted)
    assert {d.node: d.kept for d in decisions}["p"] == "float32"
    x = floats(3, 6)
    for condition in (True, False):
        inputs = {"x": x, "c": np.array(condition)}
        found = run(emulate_half(converted), inputs)[0]
        assert sqnr_db(run(model, inputs)[0], found) > 55


def test_operators_nobody_knows_stay_float32() -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { h = MatMul(x, w) f = my.Op(h) y = MatMul(f, w) }"
    model = with_weights(text, {"w": floats(6, 6)})
    model.opset_import.append(helper.make_opsetid("my", 1))
    model.graph.value_info.append(helper.make_tensor_value_info("f", FLOAT, None))
    assert "nothing is known of the operator my::Op" in why(model, "f")
    converted, _ = convert_to_half(model, "float16")
    (node,) = [node for node in converted.graph.node if node.op_type == "Op"]
    assert types_of(converted)[node.input[0]] == FLOAT


def test_a_tensor_may_be_read_and_be_an_output() -> None:
    text = (
        "g (float[N,6] x) => (float[N,6] h, float[N,6] s, float[N,6] y) "
        "{ h = MatMul(x, w) s = Softmax(h) y = MatMul(h, w) }"
    )
    model = with_weights(text, {"w": floats(6, 6)})
    converted, _ = convert_to_half(model, "float16")
    check(converted)
    assert [value.name for value in converted.graph.output] == ["h", "s", "y"]
    assert len(casts(converted)) == 3  # the one for the output h serves the softmax
    x = floats(3, 6)
    outputs = zip(run(model, {"x": x}), run(emulate_half(converted), {"x": x}), strict=True)
    assert min(sqnr_db(expected, found) for expected, found in outputs) > 50


@pytest.mark.parametrize("half", HALVES)
def test_empty_batches_pass_through(half: str) -> None:
    converted, _ = convert_to_half(block(), half)
    assert emulated(converted, np.zeros((0, 4, 8), np.float32)).shape == (0, 4, 8)


def test_constant_nodes_become_half_too() -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { h = MatMul(x, w) y = Mul(h, c) }"
    model = with_weights(text, {"w": floats(6, 6)})
    tensor = numpy_helper.from_array(np.float32(3))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))
    converted, _ = convert_to_half(model, "float16")
    check(converted)
    assert len(casts(converted)) == 2


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("first", HALVES)
def test_a_graph_of_a_half_type_is_refused(first: str, half: str) -> None:
    converted, _ = convert_to_half(layers(), first)
    with pytest.raises(GraphError, match=f"the graph computes in {first} already") as caught:
        convert_to_half(converted, half)
    assert "float32 graph" in caught.value.hint


@pytest.mark.parametrize(("opset", "expected"), [(20, "float32"), (22, "bfloat16")])
def test_operators_without_bf16_in_the_graphs_opset_stay_float32(opset: int, expected: str) -> None:
    text = "g (float[1,2,5,5] x) => (float[1,2,3,3] y) { r = Relu(x) c = Conv(r, w) y = Neg(c) }"
    model = with_weights(text, {"w": floats(2, 2, 3, 3)})
    model.opset_import[0].version = opset
    assert kept(model, "bfloat16")["c"] == expected
    check(convert_to_half(model, "bfloat16")[0])
    if expected == "float32":
        reason = "Conv takes bfloat16 from opset 22 on; this is 20"
        assert why(model, "c", "bfloat16") == reason
    assert kept(model, "float16")["c"] == "float16"


def test_the_standards_own_attention_takes_its_softmax_in_float32() -> None:
    text = "g (float[1,2,5,8] x) => (float[1,2,5,8] y) { h = Relu(x) y = Attention(h, h, h) }"
    model = from_text(text)
    model.opset_import[0].version = 23
    converted, _ = convert_to_half(model, "float16")
    (node,) = [node for node in converted.graph.node if node.op_type == "Attention"]
    assert {a.name: a.i for a in node.attribute} == {"softmax_precision": FLOAT}
    assert types_of(converted)[node.input[0]] == FLOAT16


# INT8 with half types.


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("half", HALVES)
def test_int8_and_half_go_together_by_tensorrts_rules(half: str, recipe: str) -> None:
    model = block()
    quantized, _ = insert_qdq(model, unit_scales(model, recipe=recipe), recipe)
    converted, _ = convert_to_half(quantized, half)
    check(converted)
    assert explicit_int8_faults(converted) == []
    types = types_of(converted)
    producer = {node.output[0]: node for node in converted.graph.node}
    for node in converted.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            assert types[node.output[0]] == HALF_TYPES[half]
            sources = {producer[n].op_type for n in node.input[:2] if n in producer}
            assert "DequantizeLinear" not in sources or "Cast" not in sources
    # The norm writes INT8 directly, with a scale of its own type; it needs no Cast.
    (reader,) = [n for n in converted.graph.node if "norm" in n.input]
    assert reader.op_type == "QuantizeLinear"
    assert types[reader.input[1]] == FLOAT
    x = floats(3, 4, 8)
    (expected,) = run(quantized, {"x": x})
    # What a half type rounds moves values over INT8's rounding boundaries.
    assert sqnr_db(expected, emulated(converted, x)) > (30 if half == "float16" else 22)


def test_a_pair_has_one_scale_whatever_the_types_of_its_ends() -> None:
    model = block()
    quantized, _ = insert_qdq(model, unit_scales(model, 0.0437))
    converted, _ = convert_to_half(quantized, "bfloat16")
    values = {t.name: numpy_helper.to_array(t) for t in converted.graph.initializer}
    producer = {node.output[0]: node for node in converted.graph.node}
    pairs = [
        (producer[node.input[0]], node)
        for node in converted.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in producer
    ]
    assert len(pairs) == 4
    for quantize, dequantize in pairs:
        first, second = (values[node.input[1]] for node in (quantize, dequantize))
        assert float(first) == float(second) == float(ml_dtypes.bfloat16(0.0437))
    assert {values[q.input[1]].dtype.name for q, _ in pairs} == {"float32", "bfloat16"}


@pytest.mark.parametrize(("factor", "kept_in"), [(1e-2, "float16"), (1e-4, "float32")])
def test_int8_scales_too_small_for_fp16_keep_their_layer_in_float32(
    factor: float, kept_in: str
) -> None:
    weight = floats(6, 6)
    weight[:, 2] *= factor
    model = with_weights("g (float[N,6] x) => (float[N,6] y) { y = MatMul(x, w) }", {"w": weight})
    quantized, _ = insert_qdq(model, {"x": 0.02})
    converted, (decision,) = convert_to_half(quantized, "float16")
    assert explicit_int8_faults(converted) == []
    assert decision.kept == kept_in
    x = floats(50, 6)
    (expected,), found = run(quantized, {"x": x}), emulated(converted, x)
    assert sqnr_db(expected[:, 2], found[:, 2]) > 45


def test_an_int8_range_beyond_fp16_keeps_its_ends_in_float32() -> None:
    model = layers()
    quantized, _ = insert_qdq(model, {"x": 0.02, "r": 1000.0})
    converted, decisions = convert_to_half(quantized, "float16")
    assert explicit_int8_faults(converted) == []
    found = {d.node: d.kept for d in decisions}
    assert (found["h"], found["r"], found["y"]) == ("float16", "float32", "float32")


def test_moves_between_int8_and_a_float32_layer_are_no_obstacle() -> None:
    text = (
        "g (float[1,5,5,2] x) => (float[1,2,3,3] y) { r = Relu(x) a = Unsqueeze(r, one) "
        "b = Squeeze(a, one) t = Transpose<perm = [0, 3, 1, 2]>(b) y = Conv(t, w) }"
    )
    model = with_weights(text, {"w": floats(2, 2, 3, 3), "one": np.array([1])})
    quantized, _ = insert_qdq(model, {"r": 0.02})
    converted, _ = convert_to_half(quantized, "bfloat16")  # opset 20 has no Conv of BF16
    check(converted)
    assert explicit_int8_faults(converted) == []


def test_a_norm_is_moved_to_its_quantizer_without_a_cast() -> None:
    text = (
        "g (float[N,6] x) => (float[N,6] y) { n = LayerNormalization(x, g1) t = Reshape(n, s) "
        "q = QuantizeLinear(t, d, z) p = DequantizeLinear(q, d, z) y = MatMul(p, w) }"
    )
    weights = {"g1": np.ones(6, np.float32), "s": np.array([0, -1]), "w": floats(6, 6)}
    model = with_weights(text, weights | {"d": np.float32(0.02), "z": np.int8(0)})
    converted, decisions = convert_to_half(model, "float16")
    check(converted)
    assert {d.node: d.kept for d in decisions}["t"] == "float32"
    assert len(casts(converted)) == 1  # for the output


def test_moved_int8_values_that_both_types_read_are_moved_twice() -> None:
    text = (
        "g (float[N,6] x) => (float[N,6] y, float[N,6] z) { r = Relu(x) t = Reshape(r, s) "
        "y = MatMul(t, w) z = MatMul(t, v) }"
    )
    model = with_weights(text, {"w": floats(6, 6), "v": floats(6, 6), "s": np.array([0, -1])})
    quantized, _ = insert_qdq(model, {"r": 0.02})
    converted, _ = convert_to_half(quantized, "float16", {"y": 1e5})
    check(converted)
    assert explicit_int8_faults(converted) == []
    assert len(casts(converted)) == 1  # for the output z


@pytest.mark.parametrize("half", HALVES)
def test_q_dq_of_half_types_need_opset_19(half: str) -> None:
    model = block()
    quantized, _ = insert_qdq(model, unit_scales(model))
    quantized.opset_import[0].version = 18
    with pytest.raises(GraphError, match="the graph has opset 18; Q/DQ between") as caught:
        convert_to_half(quantized, half)
    assert "--opset 20" in caught.value.hint
