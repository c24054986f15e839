"""INT8 attention for TensorRT's own fusion: where Q/DQ stand, what it computes, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn.graph.constants import Constants
from edgeattn.graph.linear_layers import is_product_of_activations
from edgeattn.graph.nodes import MOVING_OPS
from edgeattn.graph.op import is_attention
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.fold_qdq import fold_attention_qdq
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.passes.int8_mha import lower_int8_mha
from edgeattn.graph.placement import Decision
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import NAMED_CASES, Case
from tests.quantization import floats, unit_scales, with_weights
from tests.quantized_attention import input_of, layer, quantized, run


def wide(case: Case, head_dim: int = 16) -> Case:
    """Give a case heads of a size that TensorRT fuses."""
    return replace(case, spec=replace(case.spec, head_dim=head_dim))


FUSED = {
    name: wide(case)
    for name, case in NAMED_CASES.items()
    if case.spec.qk_mode == "dot" and all(g.mode != "neighborhood" for g in case.spec.head_groups)
}


def with_rounded_probabilities(model: onnx.ModelProto) -> onnx.ModelProto:
    """Round what each softmax gives to steps of 1/127, in other operators than Q/DQ."""
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Softmax":
            output, raw = node.output[0], f"{node.output[0]}_raw"
            node.output[0] = raw
            nodes += [
                helper.make_node("Div", [raw, "one_step"], [f"{raw}_steps"]),
                helper.make_node("Round", [f"{raw}_steps"], [f"{raw}_whole"]),
                helper.make_node("Mul", [f"{raw}_whole", "one_step"], [output]),
            ]
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array(1 / 127, np.float32), "one_step")
    )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("case", FUSED.values(), ids=FUSED)
def test_only_the_probabilities_are_rounded_beyond_the_folded_form(case: Case):
    x = input_of(case)
    model, scales = quantized(layer(case), x)
    lowered, _, decisions = lower_int8_mha(model)
    assert [d.quantized for d in decisions] == [True] * len(case.spec.head_groups)
    (found,) = run(lowered, x, "out_quantized")
    standard = decompose(fold_attention_qdq(model))
    (expected,) = run(with_rounded_probabilities(standard), x, "out_quantized")
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert scales["out"] > 0


def products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    constants = Constants(model)
    return [node for node in model.graph.node if is_product_of_activations(node, constants)]


def source_op(model: onnx.ModelProto, tensor: str) -> str:
    """Name the operator that made a tensor, moves aside."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    while tensor in made_by and made_by[tensor].op_type in MOVING_OPS:
        tensor = made_by[tensor].input[0]
    return made_by[tensor].op_type if tensor in made_by else ""


def test_q_and_dq_stand_before_both_products_and_after_the_second():
    case = FUSED["three_scales_split_over_the_heads"]
    lowered = lower_int8_mha(quantized(layer(case), input_of(case))[0]).model
    assert not any(is_attention(node) for node in lowered.graph.node)
    nodes = products(lowered)
    assert len(nodes) == 2 * 3
    for node in nodes:
        assert {source_op(lowered, name) for name in node.input} == {"DequantizeLinear"}
    for node in nodes[1::2]:
        (reader,) = (n for n in lowered.graph.node if node.output[0] in n.input)
        assert reader.op_type == "QuantizeLinear"
    for node in lowered.graph.node:
        if node.op_type == "Softmax":
            (reader,) = (n for n in lowered.graph.node if node.output[0] in n.input)
            assert reader.op_type == "QuantizeLinear"


SWIN = Case(AttentionSpec(32, 2, (HeadGroup(2, (7, 7), (3, 3)),)), 14, 14)
REFUSED = {
    "heads of 24": (replace(SWIN, spec=replace(SWIN.spec, head_dim=24)), "its heads have 24 chan"),
    "heads of 128": (replace(SWIN, spec=replace(SWIN.spec, head_dim=128)), "its heads have 128"),
    "513 tokens": (
        Case(AttentionSpec(16, 1, (HeadGroup(1, (1, 513)),)), 1, 600),
        "it is over 513 tokens; TensorRT fuses up to 512",
    ),
    "whole map": (Case(AttentionSpec(16, 1, (HeadGroup(1, 0),)), 23, 23), "it is over 529 tokens"),
    "neighborhoods": (
        Case(AttentionSpec(16, 1, (HeadGroup(1, 3, mode="neighborhood"),)), 6, 6),
        "keys of its own",
    ),
    "cosine": (wide(NAMED_CASES["cosine"]), "no common INT8 scale"),
}


@pytest.mark.parametrize(("case", "reason"), REFUSED.values(), ids=REFUSED)
def test_products_that_tensorrt_does_not_fuse_stay_in_float_and_say_why(case: Case, reason: str):
    x = input_of(case)
    model, _ = quantized(layer(case), x)
    lowered, _, (decision,) = lower_int8_mha(model)
    assert not decision.quantized
    assert decision.node == "attention, group 0"
    assert reason in decision.reason
    plain = decompose(fold_attention_qdq(model))
    np.testing.assert_array_equal(run(lowered, x)[0], run(plain, x)[0])


@pytest.mark.parametrize("sizes", [((1, 512), (1, 600)), ((0, 0), (16, 32))])
def test_512_tokens_are_fused(sizes):
    window, (height, width) = sizes
    case = Case(AttentionSpec(16, 1, (HeadGroup(1, window),)), height, width)
    _, _, (decision,) = lower_int8_mha(quantized(layer(case), input_of(case))[0])
    assert decision.quantized


def test_groups_of_one_node_are_decided_apart():
    groups = (HeadGroup(1, (1, 4)), HeadGroup(1, (1, 5), (0, 0), 1, mode="neighborhood"))
    case = Case(AttentionSpec(16, 2, groups), 1, 21)
    lowered, _, decisions = lower_int8_mha(quantized(layer(case), input_of(case))[0])
    assert [(d.node, d.quantized) for d in decisions] == [
        ("attention, group 0", True),
        ("attention, group 1", False),
    ]
    in_int8 = [source_op(lowered, n.input[0]) == "DequantizeLinear" for n in products(lowered)]
    assert sorted(in_int8) == [False, False, True, True]


def test_a_map_of_unknown_size_is_fused_in_fixed_windows_only():
    for window, fused in (((4, 4), True), ((0, 0), False)):
        case = Case(AttentionSpec(16, 2, (HeadGroup(2, window),)), 8, 8)
        model, _ = quantized(layer(case), input_of(case))
        for value in (*model.graph.input, *model.graph.output):
            for axis in (1, 2):
                value.type.tensor_type.shape.dim[axis].dim_param = f"size_{axis}"
        _, _, (decision,) = lower_int8_mha(model)
        assert decision.quantized is fused
        assert fused or "not known before the graph runs" in decision.reason


def test_attention_in_float_says_so():
    case = FUSED["odd_map_mask_pad_then_roll"]
    model = layer(case)
    x = input_of(case)
    linear, _ = insert_qdq(model, unit_scales(model, 0.05), "linear")
    lowered, _, (decision,) = lower_int8_mha(linear)
    assert not decision.quantized
    assert decision.reason == "its input and output are not both INT8"
    np.testing.assert_array_equal(run(lowered, x)[0], run(decompose(linear), x)[0])


# --- attention that the graph writes out ----------------------------------------------------------

WRITTEN = """g (float[1,%(tokens)d,%(dim)d] x) => (float[A,B,C] y) {
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    kt = Transpose<perm = [0, 2, 1]>(k)
    raw = MatMul(q, kt)  logits = Mul(raw, scale)  probabilities = Softmax<axis = -1>(logits)
    mixed = MatMul(probabilities, v)  y = MatMul(mixed, wo) }"""


def written_out(tokens: int, dim: int) -> onnx.ModelProto:
    weights = {name: floats(dim, dim) for name in ("wq", "wk", "wv", "wo")}
    weights["scale"] = np.array(dim**-0.5, np.float32)
    model = with_weights(WRITTEN % {"tokens": tokens, "dim": dim}, weights)
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def lowered_written(tokens: int, dim: int) -> tuple[onnx.ModelProto, onnx.ModelProto, Decision]:
    model = written_out(tokens, dim)
    model, _ = insert_qdq(model, unit_scales(model, 0.3, "attention"), "attention")
    lowered, _, (decision,) = lower_int8_mha(model)
    return model, lowered, decision


def test_written_out_attention_within_the_limits_keeps_its_q_and_dq():
    model, lowered, decision = lowered_written(9, 16)
    assert (decision.node, decision.quantized) == ("raw", True)
    assert lowered.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(
    ("tokens", "dim", "reason"), [(9, 20, "heads have 20"), (520, 16, "over 520 tokens")]
)
def test_written_out_attention_beyond_the_limits_loses_them(tokens, dim, reason):
    model, lowered, decision = lowered_written(tokens, dim)
    assert not decision.quantized
    assert reason in decision.reason
    assert len(products(lowered)) == 2
    for node in products(lowered):
        sources = {source_op(lowered, name) for name in node.input}
        assert "DequantizeLinear" not in sources
    # The layers around it stay quantized, and nothing idle is left behind.
    original = written_out(tokens, dim)
    linear, _ = insert_qdq(original, unit_scales(original, 0.3), "linear")
    x = floats(1, tokens, dim)
    np.testing.assert_array_equal(run(lowered, x)[0], run(linear, x)[0])
    assert len(lowered.graph.node) == len(linear.graph.node)
    assert len(lowered.graph.node) < len(model.graph.node)
