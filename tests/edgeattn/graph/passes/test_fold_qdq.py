"""The INT8 form of attention: folded from the Q/DQ around a node, it computes what they said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeattn.graph.op import attention_nodes, spec_of_node
from edgeattn.graph.passes.fold_qdq import fold_attention_qdq
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import NAMED_CASES, Case
from tests.quantization import floats
from tests.quantized_attention import input_of, layer, quantized, run, scales_of


def with_pad_kv_on_the_grid(model: onnx.ModelProto, scale: float) -> onnx.ModelProto:
    """Round the padded token's key and value as the INT8 form does."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name == "pad_kv":
            steps = np.clip(np.rint(numpy_helper.to_array(tensor) / np.float32(scale)), -128, 127)
            tensor.CopyFrom(
                numpy_helper.from_array((steps * np.float32(scale)).astype(np.float32), "pad_kv")
            )
    return changed


@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
def test_the_folded_graph_computes_the_unfolded_one_but_for_the_rounding_of_pads(case: Case):
    x = input_of(case)
    model, scales = quantized(layer(case), x)
    folded = fold_attention_qdq(model)
    (node,) = attention_nodes(folded)
    spec = spec_of_node(node)
    assert spec == replace(
        case.spec,
        qkv_quant_scale=float(np.float32(scales["qkv"])),
        out_quant_scale=float(np.float32(scales["out"])),
    )
    reference = with_pad_kv_on_the_grid(model, scales["qkv"])
    expected, expected_y = run(reference, x, "out_quantized", "y")
    found, y = run(folded, x, "out_quantized", "y")
    assert found.dtype == np.int8
    # Sums in another order may fall to the other side of a rounding boundary: one step.
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    weight = np.abs(floats(case.spec.out_channels, 5)).sum(axis=0).max()
    assert np.abs(y - expected_y).max() <= 1.01 * scales["out"] * weight * (found != expected).any()


def test_the_rounding_of_pads_is_felt():
    case = NAMED_CASES["one_token_in_a_window_of_pads"]
    x = input_of(case)
    scales = scales_of(layer(case), x)
    scales["qkv"] *= 40  # coarse
    model, _ = insert_qdq(layer(case), scales, "attention")
    (expected,) = run(model, x, "out_quantized")
    (found,) = run(fold_attention_qdq(model), x, "out_quantized")
    assert np.abs(found.astype(int) - expected.astype(int)).max() > 1


def test_folding_leaves_no_q_and_dq_at_the_node():
    case = NAMED_CASES["three_scales_split_over_the_heads"]
    model, _ = quantized(layer(case), input_of(case))
    folded = fold_attention_qdq(model)
    (node,) = attention_nodes(folded)
    made_by = {name: n for n in folded.graph.node for name in n.output}
    assert made_by[node.input[0]].op_type == "QuantizeLinear"
    (reader,) = (n for n in folded.graph.node if node.output[0] in n.input)
    assert reader.op_type == "DequantizeLinear"
    assert len(model.graph.node) - len(folded.graph.node) == 2
    assert [n.name for n in attention_nodes(folded)] == ["attention"]


def test_reshapes_between_the_dequantization_and_the_node_move_integers():
    case = NAMED_CASES["odd_map_bias_kv_pad_then_roll"]
    x = input_of(case)
    model, scales = quantized(layer(case, between="reshape"), x)
    assert "qkv_rows" in scales
    folded = fold_attention_qdq(model)
    (node,) = attention_nodes(folded)
    made_by = {name: n for n in folded.graph.node for name in n.output}
    reshape = made_by[node.input[0]]
    assert reshape.op_type == "Reshape"
    assert made_by[reshape.input[0]].op_type == "QuantizeLinear"
    plain = fold_attention_qdq(quantized(layer(case), x)[0])
    np.testing.assert_array_equal(run(folded, x)[0], run(plain, x)[0])


def two_readers(case: Case) -> onnx.ModelProto:
    """Let two attention nodes read one reshaped projection."""
    model = layer(case, between="reshape")
    first = next(node for node in model.graph.node if node.name == "attention")
    second = onnx.NodeProto()
    second.CopyFrom(first)
    second.name, second.output[0] = "attention_2", "out_2"
    nodes = list(model.graph.node)
    nodes.insert(nodes.index(first) + 1, second)
    nodes.append(helper.make_node("MatMul", ["out_2", "w_out"], ["y_2"], name="out_2"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    output = helper.make_tensor_value_info("y_2", onnx.TensorProto.FLOAT, [None] * 4)
    model.graph.output.append(output)
    return model


def test_two_nodes_that_share_an_input_fold_apart():
    case = NAMED_CASES["odd_map_bias_kv_pad_then_roll"]
    x = input_of(case)
    model, _ = quantized(two_readers(case), x)
    folded = fold_attention_qdq(model)
    first, second = run(folded, x, "y", "y_2")
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(
        first, run(fold_attention_qdq(quantized(layer(case), x)[0]), x)[0]
    )


def rewired(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """Take away one of the conditions for folding."""
    values = {t.name: t for t in model.graph.initializer}
    (node,) = attention_nodes(model)
    if what == "a second reader of the output":
        model.graph.node.append(helper.make_node("Relu", [node.output[0]], ["z"]))
        model.graph.output.append(onnx.ValueInfoProto(name="z"))
    elif what == "an output of the graph":
        model.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    elif what == "a zero point that is not zero":
        dequantize = next(n for n in model.graph.node if n.output[0] == node.input[0])
        values[dequantize.input[2]].CopyFrom(
            numpy_helper.from_array(np.int8(3), dequantize.input[2])
        )
    elif what == "a scale that is computed":
        dequantize = next(n for n in model.graph.node if n.output[0] == node.input[0])
        model.graph.input.append(
            helper.make_tensor_value_info(dequantize.input[1], onnx.TensorProto.FLOAT, ())
        )
    elif what == "an input that is not rounded":
        node.input[0] = "qkv"
    return model


@pytest.mark.parametrize(
    "what",
    [
        "a second reader of the output",
        "an output of the graph",
        "a zero point that is not zero",
        "a scale that is computed",
        "an input that is not rounded",
    ],
)
def test_a_node_stays_as_it_is_where_its_type_would_change_on_one_side_only(what):
    case = NAMED_CASES["window_equal_to_the_map"]
    model = rewired(quantized(layer(case), input_of(case))[0], what)
    folded = fold_attention_qdq(model)
    (node,) = attention_nodes(folded)
    assert spec_of_node(node) == case.spec
    assert node.output[0] == "out"


def test_the_source_graph_is_not_changed_and_a_folded_one_is_folded_for_good():
    case = NAMED_CASES["grid"]
    model, _ = quantized(layer(case), input_of(case))
    before = model.SerializeToString(deterministic=True)
    folded = fold_attention_qdq(model)
    assert model.SerializeToString(deterministic=True) == before
    again = fold_attention_qdq(folded)
    assert again.SerializeToString(deterministic=True) == folded.SerializeToString(
        deterministic=True
    )


def test_a_float_graph_is_left_alone():
    model = layer(Case(AttentionSpec(4, 2, (HeadGroup(2, 3),)), 5, 5))
    folded = fold_attention_qdq(model)
    assert folded.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
