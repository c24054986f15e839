"""The rules of TensorRT's explicit quantization: what we write keeps them, each breach is named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.explicit_int8 import explicit_int8_faults
from edgeattn.graph.passes.fold_qdq import fold_attention_qdq
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.passes.int8_mha import lower_int8_mha
from edgeattn.graph.placement import RECIPES
from tests.cases import NAMED_CASES
from tests.quantization import block, floats, unit_scales, with_weights
from tests.quantized_attention import input_of, layer, quantized

CASE = NAMED_CASES["three_scales_split_over_the_heads"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("graph", [block(), layer(CASE)], ids=["written out", "node"])
def test_what_we_write_keeps_the_rules_before_and_after_lowering(graph, recipe):
    model, _ = insert_qdq(graph, unit_scales(graph, 0.05, recipe), recipe)
    assert explicit_int8_faults(model) == []
    assert explicit_int8_faults(fold_attention_qdq(model)) == []
    assert explicit_int8_faults(lower_int8_mha(model)[0]) == []


def test_a_float_graph_has_nothing_to_break():
    assert explicit_int8_faults(block()) == []


# --- planted faults -------------------------------------------------------------------------------


def residual() -> onnx.ModelProto:
    """Make a convolution added to what it skips, quantized in full."""
    model = with_weights(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] y) { r = Relu(x) c = Conv(r, w) y = Add(r, c) }",
        {"w": floats(4, 4, 1, 1)},
    )
    return insert_qdq(model, unit_scales(model, 0.05, "full"), "full")[0]


def nodes_of(model: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op_type]


def set_value(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def weight_dq(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(n for n in nodes_of(model, "DequantizeLinear") if n.attribute)


def give_scale(value: object) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        set_value(model, nodes_of(model, "QuantizeLinear")[0].input[1], np.asarray(value))

    return change


def compute_the_scale(model: onnx.ModelProto) -> None:
    name = nodes_of(model, "QuantizeLinear")[0].input[1]
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ()))


def shift_zero(model: onnx.ModelProto) -> None:
    set_value(model, nodes_of(model, "QuantizeLinear")[0].input[2], np.array(2, np.int8))


def round_to_uint8(model: onnx.ModelProto) -> None:
    set_value(model, nodes_of(model, "QuantizeLinear")[0].input[2], np.array(0, np.uint8))


def leave_the_zero_point_out(model: onnx.ModelProto) -> None:
    del nodes_of(model, "QuantizeLinear")[0].input[2]


def scale_activations_per_channel(model: onnx.ModelProto) -> None:
    for op_type in ("QuantizeLinear", "DequantizeLinear"):
        node = nodes_of(model, op_type)[0]
        set_value(model, node.input[1], np.full(4, 0.1, np.float32))
        set_value(model, node.input[2], np.zeros(4, np.int8))


def scale_input_channels(model: onnx.ModelProto) -> None:
    weight_dq(model).attribute[0].i = 1


def scale_another_axis(model: onnx.ModelProto) -> None:
    weight_dq(model).attribute[0].i = 2


def take_another_scale_back(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.7, np.float32), "other"))
    node = next(n for n in nodes_of(model, "DequantizeLinear") if not n.attribute)
    node.input[1] = "other"


def read_integers(model: onnx.ModelProto) -> None:
    nodes_of(model, "Relu")[0].output[0] = "r_old"
    integers = nodes_of(model, "QuantizeLinear")[0].output[0]
    model.graph.node.append(helper.make_node("Abs", [integers], ["z"], name="reader"))


def unround_the_activation(model: onnx.ModelProto) -> None:
    nodes_of(model, "Conv")[0].input[0] = "r"


def unround_the_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(floats(4, 4, 1, 1), "w_float"))
    nodes_of(model, "Conv")[0].input[1] = "w_float"


def round_the_wrong_branch(model: onnx.ModelProto) -> None:
    add, quantize = nodes_of(model, "Add")[0], nodes_of(model, "QuantizeLinear")[0]
    constants = quantize.input[1:]
    nodes = list(model.graph.node)
    pair = [
        helper.make_node("QuantizeLinear", ["c", *constants], ["c_q"]),
        helper.make_node("DequantizeLinear", ["c_q", *constants], ["c_dq"]),
    ]
    add.input[0], add.input[1] = "r", "c_dq"
    place = nodes.index(add)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *pair, *nodes[place:]])


def use_an_old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 12


def multiply_integers(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("MatMulInteger", ["a", "b"], ["z"], name="product"))


FAULTS = {
    "a scale of zero": (give_scale(np.float32(0)), "its scale is not finite and positive"),
    "a scale of infinity": (give_scale(np.float32(np.inf)), "its scale is not finite and positive"),
    "a negative scale": (give_scale(np.float32(-1)), "its scale is not finite and positive"),
    "a scale of another type": (
        give_scale(np.float16(0.1)),
        "its scale is float16 and its input float; they have to agree",
    ),
    "a scale at run time": (compute_the_scale, "its scale is computed at run time"),
    "a zero point": (shift_zero, "its zero point is not zero"),
    "uint8": (round_to_uint8, "it gives uint8"),
    "no zero point": (leave_the_zero_point_out, "it gives uint8"),
    "an activation per channel": (scale_activations_per_channel, "go with constants alone"),
    "per input channel": (scale_input_channels, "not per output channel (axis 0)"),
    "per nothing": (scale_another_axis, "its scales (4,) do not fit axis 2 of (4, 4, 1, 1)"),
    "another scale back": (take_another_scale_back, "its scale is not that of"),
    "an INT8 reader": (read_integers, "it reads the INT8 tensor"),
    "a float activation": (unround_the_activation, "is INT8 and r is not"),
    "a float weight": (unround_the_weight, "is INT8 and w_float is not"),
    "the layer's branch": (round_the_wrong_branch, "Q/DQ part it from the layer before it"),
    "an old opset": (use_an_old_opset, "the graph has opset 12"),
    "an integer product": (multiply_integers, "TensorRT has no MatMulInteger"),
}


@pytest.mark.parametrize(("plant", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_named(plant: Callable[[onnx.ModelProto], None], reason: str):
    model = residual()
    assert explicit_int8_faults(model) == []
    plant(model)
    faults = explicit_int8_faults(model)
    assert any(reason in fault for fault in faults), faults


def test_fp16_scales_need_opset_19():
    model = with_weights(
        "g (float16[2,3] x) => (float16[2,3] y) { q = QuantizeLinear(x, s, z) "
        "y = DequantizeLinear(q, s, z) }",
        {"s": np.float16(0.1), "z": np.int8(0)},
    )
    assert explicit_int8_faults(model) == []
    model.opset_import[0].version = 18
    assert len(explicit_int8_faults(model)) == 2
    assert "scales of float16 need opset 19, not 18" in explicit_int8_faults(model)[0]


def test_scalars_are_not_quantized():
    model = with_weights(
        "g (float x) => (float y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        {"s": np.float32(0.1), "z": np.int8(0)},
    )
    assert explicit_int8_faults(model)[0].endswith("its input is a scalar")


def test_groups_that_tensorrt_has_no_int8_for_are_named():
    model = with_weights(
        "g (float[1,4,5,5] x) => (float[A,B,C,D] y) { q = QuantizeLinear(x, s, z) "
        "d = DequantizeLinear(q, s, z) v = DequantizeLinear<axis = 0>(w, t, u) "
        "y = Conv<group = 4>(d, v) }",
        {
            "s": np.float32(0.1),
            "z": np.int8(0),
            "w": np.ones((4, 1, 3, 3), np.int8),
            "t": np.ones(4, np.float32),
            "u": np.zeros(4, np.int8),
        },
    )
    (fault,) = explicit_int8_faults(model)
    assert "wants multiples of 4" in fault


def test_a_node_whose_scale_is_not_its_inputs_is_named():
    model = fold_attention_qdq(quantized(layer(CASE), input_of(CASE))[0])
    assert explicit_int8_faults(model) == []
    node = next(n for n in model.graph.node if n.name == "attention")
    next(a for a in node.attribute if a.name == "qkv_quant_scale").f *= 2
    (fault,) = explicit_int8_faults(model)
    assert fault.startswith("attention: its qkv_quant_scale is ")


def test_scales_of_a_later_tensorrt_need_not_be_constants():
    model = with_weights(
        "g (float[2,3] x, float s) => (float[2,3] y) { a = Abs(s) "
        "q = QuantizeLinear(x, a, z) y = DequantizeLinear(q, a, z) }",
        {"z": np.int8(0)},
    )
    assert all("computed at run time" in fault for fault in explicit_int8_faults(model))
    assert len(explicit_int8_faults(model)) == 2
    assert explicit_int8_faults(model, constant_scales=False) == []


def test_no_size_of_a_dynamic_map_is_read_off_an_int8_tensor():
    model, _ = quantized(layer(CASE), input_of(CASE))
    for value in (*model.graph.input, *model.graph.output):
        for axis in (0, 1, 2):
            value.type.tensor_type.shape.dim[axis].dim_param = f"size_{axis}"
    for lowered in (fold_attention_qdq(model), lower_int8_mha(model).model):
        assert explicit_int8_faults(lowered) == []
    shapes = [node for node in lowered.graph.node if node.op_type == "Shape"]
    assert shapes
