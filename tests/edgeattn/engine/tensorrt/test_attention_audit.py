"""How each attention of an engine is computed, with lost plugins and lost fusions planted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeattn.engine.tensorrt.attention_audit import AttentionFinding, audit_attention
from edgeattn.engine.tensorrt.inspector import EngineInfo, parse_engine_info
from edgeattn.engine.tensorrt.lowering import AttentionWay, LoweredAttention
from tests.tensorrt_printouts import ATTENTION, changed, layer_of, read, text_of, window_block

PLUGIN = window_block().attention[0]


def written(
    name: str, *core: str, way: AttentionWay = "native", obstacles: tuple[str, ...] = ()
) -> LoweredAttention:
    nodes = tuple(f"{name}/{node}" for node in core)
    return LoweredAttention(name, True, way, nodes, nodes, "", "", obstacles)


def block(name: str, **given: Any) -> LoweredAttention:
    return written(name, "MatMul", "Softmax", "MatMul_1", **given)


def audit(
    attention: LoweredAttention,
    text: str | EngineInfo,
    asked: dict[str, str] | None = None,
    order: tuple[str, ...] = (),
) -> AttentionFinding:
    info = text if isinstance(text, EngineInfo) else parse_engine_info(text)
    (finding,) = audit_attention([attention], info, asked, order)
    return finding


def test_a_plugin_layer_of_the_node_is_the_plugin():
    finding = audit(PLUGIN, read("window_plugin_int8_10x"), {ATTENTION: "int8"})
    assert finding == AttentionFinding(ATTENTION, "plugin", (ATTENTION,), "int8", ())


def test_a_layer_of_our_node_s_very_name_is_the_plugin_where_no_type_is_told():
    text = json.dumps({"Layers": ["/qkv/MatMul", ATTENTION], "Bindings": []})
    finding = audit(PLUGIN, text)
    assert (finding.verdict, finding.layers, finding.dtype) == ("plugin", (ATTENTION,), "")
    # A matrix product is none, whatever its name; nor is a node of the standard.
    gemm = {"Name": ATTENTION, "LayerType": "gemm", "Metadata": f"[ONNX Layer: {ATTENTION}]"}
    assert audit(PLUGIN, json.dumps({"Layers": [gemm], "Bindings": []})).verdict == "unknown"
    softmax = json.dumps({"Layers": ["a/op"], "Bindings": []})
    assert audit(written("a", "op", way="attention"), softmax).verdict == "unknown"


def test_one_fused_kernel_of_both_products_and_the_softmax_is_fused():
    first = block("/blocks.0/attn")
    finding = audit(first, read("window_native_11x"), dict.fromkeys(first.core, "int8"))
    assert finding == AttentionFinding(
        "/blocks.0/attn", "fused", ("_gemm_mha_v2_myl0_3",), "int8", ()
    )


def test_a_real_printout_of_fused_attention_is_read_so():
    name = "/encoder/layers.2/mha/attn"
    attention = written(name, "MatMul", "mha_prob/Softmax", "mha_prob/MatMul")
    finding = audit(attention, read("bert_fp16_10x"))
    assert (finding.verdict, finding.dtype) == ("fused", "float16")
    assert finding.layers == ("_gemm_mha_v2_myl0_17",)


def test_products_apart_are_unfused_and_the_broken_rule_is_told():
    rule = "its heads have 20 channels; TensorRT fuses 16 to 256 in steps of 8 in FP16 and BF16"
    finding = audit(block("/blocks.1/attn", obstacles=(rule,)), read("window_native_11x"))
    assert (finding.verdict, finding.dtype) == ("unfused", "float16")
    # The kernel that transposes keys names the product too; it computes nothing.
    assert finding.layers == (
        "/blocks_1/attn/MatMul_myl0_6",
        "__myl_AddMaxSubExpSumDivMul_myl0_7",
        "/blocks_1/attn/MatMul_1_myl0_8",
    )
    assert finding.reasons == (rule,)


def test_where_no_rule_is_broken_that_is_said():
    finding = audit(block("/blocks.1/attn"), read("window_native_11x"))
    assert finding.reasons == (
        "it keeps TensorRT's published rules for fused attention; TensorRT declined",
    )


def test_every_attention_gets_a_finding_in_its_place():
    attention = [block("/blocks.1/attn"), block("/blocks.0/attn"), block("/gone")]
    findings = audit_attention(attention, read("window_native_11x"))
    assert [each.verdict for each in findings] == ["unfused", "fused", "unknown"]
    assert audit_attention([], read("window_native_11x")) == ()


def lose_the_plugin(layers: list[dict[str, Any]]) -> None:
    """Plant it: something else than the plugin implements the node, in three kernels."""
    plugin = layer_of(layers, ATTENTION)
    place = layers.index(plugin)
    gemm = plugin | {"LayerType": "gemm"}
    softmax = plugin | {"LayerType": "kgen", "Name": "__myl_MaxSubExpSumDiv_myl1_1"}
    layers[place : place + 1] = [gemm | {"Name": "qk"}, softmax, gemm | {"Name": "av"}]


def test_a_lost_plugin_shows():
    finding = audit(PLUGIN, changed("window_plugin_int8_10x", lose_the_plugin))
    assert finding.verdict == "unfused"
    assert finding.reasons == (
        "it was to run in our plugin, and TensorRT computes it in 3 layers: qk, "
        "__myl_MaxSubExpSumDiv_myl1_1, av",
    )


def test_a_plugin_layer_that_is_gone_altogether_is_unknown_and_not_passed_over():
    finding = audit(
        PLUGIN,
        changed(
            "window_plugin_int8_10x", lambda layers: layers.remove(layer_of(layers, ATTENTION))
        ),
    )
    assert finding.verdict == "unknown"
    assert finding.layers == ()
    assert finding.reasons == (f"no layer of the engine comes from {ATTENTION}",)


def test_fused_attention_in_the_plugin_s_stead_is_told():
    def fuse(layers):
        layer_of(layers, ATTENTION).update(Name="_gemm_mha_v2_myl0_2", LayerType="kgen")

    finding = audit(PLUGIN, changed("window_plugin_int8_10x", fuse))
    assert finding.verdict == "fused"
    assert "it was to run in our plugin" in finding.reasons[0]


def test_int8_attention_whose_fused_kernel_is_in_half_is_told():
    # pytorch/TensorRT pull request 4204: Q/DQ are there, and the fused kernel is a Half one.
    def halve(layers):
        for tensor in layer_of(layers, "/blocks.0/attn/MatMul")["Inputs"]:
            tensor["Datatype"] = "Half"

    attention = block("/blocks.0/attn")
    finding = audit(
        attention, changed("window_native_11x", halve), dict.fromkeys(attention.core, "int8")
    )
    assert (finding.verdict, finding.dtype) == ("fused", "float16")
    assert finding.reasons == ("the graph has it in int8, and it computes in float16",)


def test_softmax_in_float_between_int8_products_is_as_asked():
    attention = block("/blocks.1/attn")

    def quantize(layers):
        for node in ("MatMul", "MatMul_1"):
            layer_of(layers, f"/blocks.1/attn/{node}")["TacticName"] = (
                "sm80_xmma_gemm_i8i8_i8i32_f32_tn"
            )

    asked = {"/blocks.1/attn/MatMul": "int8", "/blocks.1/attn/MatMul_1": "int8"}
    finding = audit(attention, changed("window_native_11x", quantize), asked)
    assert (finding.verdict, finding.dtype) == ("unfused", "int8")
    assert len(finding.reasons) == 1


def test_a_fused_kernel_that_lacks_a_product_is_no_evidence():
    def forget(layers):
        layer = layer_of(layers, "/blocks.0/attn/MatMul_1")
        layer["Metadata"] = (
            "[ONNX Layer: /blocks.0/attn/MatMul][ONNX Layer: /blocks.0/attn/Softmax]"
        )

    finding = audit(block("/blocks.0/attn"), changed("window_native_11x", forget))
    assert finding.verdict == "unknown"
    assert finding.reasons == (
        "_gemm_mha_v2_myl0_3 does not come from /blocks.0/attn/MatMul_1 as well",
    )


def test_a_fused_kernel_for_a_part_and_a_product_apart_contradict_each_other():
    def part(layers):
        layer = layer_of(layers, "/blocks.0/attn/MatMul_1")
        layer["Metadata"] = (
            "[ONNX Layer: /blocks.0/attn/MatMul][ONNX Layer: /blocks.0/attn/Softmax]"
        )
        gemm = layer_of(layers, "/blocks.1/attn/MatMul_1")
        layers.append(gemm | {"Metadata": "[ONNX Layer: /blocks.0/attn/MatMul_1]"})

    assert audit(block("/blocks.0/attn"), changed("window_native_11x", part)).verdict == "unknown"


def test_a_fused_kernel_beside_products_apart_is_no_evidence():
    # As an engine of two profiles may have it.
    def add(layers):
        gemm = layer_of(layers, "/blocks.1/attn/MatMul_1")
        layers.append(gemm | {"Metadata": "[ONNX Layer: /blocks.0/attn/MatMul_1]"})

    finding = audit(block("/blocks.0/attn"), changed("window_native_11x", add))
    assert finding.verdict == "unknown"
    assert "more layers than one that could hold it all" in finding.reasons[0]


@pytest.mark.parametrize("layer_type", ["kgen", "fusion"])
def test_one_kernel_of_an_unknown_name_is_unknown(layer_type):
    def rename(layers):
        layer = layer_of(layers, "/blocks.0/attn/MatMul")
        layer.update(Name="__myl_Mystery_myl0_3", TacticName="", LayerType=layer_type)

    finding = audit(block("/blocks.0/attn"), changed("window_native_11x", rename))
    assert finding.verdict == "unknown"
    assert finding.layers == ("__myl_Mystery_myl0_3",)
    assert finding.reasons == ("nothing tells what kernel __myl_Mystery_myl0_3 is",)


def test_a_kernel_beside_one_that_holds_it_all_does_not_make_it_unfused():
    def rename(layers):
        layer = layer_of(layers, "/blocks.0/attn/MatMul")
        layer.update(Name="__myl_Mystery_myl0_3", TacticName="")
        layers.append(layer | {"Name": "__myl_Other_myl0_4"})

    finding = audit(block("/blocks.0/attn"), changed("window_native_11x", rename))
    assert finding.verdict == "unknown"


@pytest.mark.parametrize(
    ("layer_type", "verdict"), [("kgen", "fused"), ("gemm", "unknown"), ("Myelin", "unknown")]
)
def test_onnx_s_own_operator_is_fused_by_the_name_of_its_kernel_alone(layer_type, verdict):
    names = {"kgen": "_gemm_mha_v2_myl0_1", "gemm": "gemm", "Myelin": "{ForeignNode[a...b]}"}
    layer = {"Name": names[layer_type], "LayerType": layer_type, "Metadata": "[ONNX Layer: a/op]"}
    finding = audit(
        written("a", "op", way="attention"), json.dumps({"Layers": [layer], "Bindings": []})
    )
    assert finding.verdict == verdict
    assert finding.layers == (names[layer_type],)


def test_onnx_s_own_operator_in_pieces_is_unfused():
    layer = {"LayerType": "gemm", "Metadata": "[ONNX Layer: a/op]"}
    text = json.dumps({"Layers": [layer | {"Name": name} for name in "qa"], "Bindings": []})
    assert audit(written("a", "op", way="attention"), text).verdict == "unfused"


def test_a_black_box_is_named_and_nothing_is_claimed_of_it():
    order = ("/encoder/Unsqueeze_3", "/attn/MatMul", "/attn/Softmax", "/match_model/Squeeze")
    detailed = json.loads(text_of("names_only_10x"))
    detailed["Layers"] = [{"Name": name, "LayerType": "Myelin"} for name in detailed["Layers"]]
    attention = written("/attn", "MatMul", "Softmax", obstacles=("it is over 600 tokens",))
    finding = audit(attention, json.dumps(detailed), order=order)
    box = "{ForeignNode[/encoder/Unsqueeze_3 + /encoder/Unsqueeze_4.../match_model/Squeeze]}"
    assert (finding.verdict, finding.layers, finding.dtype) == ("unknown", (box,), "")
    assert finding.reasons == (
        f"it is in a black box, whose kernels are not shown: {box}",
        "it is over 600 tokens",
    )


def test_layers_by_name_are_no_evidence_but_their_fused_kernels_are_counted():
    names = ["_gemm_mha_v2_myl0_3", "_gemm_mha_v2_myl0_9"]
    names += [f"/blocks.1/attn/{node}" for node in ("MatMul", "Softmax", "MatMul_1")]
    text = json.dumps({"Layers": names, "Bindings": []})
    for attention in (block("/blocks.0/attn"), block("/blocks.1/attn")):
        finding = audit(attention, text)
        assert finding.verdict == "unknown"
        assert finding.reasons[0] == (
            "the engine was not built with detailed profiling verbosity; it has 2 kernels of fused "
            "attention in all"
        )


def test_many_layers_are_counted_and_some_named():
    layers = [
        {"Name": f"gemm{i}", "LayerType": "gemm", "Metadata": f"[ONNX Layer: {ATTENTION}]"}
        for i in range(5)
    ]
    finding = audit(PLUGIN, json.dumps({"Layers": layers, "Bindings": []}))
    assert finding.reasons[0].endswith("computes it in 5 layers: gemm0, gemm1, gemm2, …")
    assert finding.layers == tuple(f"gemm{i}" for i in range(5))


def test_a_finding_becomes_json():
    finding = audit(PLUGIN, read("window_plugin_int8_10x"))
    assert json.loads(json.dumps(finding.to_dict())) == {
        "name": ATTENTION,
        "verdict": "plugin",
        "layers": [ATTENTION],
        "dtype": "int8",
        "reasons": [],
        "notes": [],
    }
