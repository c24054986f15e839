"""What computes in INT8, what does not and why; the same however the graph is written."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxsim
import pytest
from onnx import helper, numpy_helper

from edgeattn.errors import GraphError
from edgeattn.graph.op import OP_DOMAIN, make_attention_node
from edgeattn.graph.placement import Decision, Placement, place_qdq
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.graphs import from_text
from tests.quantization import block, block_weights, floats, with_weights


def reasons(placement: Placement) -> dict[str, str]:
    return {f"{d.op_type} of {d.tensor}": d.reason for d in kept(placement)}


def kept(placement: Placement) -> list[Decision]:
    return [decision for decisions in placement.floats.values() for decision in decisions]


def test_a_block_is_placed_as_documented():
    placement = place_qdq(block())
    assert placement.activations == ("norm", "mixed", "sum", "active")
    placed = [(n.activation, n.weight, n.channel_axis) for n in placement.linears.values()]
    assert placed == [
        ("norm", "wq", 1),
        ("norm", "wk", 1),
        ("norm", "wv", 1),
        ("mixed", "wo", 1),
        ("sum", "w1", 0),
        ("active", "w2", 1),
    ]
    residual = "sums of activations stay in float: residual paths are not rounded"
    assert reasons(placement) == {
        "LayerNormalization of x": "normalization stays in float",
        "MatMul of q": "both factors are activations",
        "MatMul of kt": "both factors are activations",
        "Softmax of logits": "softmax stays in float",
        "MatMul of probabilities": "both factors are activations",
        "MatMul of v": "both factors are activations",
        "Add of x": residual,
        "Add of biased": residual,
        "Add of projected": "biases are added in float",
        "Relu of hidden": "activation functions stay in float",
        "Add of sum": residual,
        "Add of back": residual,
    }


def as_exported(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write a graph the way exporters do: transposed weights, Constant nodes, idle Identities."""
    nodes = []
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name in ("wq", "wk", "wo", "w1"):
        stored = f"{name}_stored"
        nodes.append(helper.make_node("Transpose", [stored], [name], perm=[1, 0]))
        weights[stored] = np.ascontiguousarray(weights.pop(name).T)
    value = numpy_helper.from_array(weights.pop("w2"))
    nodes.append(helper.make_node("Constant", [], ["w2"], value=value))
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.output[0] in ("q", "hidden"):
            copy.input[0] = f"{node.output[0]}_in"
            nodes.append(helper.make_node("Identity", [node.input[0]], [copy.input[0]]))
        nodes.append(copy)
    written = onnx.ModelProto()
    written.CopyFrom(model)
    del written.graph.node[:], written.graph.initializer[:]
    written.graph.node.extend(nodes)
    written.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    onnx.checker.check_model(written)
    return written


def test_the_placement_is_the_same_before_and_after_simplification():
    written = as_exported(block())
    simplified, verified = onnxsim.simplify(written)
    assert verified
    assert len(simplified.graph.node) < len(written.graph.node)
    placements = [place_qdq(model) for model in (block(), written, simplified)]
    assert {p.activations for p in placements} == {("norm", "mixed", "sum", "active")}
    # onnxsim packs the three layers that share an input into one.
    assert [len(p.linears) for p in placements] == [6, 6, 4]
    # It also moves a bias into a Gemm, and splits what it packed.
    said = [Counter((d.op_type, d.reason) for d in kept(p)) for p in placements]
    assert said[0] == said[1]
    bias, split = (
        ("Add", "biases are added in float"),
        ("Split", "it only moves values: whoever reads them decides"),
    )
    assert said[0] - said[2] == {bias: 1}
    assert said[2] - said[0] == {split: 1}


@pytest.mark.parametrize("shift", [0, 2])
def test_attention_stays_in_float_between_quantized_layers_shifted_or_not(shift):
    spec = AttentionSpec(
        head_dim=4, qkv_heads=2, head_groups=(HeadGroup(2, (4, 4), (shift, shift)),)
    )
    model = with_weights(
        """g (float[N,8,8,8] x) => (float[N,8,8,8] y) {
        qkv = MatMul(x, w) out = Relu(qkv) y = MatMul(out, p) }""",
        {"w": floats(8, 24), "p": floats(8, 8)},
    )
    model.graph.node[1].CopyFrom(make_attention_node(spec, ["qkv"], "out", "attention"))
    model.opset_import.append(helper.make_opsetid(OP_DOMAIN, 1))
    placement = place_qdq(model)
    assert placement.activations == ("x", "out")
    (decision,) = kept(placement)
    assert (decision.node, decision.tensor) == ("attention", "qkv")
    assert "attention stays in float" in decision.reason


LINEAR = "g (float[N,6] x, float[6,4] v) => (float[N,4] y) { %s }"
KEPT = {
    "a weight that is computed": ("m = Relu(v) z = MatMul(x, m)", {}, "both factors"),
    "a weight that is an input": ("z = Gemm(x, v)", {}, "its weight is not constant"),
    "a vector": ("z = MatMul(x, w)", {"w": floats(6)}, "1 dimensions"),
    "a stack of matrices": ("z = MatMul(x, w)", {"w": floats(2, 6, 4)}, "3 dimensions"),
    "a constant on the left": ("t = MatMul(w, v) z = Relu(t)", {"w": floats(4, 6)}, "left one"),
    "another type": (
        "d = Cast<to=11>(x) z = MatMul(d, w)",
        {"w": floats(6, 4).astype(np.float64)},
        "its weight is float64",
    ),
    "an empty weight": ("z = MatMul(x, w)", {"w": floats(6, 0)}, "its weight is empty"),
    "Einsum": ('z = Einsum<equation="ij,jk->ik">(x, w)', {"w": floats(6, 4)}, "only Conv, Gemm"),
}


@pytest.mark.parametrize(("nodes", "weights", "reason"), KEPT.values(), ids=KEPT)
def test_what_int8_cannot_hold_stays_in_float_and_says_why(nodes, weights, reason):
    text = LINEAR % (nodes + " y = MatMul(x, u)")
    placement = place_qdq(with_weights(text, weights | {"u": floats(6, 4)}))
    assert [linear.weight for linear in placement.linears.values()] == ["u"]
    assert any(reason in decision.reason for decision in kept(placement))


def test_an_overridable_weight_is_not_constant():
    text = "g (float[N,6] x, float[6,4] w) => (float[N,4] y) { z = Relu(x) y = MatMul(z, w) }"
    with pytest.raises(GraphError, match="nothing to quantize"):
        place_qdq(with_weights(text, {"w": floats(6, 4)}))


def test_what_folds_before_it_runs_is_no_layer():
    # A continuous position bias: layers on constant coordinates, gone once the graph is folded.
    text = LINEAR % "h = MatMul(c, a) r = Relu(h) w = MatMul(r, b) y = MatMul(x, w)"
    weights = {"c": floats(6, 3), "a": floats(3, 5), "b": floats(5, 4)}
    placement = place_qdq(with_weights(text, weights))
    assert [(n.activation, n.weight) for n in placement.linears.values()] == [("x", "w")]
    assert not placement.floats


def test_bodies_of_control_flow_stay_in_float():
    body = onnx.parser.parse_graph("b () => (float[N,4] t) { t = MatMul(x, w) }")
    model = with_weights(
        "g (bool c, float[N,6] x) => (float[N,4] y, float[N,4] z) { y = Relu(x) z = MatMul(x, w) }",
        {"w": floats(6, 4)},
    )
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    model.graph.node[0].CopyFrom(branch)
    placement = place_qdq(model)
    assert list(placement.linears) == [1]
    assert reasons(placement) == {"If of c": "the bodies of control flow stay in float"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_named(value):
    weights = block_weights()
    weights["wo"][3, 3] = value
    from_block = block()
    del from_block.graph.initializer[:]
    from_block.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    with pytest.raises(GraphError, match="the weight wo of node projected holds NaN or infinity"):
        place_qdq(from_block)


def test_an_old_opset_is_refused():
    model = block()
    model.opset_import[0].version = 12
    with pytest.raises(GraphError, match="has opset 12; INT8 weights need at least 13"):
        place_qdq(model)


def test_a_graph_without_layers_is_refused():
    with pytest.raises(GraphError, match="there is nothing to quantize"):
        place_qdq(from_text("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))
