"""What each recipe adds, on small graphs: attention however it is written, sums, pooling, names."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from edgeattn.errors import GraphError, SpecError
from edgeattn.graph.op import OP_DOMAIN, make_attention_node
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import RECIPES, Placement, place_qdq
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.quantization import (
    block,
    block_weights,
    fake_quantized,
    fake_quantized_matrix,
    floats,
    run_block,
    unit_scales,
    with_weights,
)


def reads(model: onnx.ModelProto, placement: Placement) -> dict[str, list[str]]:
    """List what each node beside the layers reads in INT8, by its output."""
    nodes = model.graph.node
    return {
        nodes[index].output[0]: [read.activation for read in each]
        for index, each in placement.reads.items()
    }


def reason_of(placement: Placement, tensor: str) -> str:
    (reason,) = {d.reason for each in placement.floats.values() for d in each if d.tensor == tensor}
    return reason


ATTENTION = {"logits": ["q", "k"], "mixed": ["probabilities", "v"]}
SUMS = {"sum": ["x"], "y": ["sum"]}


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [("linear", {}), ("attention", ATTENTION), ("full", ATTENTION | SUMS)],
)
def test_each_recipe_adds_to_the_one_before(recipe, expected):
    model = block()
    placement = place_qdq(model, recipe)
    assert reads(model, placement) == expected
    assert placement.linears == place_qdq(model, "linear").linears
    assert len(placement.activations) == {"linear": 4, "attention": 7, "full": 8}[recipe]
    assert set(placement.activations) <= set(place_qdq(model, "full").activations)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_block_computes_what_fake_quantization_says(recipe):
    scales = {"norm": 0.02, "q": 0.03, "k": 0.025, "v": 0.035, "mixed": 0.015} | {
        "x": 0.028, "sum": 0.04, "active": 0.05, "probabilities": 1 / 127,
    }  # fmt: skip
    model = block()
    wanted = place_qdq(model, recipe).activations
    quantized, _ = insert_qdq(model, {name: scales[name] for name in wanted}, recipe)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        quantized.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = floats(3, 4, 8)
    expected = run_block(
        x,
        block_weights(),
        lambda name, values: fake_quantized(values, np.float32(scales[name])),
        fake_quantized_matrix,
        recipe,
    )
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=2e-5)


# --- attention that is written out ----------------------------------------------------------------

HEAD = "g (float[2,5,4] x, float[5,5] m, bool[5,5] b) => (float[A,B,C] y) { q = MatMul(x, w) "
# What may stand between the products: none of it changes that they are found.
BETWEEN = {
    "nothing": "p = Softmax(l)",
    "a factor": "s = Mul(l, c) p = Softmax(s)",
    "a divisor": "s = Div(l, c) p = Softmax(s)",
    "a constant bias": "s = Add(l, t) p = Softmax(s)",
    "a mask that is an input": "s = Add(l, m) p = Softmax(s)",
    "a bias and a mask": "r = Add(l, t) s = Add(r, m) p = Softmax(s)",
    "a chosen mask": "s = Where(b, l, c) p = Softmax(s)",
    "soft capping": "r = Div(l, c) h = Tanh(r) s = Mul(h, c) p = Softmax(s)",
    "reshapes": "r = Unsqueeze(l, zero) s = Squeeze(r, zero) p = Softmax(s)",
    "the largest less each": "r = ReduceMax(l) s = Sub(r, l) p = Softmax(s)",
    "a dropout": "o = Softmax(l) p = Dropout(o)",
    "a guard of masked rows": "o = Softmax(l) n = IsNaN(o) p = Where(n, zero_f, o)",
}


@pytest.mark.parametrize("nodes", BETWEEN.values(), ids=BETWEEN)
def test_attention_is_found_whatever_stands_between_its_products(nodes):
    text = HEAD + f"k = Transpose<perm = [0, 2, 1]>(q) l = MatMul(q, k) {nodes} y = MatMul(p, x) }}"
    weights = {"w": floats(4, 4), "c": np.float32(2), "t": floats(5, 5)}
    weights |= {"zero": np.array([0]), "zero_f": np.float32(0)}
    model = with_weights(text, weights)
    placement = place_qdq(model, "attention")
    assert reads(model, placement)["l"] == ["q", "q"]
    assert reads(model, placement)["y"] == ["p", "x"]
    # Probabilities have a scale of their own, which needs no data.
    assert placement.activations == ("x", "q")
    quantized, _ = insert_qdq(model, {"x": 0.03, "q": 0.03}, "attention")
    scales = {
        float(onnx.numpy_helper.to_array(t))
        for t in quantized.graph.initializer
        if t.name.endswith("quant_scale") and not t.dims
    }
    assert scales == {float(np.float32(0.03)), float(np.float32(1 / 127))}


NO_ATTENTION = {
    "no softmax": "l = MatMul(q, k) y = MatMul(l, x)",
    "no first product": "s = Softmax(q) t = Transpose<perm = [0, 2, 1]>(s) y = MatMul(x, t)",
    "no second product": "l = MatMul(q, k) y = Softmax(l)",
    "a layer in between": "l = MatMul(q, k) h = MatMul(l, v) p = Softmax(h) y = MatMul(p, x)",
}


@pytest.mark.parametrize("nodes", NO_ATTENTION.values(), ids=NO_ATTENTION)
def test_other_products_of_activations_are_left_to_the_full_recipe(nodes):
    text = HEAD + "k = Transpose<perm = [0, 2, 1]>(q) " + nodes + " }"
    model = with_weights(text, {"w": floats(4, 4), "v": floats(5, 5)})
    products = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] not in "wv"]
    assert not place_qdq(model, "attention").reads
    assert len(place_qdq(model, "full").reads) == len(products)
    for node in products:
        assert (
            reason_of(place_qdq(model, "attention"), node.input[1])
            == "both factors are activations"
        )


# --- attention nodes ------------------------------------------------------------------------------

SPEC = AttentionSpec(head_dim=4, qkv_heads=2, head_groups=(HeadGroup(2, (3, 3), (1, 1)),))


def with_node(text: str, weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """Parse a graph in which `out = Neg(qkv)` stands for attention."""
    own = {"w": floats(8, 24), "p": floats(8, 8)}
    model = with_weights(text, own | (weights or {}))
    for node in model.graph.node:
        if node.output[0] == "out":
            node.CopyFrom(make_attention_node(SPEC, ["qkv"], "out", "attention"))
    model.opset_import.append(helper.make_opsetid(OP_DOMAIN, 1))
    return model


NODE = "g (float[1,5,7,8] x) => (%s) { qkv = MatMul(x, w) out = Neg(qkv) %s }"


def test_a_nodes_input_and_output_are_rounded_for_all_who_read_them():
    model = with_node(
        NODE % ("float[A,B,C,D] y, float[A,B,C,D] z", "y = MatMul(out, p) z = Relu(out)")
    )
    placement = place_qdq(model, "attention")
    assert placement.activations == ("x", "qkv", "out")
    assert placement.outputs == {1: "out"}
    assert not place_qdq(model, "linear").outputs
    assert not place_qdq(model, "attention", ["attention"]).outputs
    quantized, decisions = insert_qdq(model, unit_scales(model, 0.1, "attention"), "attention")
    made_by = {name: node for node in quantized.graph.node for name in node.output}
    assert made_by[made_by["out"].input[0]].op_type == "DequantizeLinear"
    assert made_by["y"].input[0] == made_by["z"].input[0] == "out_dequantized"
    of_node = [(d.tensor, d.quantized, d.reason) for d in decisions if d.node == "attention"]
    assert of_node == [
        ("qkv", True, "input of attention: one scale"),
        ("out", True, "output of attention: one scale"),
    ]


def test_a_bias_table_that_is_computed_stays_in_float():
    spec = AttentionSpec(4, 2, (HeadGroup(2, 3),), has_bias=True)
    model = with_node(
        "g (float[1,5,7,8] x, float[50] t) => (float[A,B,C,D] y) "
        "{ b = Tanh(t) qkv = MatMul(x, w) out = Neg(qkv) y = MatMul(out, p) }"
    )
    model.graph.node[2].CopyFrom(make_attention_node(spec, ["qkv", "b"], "out", "attention"))
    reason = "tables and padding of attention stay in float"
    assert reason_of(place_qdq(model, "attention"), "b") == reason


def test_readers_behind_a_reshape_share_the_rounded_output():
    nodes = "r = Reshape(out, s) y = MatMul(r, p) z = Relu(r)"
    outputs = "float[A,B] y, float[A,B] z"
    model = with_node(NODE % (outputs, nodes), {"s": np.array([-1, 8])})
    quantized, _ = insert_qdq(model, unit_scales(model, 0.1, "attention"), "attention")
    op_types = [node.op_type for node in quantized.graph.node]
    assert op_types.count("QuantizeLinear") == 3  # x, qkv and out, each once
    onnx.checker.check_model(quantized)


def test_a_node_that_gives_the_graphs_output_writes_float():
    model = with_node(NODE % ("float[A,B,C,D] out, float[A,B,C,D] y", "y = MatMul(out, p)"))
    placement = place_qdq(model, "attention")
    assert not placement.outputs
    assert reason_of(placement, "out") == "the graph's outputs stay in float"
    assert placement.activations == ("x", "qkv", "out")  # the layer's input is rounded still


def test_a_node_of_attention_alone_can_be_quantized():
    model = with_node(
        "g (float[1,5,7,24] qkv) => (float[A,B,C,D] y) { out = Neg(qkv) y = Abs(out)}"
    )
    assert place_qdq(model, "attention").activations == ("qkv", "out")
    with pytest.raises(GraphError, match="there is nothing to quantize"):
        place_qdq(model, "linear")


# --- sums -----------------------------------------------------------------------------------------

SUM = "g (float[1,5,8] x, float[1,5,8] u) => (float[A,B,C] y) { %s }"
# The nodes, and which input of y = Add(a, b) is rounded: the one that skips the layer.
RESIDUALS = {
    "layer first": ("a = MatMul(x, w) y = Add(a, u)", ["u"]),
    "layer second": ("b = MatMul(x, w) y = Add(u, b)", ["u"]),
    "a bias": ("m = MatMul(x, w) b = Add(m, t) y = Add(u, b)", ["u"]),
    "a bias on the left": ("m = MatMul(x, w) b = Add(t, m) y = Add(u, b)", ["u"]),
    "reshapes": ("f = Reshape(x, rows) m = Gemm(f, w, t) b = Reshape(m, back) "
                 "y = Add(u, b)", ["u"]),
    "a skip behind a reshape": ("b = MatMul(x, w) s = Identity(u) y = Add(s, b)", ["u"]),
    "two layers": ("a = MatMul(x, w) g = Relu(x) h = MatMul(g, v) r = Relu(h) "
                   "b = MatMul(r, w) y = Add(a, b)", ["a"]),
    "two layers of one depth": ("a = MatMul(x, w) b = MatMul(u, v) y = Add(a, b)", ["b"]),
    "an activation function": ("m = MatMul(x, w) b = Relu(m) y = Add(u, b)", None),
    "a transpose": ("m = MatMul(x, w) b = Transpose<perm = [0, 1, 2]>(m) y = Add(u, b)", None),
    "a second reader": ("b = MatMul(x, w) y0 = Add(u, b) y = Mul(y0, b)", None),
    "a sum in between": ("m = MatMul(x, w) r = Relu(x) c = Add(m, r) y = Add(u, c)", None),
    "an output of the graph": ("h = MatMul(x, w) y = Add(u, h)", None),
    "a weight of many constant layers": (
        "k = MatMul(w, v) l = MatMul(k, w) a = MatMul(x, l) g = MatMul(x, v) r = Relu(g) "
        "b = MatMul(r, w) y = Add(a, b)", ["a"]),
    "no layer": ("m = MatMul(x, w) b = Relu(m) c = Abs(u) y = Add(c, b)", None),
    "twice the same": ("m = MatMul(x, w) y = Add(m, m)", None),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "skip"), RESIDUALS.values(), ids=RESIDUALS)
def test_of_a_sum_the_branch_that_skips_the_layer_is_rounded(nodes, skip):
    weights = {"w": floats(8, 8), "v": floats(8, 8), "t": floats(8)}
    weights |= {"rows": np.array([-1, 8]), "back": np.array([1, 5, 8])}
    model = with_weights(SUM % nodes, weights)
    if "h = MatMul(x, w) y" in nodes:
        model.graph.output.append(onnx.ValueInfoProto(name="h"))
    placement = place_qdq(model, "full")
    sums = [each for name, each in reads(model, placement).items() if name.startswith("y")]
    assert sums == ([skip] if skip else [])
    assert not place_qdq(model, "attention").reads


def test_a_layer_that_stays_in_float_is_no_reason_to_round_a_sum():
    model = with_weights(
        SUM % "a = MatMul(x, w) r = Relu(a) b = MatMul(r, v) y = Add(u, b)",
        {"w": floats(8, 8), "v": floats(8, 8)},
    )
    assert place_qdq(model, "full").reads
    assert not place_qdq(model, "full", ["b"]).reads


def test_batch_normalization_of_fixed_statistics_is_part_of_its_convolution():
    model = with_weights(
        "g (float[1,4,5,5] x) => (float[A,B,C,D] y) { c = Conv(x, w) "
        "n = BatchNormalization(c, a, b, m, s) y = Add(n, x) }",
        {"w": floats(4, 4, 1, 1)} | {name: np.abs(floats(4)) for name in "abms"},
    )
    assert reads(model, place_qdq(model, "full")) == {"y": ["x"]}


# --- the rest -------------------------------------------------------------------------------------


def test_pooling_is_quantized_in_full():
    model = with_weights(
        "g (float[1,4,8,8] x) => (float[A,B,C,D] y) { c = Conv(x, w) r = Relu(c) "
        "a = MaxPool<kernel_shape = [2, 2]>(r) b = AveragePool<kernel_shape = [2, 2]>(a) "
        "s = Sigmoid(b) y = GlobalAveragePool(s) }",
        {"w": floats(4, 4, 1, 1)},
    )
    assert reads(model, place_qdq(model, "full")) == {"a": ["r"], "b": ["a"], "y": ["s"]}
    placement = place_qdq(model, "attention")
    assert not placement.reads
    assert reason_of(placement, "s") == "pooling stays in float"


def test_what_does_not_compute_in_float32_stays_as_it_is():
    model = with_weights(
        "g (float16[2,3,3] h, int32[2,3,3] i, float[2,3] x) => "
        "(float16[A,B,C] a, int32[D,E,F] b, float[G,H] y) "
        "{ a = MatMul(h, h) b = MatMul(i, i) y = MatMul(x, w) }",
        {"w": floats(3, 3)},
    )
    placement = place_qdq(model, "full")
    assert not placement.reads
    assert reason_of(placement, "h") == "it computes in float16, not float32"
    assert not any(d.tensor == "i" for each in placement.floats.values() for d in each)


@pytest.mark.parametrize("recipe", RECIPES)
def test_nodes_that_are_kept_in_float_need_no_scale(recipe):
    model = block()
    for node in model.graph.node:
        node.name = f"node/{node.output[0]}"
    kept = ["node/out", "node/mixed", "node/y"]
    placement = place_qdq(model, recipe, kept)
    reasons = {
        d.node: d.reason
        for each in placement.floats.values()
        for d in each
        if "as asked" in d.reason
    }
    assert sorted(reasons) == sorted(kept)
    assert "active" not in placement.activations
    assert "v" not in placement.activations


def test_unknown_recipes_and_names_are_refused():
    with pytest.raises(SpecError, match="the recipe is 'most'; expected linear or attention or"):
        place_qdq(block(), "most")
    with pytest.raises(SpecError, match="there is no node named 'nosuch' to keep in float"):
        place_qdq(block(), "linear", ["nosuch"])


def test_a_graph_with_every_layer_kept_in_float_has_nothing_to_quantize():
    model = block()
    layers = [model.graph.node[index].output[0] for index in place_qdq(model).linears]
    with pytest.raises(GraphError, match="there is nothing to quantize"):
        place_qdq(model, "linear", layers)


def test_scales_of_another_recipe_are_not_used_and_others_are_refused():
    model = block()
    everything = unit_scales(model, 0.05, "full")
    by_all, _ = insert_qdq(model, everything, "linear")
    by_own, _ = insert_qdq(model, unit_scales(model, 0.05), "linear")
    assert by_all == by_own
