"""What a layer does and in which type: names and tactics as TensorRT has printed them."""

from __future__ import annotations

import json

import pytest

from edgeattn.engine.tensorrt.inspector import EngineLayer, LayerTensor, parse_engine_info
from edgeattn.engine.tensorrt.layer_kinds import (
    is_fused_attention,
    is_same_type,
    kind_of_layer,
    precision_of_layer,
)
from tests.tensorrt_printouts import PRINTOUTS, read

KINDS = {
    "bert_fp16_10x": ["product", "attention", "product", "other", "product"],
    "dynamic_10x": ["reformat", "product", "product", "plugin"],
    "mobilenet_int8_8x": ["quantize", "product", "product"],
    "names_only_10x": ["opaque", "reformat"],
    "resnet18_int8_10x": ["reformat", "product"],
    "unfused_fp16_9x": ["control", "move", "control", "product"],
    "window_native_11x": ["attention", "move", "move", "product", "other", "product"],
    "window_plugin_int8_10x": [
        *("reformat", "other", "product", "plugin"),
        *("product", "move", "product", "reformat"),
    ],
}


def test_every_printout_is_looked_at():
    assert {path.stem for path in PRINTOUTS} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_layers_are_told_apart(name):
    assert [kind_of_layer(layer) for layer in read(name).layers] == KINDS[name]


PRECISIONS = {
    "bert_fp16_10x": ["float16"] * 5,
    "mobilenet_int8_8x": ["float32", "int8", "int8"],
    "resnet18_int8_10x": ["float32", "int8"],
    # Types of tensors are not told: the tactic, the weights, and of a plugin nothing.
    "dynamic_10x": ["", "int8", "float16", ""],
    "names_only_10x": ["", ""],
}


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_type_that_a_layer_computes_in_is_told(name):
    assert [precision_of_layer(layer) for layer in read(name).layers] == PRECISIONS[name]


TACTICS = {
    "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize32x32x64": "float16",
    "sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize32x32x64": "tf32",
    "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize32x32x64": "float32",
    "sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize32x32x64": "bfloat16",
    "sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32": "int8",
    "sm80_xmma_gemm_i8f32_i8i32_f32_by_fusion_tactic": "int8",
    "sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x128x64": "float8_e4m3fn",
    "volta_int8x4_icudnn_int8x4_128x32_relu_xregs_small_c32_nn_v1": "int8",
    "volta_scudnn_128x64_relu_exp_small_nhwc_tn_v1": "float32",
    "__myl_AddCast_0xf2543c36ff9f104bbb1655b0183afb47": "",
}


@pytest.mark.parametrize(("tactic", "dtype"), TACTICS.items())
def test_a_tactic_names_its_types(tactic, dtype):
    assert precision_of_layer(EngineLayer("layer", "gemm", tactic=tactic)) == dtype


def test_the_tactic_is_believed_before_the_tensors():
    # It reads INT8 and dequantizes it first: the product is in FP16.
    tactic = "sm80_xmma_gemm_f16f16_f16f16_f16_tn_n_tilesize32x32x64"
    read = (LayerTensor("x", (4, 4), "int8", ""),)
    layer = EngineLayer("layer", "gemm", inputs=read, tactic=tactic)
    assert precision_of_layer(layer) == "float16"
    assert precision_of_layer(EngineLayer("layer", "gemm", inputs=read)) == "int8"


def test_factors_indices_and_masks_do_not_count():
    inputs = (
        LayerTensor("alpha", (1,), "float32", ""),
        LayerTensor("mask", (4, 4), "bool", ""),
        LayerTensor("x", (4, 4), "bfloat16", ""),
    )
    assert precision_of_layer(EngineLayer("layer", "kgen", inputs=inputs)) == "bfloat16"
    assert precision_of_layer(EngineLayer("layer", "kgen", inputs=inputs[:2])) == ""


@pytest.mark.parametrize(
    ("name", "tactic"),
    [
        ("_gemm_mha_v2_myl0_17", "_gemm_mha_v2_0x957a2fe283f77dcf35c142c1390a3e6a"),
        ("_gemm_mha_v2_myl0_17", ""),
        ("_gemv_mha_v1_myl1_2", ""),
        ("__mye8037_gemm_mha_v2", ""),
        ("layer", "_gemm_mha_v2_0x31"),
        ("layer", "fmha_v2_flash_attention_fp16_S_32_sm80"),
    ],
)
def test_fused_attention_is_told_by_the_name_of_its_kernel(name, tactic):
    assert is_fused_attention(EngineLayer(name, "kgen", tactic=tactic))


@pytest.mark.parametrize(
    ("name", "tactic"),
    [
        # Layers are named after nodes, and a model may call one so.
        ("/blocks_0/fmha/proj/MatMul_myl0_3", "sm80_xmma_gemm_f16f16_f16f16_f16_nn"),
        ("/blocks_0/my_gemm_mha_v2/MatMul_myl0_3", ""),
        ("/encoder/layers_2/mha/attn/MatMul_myl0_18", ""),
        ("__myl_MaxSubExpSumDiv_myl0_3", "__myl_MaxSubExpSumDiv_0x1"),
    ],
)
def test_a_name_that_a_model_could_have_is_no_evidence(name, tactic):
    assert not is_fused_attention(EngineLayer(name, "kgen", tactic=tactic))


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ({"Name": "a", "LayerType": "PluginV2"}, "plugin"),
        ({"Name": "a", "LayerType": "Dequantize"}, "quantize"),
        ({"Name": "a", "LayerType": "MatrixMultiply"}, "product"),
        ({"Name": "a", "LayerType": "CaskDeconvolutionV2"}, "product"),
        ({"Name": "a", "LayerType": "CaskGemmConvolution"}, "product"),
        ({"Name": "__myl_FcMulAdd_myl0_1", "LayerType": "kgen"}, "product"),
        ({"Name": "__myl_CastMulCast_myl0_1", "LayerType": "kgen"}, "other"),
        ({"Name": "__myl_Cast_myl0_1", "LayerType": "kgen"}, "move"),
        ({"Name": "__myl_TranBF16Mul_myl0_1", "LayerType": "kgen"}, "other"),
        ({"Name": "__myl_bb1_2_TraSliSliResTraResMovSli", "LayerType": "kgen"}, "move"),
        ({"Name": "__myl_TraConSinCos_myl0_1", "LayerType": "kgen"}, "other"),
        ({"Name": "{ForeignNode[a...b]}", "LayerType": "Myelin"}, "opaque"),
        ({"Name": "{ForeignNode[a...b]}", "LayerType": "DLA"}, "opaque"),
        ({"Name": "{ForeignNode[a...b]}", "TacticName": "_gemm_mha_v2_0x1"}, "attention"),
        ({"Name": "a", "LayerType": "shape_call"}, "control"),
        ({"Name": "a", "LayerType": "Constant"}, "control"),
        ({"Name": "a", "LayerType": "SoftMax"}, "other"),
        ({"Name": "a", "LayerType": "Convert"}, "other"),
    ],
)
def test_further_types_of_layers_are_known(layer, kind):
    text = json.dumps({"Layers": [layer], "Bindings": []})
    assert kind_of_layer(parse_engine_info(text).layers[0]) == kind


def test_tf32_is_what_tensorrt_makes_of_fp32_by_itself():
    assert is_same_type("float32", "tf32")
    assert is_same_type("int8", "int8")
    assert not is_same_type("float16", "tf32")
    assert not is_same_type("int8", "float16")
