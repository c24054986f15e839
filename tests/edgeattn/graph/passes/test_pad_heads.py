"""Padded heads against the float64 oracle of the unpadded ones, and what the graph looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.op import OP_DOMAIN, attention_nodes, make_attention_node, spec_of_node
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.fold_qdq import fold_attention_qdq
from edgeattn.graph.passes.pad_heads import PaddedGraph, PaddedHeads, pad_heads
from edgeattn.spec import AttentionSpec, HeadGroup
from tests import oracle
from tests.cases import NAMED_CASES, Case, cases
from tests.edgeattn.graph.passes.test_decompose import model_of
from tests.edgeattn.graph.passes.test_decompose import run as run_standard
from tests.quantized_attention import input_of, layer, quantized
from tests.quantized_attention import run as run_layer
from tests.tolerances import assert_close

# SwinIR's heads of 30 and 10 channels, and one of one channel less than the kernels' step.
SWIN_IR = Case(AttentionSpec(30, 2, (HeadGroup(2, 4, 2),), has_bias=True), 8, 7)
LIGHT = Case(AttentionSpec(10, 3, (HeadGroup(3, 3, 1),), pad_mode="bias_kv"), 5, 7)
APART = replace(NAMED_CASES["three_scales_split_over_the_heads"], batch=2)
OVERLAPPING = NAMED_CASES["groups_overlap_out_of_order_and_leave_heads_out"]

CHANNELS, OUT = 6, 5


def value(name: str, shape: Sequence[int | str], element: int = TensorProto.FLOAT16) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Draw what float16 holds exactly."""
    drawn = np.random.default_rng([seed, *shape]).standard_normal(shape) * 0.5
    return drawn.astype(np.float16)


def graph_of(
    nodes: Sequence[onnx.NodeProto], inputs: Any, outputs: Any, weights: dict[str, np.ndarray]
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(OP_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


class Layer:
    """Linear layer, attention, linear layer of a case in FP16, and what they compute in float64.

    Args:
        case: The case.
        dynamic: Whether sizes are free.
    """

    def __init__(self, case: Case, *, dynamic: bool = False) -> None:
        spec = case.spec
        self.case, self.spec = case, spec
        tensors = case.tensors("float32")
        self.tables = {name: tensors[name] for name in spec.input_names[1:]}
        self.weights = {
            "w_in": floats(CHANNELS, spec.qkv_channels),
            "b_in": floats(spec.qkv_channels, seed=1),
            "w_out": floats(spec.out_channels, OUT),
            "b_out": floats(OUT, seed=1),
        }
        self.x = floats(case.batch, case.height, case.width, CHANNELS, seed=2)
        self.lead = ["B", "H", "W"] if dynamic else [case.batch, case.height, case.width]

    def model(
        self, before: str = "p = MatMul(x, w_in) qkv = Add(p, b_in)", behind: str = "", **more: Any
    ) -> onnx.ModelProto:
        """Write the graph: nodes before the attention, which reads `qkv`, and behind `out`."""
        behind = behind or "q = MatMul(out, w_out) y = Add(q, b_out)"
        parsed = onnx.parser.parse_graph(f"g () => () {{ {before} {behind} }}")
        count = len(onnx.parser.parse_graph(f"g () => () {{ {before} }}").node)
        attention = make_attention_node(self.spec, self.spec.input_names, "out", "attention")
        nodes = [*parsed.node[:count], attention, *parsed.node[count:]]
        weights = self.weights | {name: np.asarray(array) for name, array in more.items()}
        used = {name for node in nodes for name in node.input}
        weights = {name: array for name, array in weights.items() if name in used}
        return graph_of(
            nodes,
            [value("x", [*self.lead, CHANNELS])],
            [value("y", [*self.lead, OUT])],
            weights | self.tables,
        )

    def expected(self) -> np.ndarray:
        w = {name: array.astype(np.float64) for name, array in self.weights.items()}
        tables = {name: table.astype(np.float64) for name, table in self.tables.items()}
        qkv = self.x.astype(np.float64) @ w["w_in"] + w["b_in"]
        return oracle.attention(self.spec, qkv, **tables) @ w["w_out"] + w["b_out"]

    def check(self, padded: PaddedGraph) -> None:
        found = run_standard(in_float32(padded.model), {"x": self.x.astype(np.float32)})
        assert_close(found, self.expected(), "attention", "float32")


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute a graph of FP16 in float32, so that its numbers show to the last digits."""
    lifted = decompose(model)
    graph = lifted.graph
    del graph.value_info[:]
    for each in (*graph.input, *graph.output):
        if each.type.tensor_type.elem_type == TensorProto.FLOAT16:
            each.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    return lifted


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def only(padded: PaddedGraph) -> PaddedHeads:
    (heads,) = padded.padded.values()
    assert padded.unfit == ()
    return heads


# --- numbers --------------------------------------------------------------------------------------

TO_PAD = {name: case for name, case in NAMED_CASES.items() if case.spec.head_dim % 8}


@pytest.mark.parametrize("case", TO_PAD.values(), ids=TO_PAD)
def test_weights_around_take_the_zeros_and_the_result_is_the_oracles(case: Case) -> None:
    given_layer = Layer(case, dynamic=case.width % 2 == 0)
    padded = pad_heads(given_layer.model())
    assert only(padded) == PaddedHeads("attention", case.spec.head_dim, 8, ())
    assert kinds(padded.model) == ["MatMul", "Add", "MultiScaleWindowAttention", "MatMul", "Add"]
    given_layer.check(padded)


def alone(case: Case, *, dynamic: bool, constants: bool = True) -> onnx.ModelProto:
    """Make a graph of one attention node in FP16."""
    tensors = case.tensors("float32")
    model = model_of(case.spec, tensors, dynamic=dynamic, constants=constants)
    for each in (model.graph.input[0], model.graph.output[0]):
        each.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def check_alone(case: Case, *, dynamic: bool, constants: bool = True) -> None:
    padded = pad_heads(alone(case, dynamic=dynamic, constants=constants))
    assert only(padded).copied == ("input", "output")
    onnx.checker.check_model(decompose(padded.model))
    tensors = case.tensors("float32")
    expected = oracle.attention(case.spec, **{n: t.astype("float64") for n, t in tensors.items()})
    assert_close(run_standard(in_float32(padded.model), tensors), expected, "attention", "float32")


@pytest.mark.parametrize("case", TO_PAD.values(), ids=TO_PAD)
def test_without_layers_around_nodes_add_the_zeros_and_take_them_out(case: Case) -> None:
    check_alone(case, dynamic=case.height % 2 == 0, constants=case.width % 3 > 0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=cases())
def test_drawn_cases_are_the_oracles(case: Case) -> None:
    check_alone(case, dynamic=case.height % 2 == 0)
    given_layer = Layer(case)
    given_layer.check(pad_heads(given_layer.model()))


@pytest.mark.parametrize(
    ("case", "to"), [(SWIN_IR, 32), (LIGHT, 16)], ids=["heads of 30", "heads of 10"]
)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "free sizes"])
def test_heads_of_swin_ir_go_to_the_next_multiple_of_eight(
    case: Case, to: int, dynamic: bool
) -> None:
    given_layer = Layer(case, dynamic=dynamic)
    padded = pad_heads(given_layer.model())
    heads = only(padded)
    assert (heads.head_dim, heads.padded_head_dim) == (case.spec.head_dim, to)
    (node,) = attention_nodes(padded.model)
    spec = spec_of_node(node)
    assert spec.softmax_scale == pytest.approx(case.spec.head_dim**-0.5)
    assert (spec.head_dim, spec.head_groups) == (to, case.spec.head_groups)
    given_layer.check(padded)


def test_a_factor_that_was_written_down_and_cosine_attentions_none_stay() -> None:
    for name, factor in (("softmax_scale_of_one", 1.0), ("cosine_padded", 0.0)):
        padded = pad_heads(alone(NAMED_CASES[name], dynamic=False))
        (node,) = attention_nodes(padded.model)
        assert spec_of_node(node).softmax_scale == factor


# --- where the zeros go ---------------------------------------------------------------------------

ROWS = np.array([-1, CHANNELS])
BEFORE = {
    "no bias": "qkv = MatMul(x, w_in)",
    "bias first": "p = MatMul(x, w_in) qkv = Add(b_in, p)",
    "one number for all": "p = MatMul(x, w_in) qkv = Add(p, one)",
    "Gemm": "r = Reshape(x, rows) p = Gemm(r, w_in, b_in) qkv = Reshape(p, map)",
    "Gemm, transposed": "r = Reshape(x, rows) p = Gemm <transB = 1> (r, w_t, b_in) "
    "qkv = Reshape(p, map)",
    "Gemm without a bias": "r = Reshape(x, rows) p = Gemm(r, w_in) qkv = Reshape(p, map)",
    "casts": "f = Cast <to = 1> (x) w = Cast <to = 1> (w_in) p = MatMul(f, w) "
    "qkv = Cast <to = 10> (p)",
    "a transposed map": "t = Transpose <perm = [0, 2, 1, 3]> (x) p = MatMul(t, w_in) "
    "s = Add(p, b_in) qkv = Transpose <perm = [0, 2, 1, 3]> (s)",
    "computed sizes": "s = Shape <end = 3> (x) m = Concat <axis = 0> (s, last) "
    "r = Reshape(x, rows) p = MatMul(r, w_in) a = Add(p, b_in) qkv = Reshape(a, m)",
    "a sequence": "r = Reshape(x, tokens) p = MatMul(r, w_in) a = Add(p, b_in) "
    "u = Unsqueeze(a, two) qkv = Reshape(u, map)",
}
BEHIND = {
    "no bias": "y = MatMul(out, w_out)",
    "Gemm": "t = Reshape(out, wide) q = Gemm(t, w_out, b_out) y = Reshape(q, back)",
    "Gemm, transposed": "t = Reshape(out, wide) q = Gemm <transB = 1> (t, v_t, b_out) "
    "y = Reshape(q, back)",
    "computed sizes": "h = Shape <end = 3> (x) n = Concat <axis = 0> (h, minus) "
    "t = Reshape(out, n) q = MatMul(t, w_out) y = Add(q, b_out)",
}


def constants_of(given_layer: Layer) -> dict[str, Any]:
    case, spec, weights = given_layer.case, given_layer.spec, given_layer.weights
    lead = [case.batch, case.height, case.width]
    return {
        "rows": ROWS,
        "map": np.array([*lead[:2], -1, spec.qkv_channels]),
        "last": np.array([spec.qkv_channels]),
        "tokens": np.array([case.batch, -1, CHANNELS]),
        "two": np.array([1]),
        "minus": np.array([-1]),
        "one": np.float16(0.5),
        "w_t": np.ascontiguousarray(weights["w_in"].T),
        "v_t": np.ascontiguousarray(weights["w_out"].T),
        "wide": np.array([-1, spec.out_channels]),
        "back": np.array([*lead, OUT]),
    }


@pytest.mark.parametrize("case", [SWIN_IR, APART, OVERLAPPING], ids=["one", "apart", "overlapping"])
@pytest.mark.parametrize("name", BEFORE)
def test_a_linear_layer_in_front_gets_columns_of_zeros(name: str, case: Case) -> None:
    given_layer = Layer(case)
    if "b_in" not in BEFORE[name]:
        given_layer.weights["b_in"][:] = 0.5 if "one" in BEFORE[name] else 0
    model = given_layer.model(BEFORE[name], **constants_of(given_layer))
    padded = pad_heads(model)
    assert only(padded).copied == ()
    assert "Pad" not in kinds(padded.model)
    given_layer.check(padded)


@pytest.mark.parametrize("case", [SWIN_IR, APART, OVERLAPPING], ids=["one", "apart", "overlapping"])
@pytest.mark.parametrize("name", BEHIND)
def test_a_linear_layer_behind_gets_rows_of_zeros(name: str, case: Case) -> None:
    given_layer = Layer(case, dynamic=name == "computed sizes")
    if "b_out" not in BEHIND[name]:
        given_layer.weights["b_out"][:] = 0
    model = given_layer.model(behind=BEHIND[name], **constants_of(given_layer))
    padded = pad_heads(model)
    assert only(padded).copied == ()
    given_layer.check(padded)


LINEAR = "p = MatMul(x, w_in) qkv = Add(p, b_in)"
MORE = "q = MatMul(out, w_out) b = Add(q, b_out) n = Mul({}, nothing) s = ReduceSum(n, last_axis) "
COPIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "something else before": (
        "p = MatMul(x, w_in) s = Add(p, b_in) n = Neg(s) qkv = Neg(n)", "", ("input",)
    ),
    "something else behind": (
        LINEAR, "n = Neg(out) o = Neg(n) q = MatMul(o, w_out) y = Add(q, b_out)", ("output",)
    ),
    "others read the projection": (LINEAR, MORE.format("qkv") + "y = Add(b, s)", ("input",)),
    "others read the result": (LINEAR, MORE.format("out") + "y = Add(b, s)", ("output",)),
    "a weight that is computed from the input": (
        "z = ReduceSum <keepdims = 0> (x) n = Mul(z, nothing) w = Add(w_in, n) p = MatMul(x, w) "
        "qkv = Add(p, b_in)",
        "",
        ("input",),
    ),
    "a bias that is": (
        "z = ReduceSum <keepdims = 0> (x) n = Mul(z, nothing) w = Add(b_in, n) "
        "p = MatMul(x, w_in) qkv = Add(p, w)",
        "",
        ("input",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [SWIN_IR, OVERLAPPING], ids=["one group", "overlapping"])
@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "free sizes"])
def test_where_weights_cannot_take_the_zeros_a_copy_does(
    name: str, case: Case, dynamic: bool
) -> None:
    given_layer = Layer(case, dynamic=dynamic)
    before, behind, copied = COPIES[name]
    model = given_layer.model(before, behind, nothing=np.float16(0), last_axis=np.array([-1]))
    as_given = model.SerializeToString(deterministic=True)
    padded = pad_heads(model)
    assert only(padded).copied == copied
    assert kinds(padded.model).count("Pad") == ("input" in copied)
    given_layer.check(padded)
    assert model.SerializeToString(deterministic=True) == as_given


def test_a_layer_whose_channels_are_moved_before_the_attention_keeps_its_weights() -> None:
    given_layer = Layer(SWIN_IR)
    moved = np.arange(SWIN_IR.spec.qkv_channels).reshape(2, -1).T.reshape(-1)
    padded = pad_heads(
        given_layer.model(
            "p = MatMul(x, w) s = Add(p, b) h = Reshape(s, halves) "
            "t = Transpose <perm = [0, 1, 2, 4, 3]> (h) qkv = Reshape(t, whole)",
            w=given_layer.weights["w_in"][:, moved],
            b=given_layer.weights["b_in"][moved],
            halves=np.array([0, 0, 0, -1, 2]),
            whole=np.array([0, 0, 0, -1]),
        )
    )
    assert only(padded).copied == ("input",)
    given_layer.check(padded)


def test_weights_that_others_read_stay_theirs_and_are_padded_once_for_all_who_need_it() -> None:
    given_layer = Layer(SWIN_IR)
    model = given_layer.model(
        "p = MatMul(x, w_in) qkv = Add(p, b_in)",
        "q = MatMul(out, w_out) first = Add(q, b_out) e = MatMul(x, w_in) f = Add(e, b_in) "
        "g = Neg(f) h = Neg(g) y = Add(first, nothing)",
        nothing=np.float16(0),
    )
    other = make_attention_node(SWIN_IR.spec, SWIN_IR.spec.input_names, "out_2", "other")
    again = onnx.parser.parse_graph(
        "g () => () { p_2 = MatMul(x, w_in) qkv_2 = Add(p_2, b_in) z = MatMul(out_2, w_out) }"
    ).node
    other.input[0] = "qkv_2"
    model.graph.node.extend([*again[:2], other, again[2]])
    whole = SWIN_IR.spec.qkv_channels
    lead = (SWIN_IR.batch, SWIN_IR.height, SWIN_IR.width)
    model.graph.output.extend([value("h", [*lead, whole]), value("z", [*lead, OUT])])
    padded = pad_heads(model)
    assert [heads.copied for heads in padded.padded.values()] == [(), ()]
    tensors = shapes(padded.model)
    assert {shape for name, shape in tensors.items() if name.startswith("w_")} == {
        (CHANNELS, 3 * 2 * 30), (CHANNELS, 3 * 2 * 32), (2 * 32, OUT),
    }  # fmt: skip
    given_layer.check(padded)
    assert sum(name.startswith("w_in") for name in tensors) == 2


def test_attention_behind_attention_shares_the_layer_between_them() -> None:
    spec = AttentionSpec(4, 2, (HeadGroup(2, 3),))
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 24)).astype(np.float16)
    nodes = [
        make_attention_node(spec, ["x"], "first", "one"),
        helper.make_node("MatMul", ["first", "w"], ["qkv"]),
        make_attention_node(spec, ["qkv"], "y", "two"),
    ]
    model = graph_of(nodes, [value("x", (1, 4, 5, 24))], [value("y", (1, 4, 5, 8))], {"w": weight})
    padded = pad_heads(model)
    assert [heads.copied for heads in padded.padded.values()] == [("input",), ("output",)]
    (shape,) = (shape for name, shape in shapes(padded.model).items() if name.startswith("w"))
    assert shape == (16, 48)
    x = rng.standard_normal((1, 4, 5, 24)).astype(np.float32)
    between = oracle.attention(spec, x.astype(np.float64)) @ weight.astype(np.float64)
    expected = oracle.attention(spec, between)
    assert_close(run_standard(in_float32(padded.model), {"x": x}), expected, "attention", "float32")


def test_shapes_that_were_noted_of_what_has_grown_are_forgotten() -> None:
    given_layer = Layer(SWIN_IR)
    model = onnx.shape_inference.infer_shapes(given_layer.model())
    model.graph.value_info.append(value("qkv", [1, 8, 7, 180]))
    left = {each.name for each in pad_heads(model).model.graph.value_info}
    assert left.isdisjoint({"p", "qkv", "out"})


# --- what is left alone ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head_dim", "element"),
    [(30, TensorProto.FLOAT), (32, TensorProto.FLOAT16), (128, TensorProto.BFLOAT16)],
)
def test_heads_that_the_kernels_take_stay_as_they_are(head_dim: int, element: int) -> None:
    model = alone(replace(SWIN_IR, spec=replace(SWIN_IR.spec, head_dim=head_dim)), dynamic=False)
    for each in (model.graph.input[0], model.graph.output[0]):
        each.type.tensor_type.elem_type = element
    padded = pad_heads(model)
    assert padded.model is model
    assert (padded.padded, padded.unfit) == ({}, ())


@pytest.mark.parametrize(
    ("head_dim", "element", "most"),
    [(130, TensorProto.FLOAT16, "128 in FP16"), (257, TensorProto.FLOAT, "256 in FP32")],
)
def test_heads_too_large_for_the_kernels_are_told(head_dim: int, element: int, most: str) -> None:
    case = Case(AttentionSpec(head_dim, 1, (HeadGroup(1, 2),)), 2, 2)
    model = alone(case, dynamic=False)
    model.graph.input[0].type.tensor_type.elem_type = element
    padded = pad_heads(model)
    (unfit,) = padded.unfit
    assert unfit.node == "attention"
    assert unfit.reason == (f"its heads have {head_dim} channels; our kernel takes up to {most}")
    assert padded.model is model


def test_what_padding_costs_is_said() -> None:
    text = "heads of 30 channels are padded to 32 with zeros: 7 % more bytes and products"
    text += " in the kernel"
    for copied, more in (
        ((), " and in the linear layers around it"),
        (("input",), ", and a copy of its input"),
        (("input", "output"), ", and a copy of its input and one of its output"),
    ):
        assert str(PaddedHeads("a", 30, 32, copied)) == text + more


# --- INT8 -----------------------------------------------------------------------------------------

QUANTIZED = {
    "heads of 30": replace(SWIN_IR, batch=2),
    "padded tokens": LIGHT,
    "overlapping": OVERLAPPING,
    "by head": NAMED_CASES["packed_by_head_padded"],
}


@pytest.mark.parametrize("between", ["", "reshape"])
@pytest.mark.parametrize("case", QUANTIZED.values(), ids=QUANTIZED)
def test_int8_weights_take_zeros_with_their_scales(case: Case, between: str) -> None:
    model, _ = quantized(layer(case, between=between), input_of(case))
    folded = fold_attention_qdq(model)
    padded = pad_heads(folded)
    assert only(padded).copied == ()
    assert kinds(padded.model).count("DequantizeLinear") == kinds(folded).count("DequantizeLinear")
    grown = {t.name: t for t in padded.model.graph.initializer if t.name.endswith("_padded")}
    assert grown["w_in_int8_padded"].data_type == TensorProto.INT8
    to = only(padded).padded_head_dim
    assert [*grown["w_in_quant_scale_padded"].dims] == [3 * case.spec.qkv_heads * to]
    check_int8(folded, padded, case)


def check_int8(folded: onnx.ModelProto, padded: PaddedGraph, case: Case) -> None:
    x = input_of(case)
    (found,), (expected,) = run_layer(padded.model, x), run_layer(folded, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("case", QUANTIZED.values(), ids=QUANTIZED)
def test_around_int8_zeros_are_copied_in_float(case: Case) -> None:
    model, _ = quantized(layer(case), input_of(case))
    nodes = {node.name: node for node in model.graph.node}
    for node in model.graph.node:  # so that neither projection is next to the attention's Q and DQ
        if node.op_type == "QuantizeLinear" and node.input[0] == "qkv":
            node.input[0] = "qkv_2"
    reader = nodes["out_projection"]
    model.graph.node.insert(
        list(model.graph.node).index(reader), helper.make_node("Neg", [reader.input[0]], ["minus"])
    )
    reader.input[0] = "minus"
    bias = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "qkv")
    model.graph.node.insert(bias + 1, helper.make_node("Neg", ["qkv"], ["qkv_2"]))
    folded = fold_attention_qdq(model)
    padded = pad_heads(folded)
    assert only(padded).copied == ("input", "output")
    made_by = {name: node for node in padded.model.graph.node for name in node.output}
    (node,) = attention_nodes(padded.model)
    assert made_by[node.input[0]].op_type == "QuantizeLinear"
    check_int8(folded, padded, case)


def test_int8_that_others_read_or_that_the_graph_is_given_stays_and_says_why() -> None:
    case = QUANTIZED["heads of 30"]
    model, _ = quantized(layer(case), input_of(case))
    folded = fold_attention_qdq(model)
    (node,) = attention_nodes(folded)
    for name, part in ((node.input[0], "input is not rounded"), (node.output[0], "output is not")):
        shared = onnx.ModelProto()
        shared.CopyFrom(folded)
        shared.graph.output.append(value(name, [2, 8, 7, "c"], TensorProto.INT8))
        padded = pad_heads(shared)
        (unfit,) = padded.unfit
        assert "its heads have 30 channels; our kernel takes multiples of 8 in INT8" in unfit.reason
        assert part in unfit.reason
        assert padded.model is shared


@pytest.mark.parametrize("change", ["zero point", "blocks"])
def test_integers_that_zeros_cannot_be_put_into_are_left(change: str) -> None:
    model, _ = quantized(layer(SWIN_IR), input_of(SWIN_IR))
    folded = fold_attention_qdq(model)
    node = next(n for n in folded.graph.node if n.input[0] == "w_in_int8")
    if change == "zero point":
        zero = next(t for t in folded.graph.initializer if t.name == node.input[2])
        zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero) + np.int8(1), zero.name))
    else:
        node.attribute.append(helper.make_attribute("block_size", 2))
    assert only(pad_heads(folded)).copied == ("input",)
