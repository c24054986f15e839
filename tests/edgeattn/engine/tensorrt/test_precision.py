"""Precision of an engine beside what its graph asks for, with regressions planted."""

from __future__ import annotations

import dataclasses
import json

import pytest
from onnx import TensorProto, helper

from edgeattn.engine.tensorrt.inspector import EngineInfo, parse_engine_info
from edgeattn.engine.tensorrt.lowering import LoweredAttention
from edgeattn.engine.tensorrt.precision import (
    PrecisionShares,
    Product,
    asked_precisions,
    check_required_precision,
    precision_shares,
)
from edgeattn.errors import BuildError
from tests.tensorrt_printouts import (
    ATTENTION,
    HEAD,
    PROJ,
    QKV,
    changed,
    in_float,
    layer_of,
    read,
    window_block,
)

ASKED = {QKV: "int8", PROJ: "int8", HEAD: "float16", ATTENTION: "int8"}
HALF_GEMM = "sm80_xmma_gemm_f16f16_f16f16_f16_tn_n_tilesize32x32x64_stage6"


def shares_of(text: str, asked: dict[str, str] = ASKED) -> PrecisionShares:
    return precision_shares(parse_engine_info(text), asked)


def test_the_graph_says_what_it_asks_for():
    assert asked_precisions(window_block()) == ASKED


def test_what_a_recipe_keeps_in_float_is_asked_for_in_float():
    lowered = window_block()
    kept = dataclasses.replace(lowered, model=in_float(lowered, PROJ))
    assert asked_precisions(kept) == ASKED | {PROJ: "float16"}


@pytest.mark.parametrize(("element", "dtype"), [("BFLOAT16", "bfloat16"), ("FLOAT", "float32")])
def test_attention_in_onnx_s_own_operator_is_asked_for_in_its_type(element, dtype):
    qkv = [
        helper.make_tensor_value_info(name, TensorProto.DataType.Value(element), (1, 2, 9, 16))
        for name in "qkv"
    ]
    graph = helper.make_graph(
        [helper.make_node("Attention", list("qkv"), ["y"], "a")], "g", qkv, []
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    attention = LoweredAttention("a", False, "attention", ("a",), ("a",), "", "", ())
    lowered = dataclasses.replace(window_block(), model=model, attention=(attention,))
    assert asked_precisions(lowered) == {"a": dtype}


def test_an_engine_that_is_as_asked_has_nothing_to_tell():
    shares = precision_shares(read("window_plugin_int8_10x"), ASKED)
    assert shares.layers == 8
    assert shares.compute == {"float16": 2, "int8": 3}
    assert shares.products == {"float16": 1, "int8": 3}
    assert shares.asked == {"float16": 1, "int8": 3}
    assert (shares.changed, shares.unproven) == ((), ())
    for required in ("int8", "fp16", "int8+fp16"):
        check_required_precision(shares, required)


def test_reformats_and_moves_are_counted_apart_with_their_bytes():
    shares = precision_shares(read("window_plugin_int8_10x"), ASKED)
    pixels = 56 * 56 * 96
    assert (shares.reformats, shares.reformat_bytes) == (2, pixels * (4 + 2) + 3 * (2 + 4))
    assert (shares.moves, shares.move_bytes) == (1, pixels * 2 * 2)
    assert precision_shares(read("mobilenet_int8_8x"), {}).quantize_layers == 1


def test_doubled_reformats_show():
    def double(layers):
        layers += [layer for layer in layers if layer["LayerType"] == "Reformat"]

    before = precision_shares(read("window_plugin_int8_10x"), ASKED)
    after = shares_of(changed("window_plugin_int8_10x", double))
    assert after.reformats == 2 * before.reformats
    assert after.reformat_bytes == 2 * before.reformat_bytes
    assert (after.compute, after.changed) == (before.compute, ())


def to_float(dtype: str, tactic: str):
    """Plant it: TensorRT dequantizes what the projection reads and computes in float."""

    def change(layers):
        layer = layer_of(layers, PROJ)
        layer["Inputs"][0]["Format/Datatype"] = dtype
        layer["TacticName"] = tactic

    return change


@pytest.mark.parametrize(
    ("dtype", "tactic", "got"),
    [
        ("Float", HALF_GEMM.replace("f16f16_f16f16_f16", "f32f32_f32f32_f32"), "float32"),
        ("Half", HALF_GEMM, "float16"),
        ("Half", "", "float16"),
        ("Int8", HALF_GEMM, "float16"),  # it reads INT8 and dequantizes inside
    ],
)
def test_a_product_that_went_to_float_shows_by_name(dtype, tactic, got):
    shares = shares_of(changed("window_plugin_int8_10x", to_float(dtype, tactic)))
    assert shares.changed == (Product(PROJ, "int8", got, ("/blocks_0/proj/MatMul_myl2_0",)),)
    check_required_precision(shares, "fp16")
    with pytest.raises(BuildError) as error:
        check_required_precision(shares, "int8")
    assert error.value.message == (
        "int8 was required, but 1 of the 3 products that the graph has in int8 are computed in "
        f"another type: {PROJ} ({got})"
    )
    assert "build's log" in error.value.hint


def test_what_the_graph_has_in_float_is_no_breach_of_int8():
    shares = shares_of(
        changed("window_plugin_int8_10x", to_float("Half", HALF_GEMM)), ASKED | {PROJ: "float16"}
    )
    assert shares.changed == ()
    check_required_precision(shares, "int8")


def test_a_graph_without_int8_never_passes_for_int8():
    asked = dict.fromkeys(ASKED, "float32")
    shares = precision_shares(read("window_plugin_int8_10x"), asked)
    with pytest.raises(BuildError, match=r"asks for int8 in none of its products \(4 in float32\)"):
        check_required_precision(shares, "int8")
    with pytest.raises(BuildError, match="it has none"):
        check_required_precision(precision_shares(read("window_plugin_int8_10x"), {}), "int8")


def test_of_several_precisions_the_graph_has_to_have_the_smallest():
    info = read("window_plugin_int8_10x")
    only_int8 = precision_shares(info, {QKV: "int8", PROJ: "int8"})
    for required in ("int8", "int8+fp16", "fp16+int8", "bf16+int8"):
        check_required_precision(only_int8, required)
    with pytest.raises(BuildError, match="fp16 was required, but the graph asks for float16 in no"):
        check_required_precision(only_int8, "fp16")
    only_half = precision_shares(info, {HEAD: "float16"})
    check_required_precision(only_half, "fp16")
    with pytest.raises(BuildError, match="int8 was required"):
        check_required_precision(only_half, "int8+fp16")
    # Each is required where the graph has it.
    both = precision_shares(info, {QKV: "int8", PROJ: "float16"})
    check_required_precision(both, "int8")
    with pytest.raises(BuildError, match=r"fp16 was required, but 1 of the 1 .*\(int8\)"):
        check_required_precision(both, "int8+fp16")


def test_a_layer_that_the_engine_does_not_show_is_a_breach_too():
    shares = precision_shares(read("names_only_10x"), ASKED)
    assert {each.node for each in shares.unproven} == set(ASKED)
    with pytest.raises(BuildError, match="does not show the type of 3 of the 3 products") as error:
        check_required_precision(shares, "int8")
    assert "--profiling-verbosity detailed" in error.value.hint


def test_many_breaches_are_counted_and_some_named():
    asked = {f"node{i}": "int8" for i in range(12)}
    shares = precision_shares(EngineInfo("10", (), (), "none"), asked)
    with pytest.raises(BuildError, match=r"node0, node1, node2, node3, node4 and 7 more$"):
        check_required_precision(shares, "int8")


def test_without_types_of_tensors_tactics_weights_and_the_plugin_s_node_are_left():
    asked = {"/stem/Conv": "int8", "/mid/Conv": "int8", "/attn/MultiScaleWindowAttention": "int8"}
    shares = precision_shares(read("dynamic_10x"), asked)
    assert [(each.node, each.got) for each in shares.changed] == [("/mid/Conv", "float16")]
    assert shares.unproven == ()
    # Of any other layer nothing is known then.
    other = shares_of(
        changed("dynamic_10x", lambda layers: layers[-1].update(LayerType="SoftMax")), asked
    )
    assert [each.node for each in other.unproven] == ["/attn/MultiScaleWindowAttention"]


def test_a_kernel_that_prepares_a_factor_does_not_hide_the_product():
    def prepare(layers):
        node = layer_of(layers, PROJ)
        kernel = {"Name": "__myl_MulRoun_myl2_9", "LayerType": "kgen", "Metadata": node["Metadata"]}
        layers.insert(0, kernel | {"Inputs": [node["Inputs"][0] | {"Format/Datatype": "Half"}]})

    shares = shares_of(changed("window_plugin_int8_10x", prepare))
    assert shares.changed == ()


def test_a_small_product_may_be_a_pointwise_kernel():
    def shrink(layers):
        layer_of(layers, HEAD).update(Name="__myl_MulSum_myl2_2", LayerType="kgen", TacticName="")

    shares = shares_of(changed("window_plugin_int8_10x", shrink))
    assert (shares.changed, shares.unproven) == ((), ())


def test_a_product_in_a_black_box_is_not_shown_and_the_box_is_named():
    box = "{ForeignNode[/pool/Transpose.../head/Gemm]}"

    def swallow(layers):
        layer_of(layers, HEAD).update(Name=box, LayerType="Myelin", TacticName="")

    shares = shares_of(changed("window_plugin_int8_10x", swallow))
    assert shares.unproven == (Product(HEAD, "float16", "unknown", (box,)),)


def test_one_of_two_layers_in_float_is_a_change():
    def split(layers):
        node = layer_of(layers, PROJ)
        layers.append(node | {"Name": "second", "TacticName": HALF_GEMM})

    (change,) = shares_of(changed("window_plugin_int8_10x", split)).changed
    assert (change.got, change.layers[-1]) == ("float16", "second")


def test_tf32_is_as_good_as_fp32_was_asked():
    asked = {PROJ: "float32"}
    tactic = HALF_GEMM.replace("f16f16_f16f16_f16", "f32f32_tf32f32_f32")
    shares = shares_of(changed("window_plugin_int8_10x", to_float("Float", tactic)), asked)
    assert shares.changed == ()
    assert shares.products["tf32"] == 1
    check_required_precision(shares, "fp32")


@pytest.mark.parametrize("required", ["int4", "", "int8+", "INT8"])
def test_an_unknown_precision_is_refused(required):
    shares = precision_shares(read("window_plugin_int8_10x"), ASKED)
    with pytest.raises(BuildError, match="is no precision to require; expected int8, fp16"):
        check_required_precision(shares, required)


def test_shares_survive_the_manifest():
    shares = shares_of(changed("window_plugin_int8_10x", to_float("Half", HALF_GEMM)))
    assert PrecisionShares.from_dict(json.loads(json.dumps(shares.to_dict()))) == shares
