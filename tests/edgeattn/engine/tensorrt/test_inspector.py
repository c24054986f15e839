"""The inspector's text, of both schemas: printouts (each fixture names its source) and refusals."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeattn.engine.tensorrt.inspector import (
    EngineLayer,
    LayerTensor,
    dtype_of_words,
    parse_engine_info,
)
from edgeattn.errors import ArtifactError
from tests.tensorrt_printouts import FIXTURES, PRINTOUTS, read, text_of


@pytest.mark.parametrize("path", PRINTOUTS, ids=lambda path: path.stem)
def test_every_printout_is_read(path):
    values = json.loads(path.read_text())
    assert values["_source"], "each fixture says where it is from"
    info = parse_engine_info(path.read_text())
    assert info.schema == ("11" if path.stem.endswith("11x") else "10")
    names = [each if isinstance(each, str) else each["Name"] for each in values["Layers"]]
    assert [layer.name for layer in info.layers] == names


def test_a_layer_of_10_is_read_to_the_last_field():
    reformat, conv = read("resnet18_int8_10x").layers
    assert reformat.layer_type == "Reformat"
    assert reformat.onnx_nodes == ()
    assert reformat.inputs == (
        LayerTensor("data", (1, 3, 224, 224), "float32", "Row major linear FP32"),
    )
    assert reformat.outputs[0].dtype == "int8"
    assert reformat.stream == 0
    assert conv.tactic.startswith("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_")
    # The record separator stands between the nodes.
    assert conv.onnx_nodes == (
        "resnetv15_stage2_conv2_fwd",
        "resnetv15_stage2_batchnorm2_fwd",
        "resnetv15_stage2__plus0",
    )
    assert conv.raw["Stride"] == [2, 2]


def test_the_nodes_of_a_fused_layer_are_told_without_separators_too():
    fused = read("bert_fp16_10x").layers[1]
    attention = "/encoder/layers.2/mha/attn"
    assert fused.onnx_nodes == (
        f"{attention}/MatMul",
        f"{attention}/mha_prob/Softmax",
        f"{attention}/mha_prob/Div",
        f"{attention}/mha_prob/Add",
        f"{attention}/mha_prob/MatMul",
    )


def test_the_schema_of_11_gives_formats_types_and_inputs_apart():
    info = read("window_native_11x")
    assert info.verbosity == "detailed"
    x, y = info.io
    assert (x.name, x.mode, x.dims, x.dtype) == ("x", "input", (-1, 56, 56, 96), "float32")
    assert (y.mode, y.dtype) == ("output", "float16")
    tensor = info.layers[0].inputs[0]
    assert (tensor.dtype, tensor.format) == ("int8", "Row major linear")


def test_layers_may_be_plain_names():
    info = read("names_only_10x")
    assert info.verbosity == "layer_names"
    assert info.layers[0].inputs == ()
    assert info.layers[0].num_bytes == 0
    assert [each.name for each in info.io][-1] == "score"


def test_without_metadata_the_parts_of_a_name_may_be_nodes():
    _, conv, _ = read("mobilenet_int8_8x").layers
    assert conv.onnx_nodes == ("features.0.0.weight", "QuantizeLinear_7", "Conv_9", "Clip_13")
    text = '{"Layers": ["PWN(PWN(relu_1), add_1)", "(Unnamed Layer* 1) [Shuffle]"], "Bindings": []}'
    pointwise, shuffle = parse_engine_info(text).layers
    assert pointwise.onnx_nodes == ("relu_1", "add_1")
    assert shuffle.onnx_nodes == ("(Unnamed Layer* 1) [Shuffle]",)


def test_a_black_box_tells_its_first_and_last_node_and_a_copy_for_it_none():
    box, copy = read("names_only_10x").layers
    assert box.foreign_range == (
        "/encoder/Unsqueeze_3 + /encoder/Unsqueeze_4",
        "/match_model/Squeeze",
    )
    assert box.onnx_nodes == ()
    assert copy.foreign_range is None
    assert copy.onnx_nodes == ()
    assert EngineLayer("{ForeignNode[alone]}").foreign_range == ("alone", "alone")


def test_nodes_are_found_in_black_boxes_by_their_place_in_the_graph():
    info = read("names_only_10x")
    (box, _) = info.layers
    order = ["/stem", "/encoder/Unsqueeze_4", "/attn/MatMul", "/match_model/Squeeze", "/tail"]
    assert info.black_boxes_of({"/attn/MatMul"}, order) == (box,)
    assert info.black_boxes_of({"/match_model/Squeeze", "/tail"}, order) == (box,)
    assert info.black_boxes_of({"/stem", "/tail"}, order) == ()
    assert info.black_boxes_of({"/not/there"}, order) == ()
    # An end that the graph does not have leaves open what lies in it.
    assert info.black_boxes_of({"/attn/MatMul"}, order[:3]) == ()


SPELLINGS = {
    "Half": "float16",
    "Float": "float32",
    "BFloat16": "bfloat16",
    "Int8": "int8",
    "INT64": "int64",
    "FP8": "float8_e4m3fn",
    "FP8 linear": "float8_e4m3fn",
    "Int8 linear": "int8",
    "kHALF": "float16",
    "kBF16": "bfloat16",
    "Row major linear FP32": "float32",
    "Row major linear FP16 format": "float16",
    "Row-major linear BF16": "bfloat16",
    "Row major linear BFloat16 format": "bfloat16",
    "Row major linear FP32 format (kLINEAR)": "float32",
    "Row major linear BOOL": "bool",
    "Row major linear Int32": "int32",
    "Row major linear UInt8 format": "uint8",
    "Row major Int8 format": "int8",
    "Row major INT8 format where column stride % 64 == 0": "int8",
    "Channel major FP32 format where C % 4 == 0": "float32",
    "Channel major FP16 format where channel == 4 and column stride % 32 == 0": "float16",
    "Two wide channel vectorized row major FP16 format": "float16",
    "Thirty-two wide channel vectorized row major Int8 format.": "int8",
    "FloatComplex": "",
    "Unknown format": "",
    "None": "",
    "N/A due to dynamic shapes": "",
    "": "",
}


@pytest.mark.parametrize(("words", "dtype"), SPELLINGS.items())
def test_every_spelling_of_a_type_is_known(words, dtype):
    assert dtype_of_words(words) == dtype


def tensor(dtype: str, *dims: int) -> LayerTensor:
    return LayerTensor("t", dims, dtype, "")


def test_bytes_are_counted_where_sizes_and_types_are_known():
    assert tensor("float16", 3, 5, 7).num_bytes == 210
    assert tensor("float32").num_bytes == 4
    assert tensor("bfloat16", 3).num_bytes == 6
    assert tensor("int4", 3).num_bytes == 2  # two to a byte
    assert tensor("int8", 0, 9).num_bytes == 0
    assert tensor("int8", -1, 9).num_bytes is None
    assert tensor("", 9).num_bytes is None
    both = EngineLayer("copy", inputs=(tensor("int8", 9),), outputs=(tensor("float32", 9),))
    assert both.num_bytes == 45
    assert EngineLayer("copy", inputs=(tensor("", 9),)).num_bytes is None


def test_nodes_with_brackets_and_repeated_nodes_are_told_once():
    layer = {"Name": "l", "Metadata": "[ONNX Layer: a[0]]\x1f[ONNX Layer: b]\x1e[ONNX Layer: a[0]]"}
    text = json.dumps({"Layers": [layer], "Bindings": []})
    assert parse_engine_info(text).layers[0].onnx_nodes == ("a[0]", "b")
    # The control characters may stand in the text as they are.
    assert parse_engine_info(text.replace("\\u001f", "\x1f")).layers[0].onnx_nodes == ("a[0]", "b")


def test_an_engine_built_to_tell_nothing_tells_nothing():
    info = parse_engine_info('{"Layers": [], "Bindings": ["x"]}')
    assert (info.layers, info.verbosity) == ((), "none")
    said = '{"ProfilingVerbosity": "LAYER_NAMES_ONLY", "Layers": [], "I/O Tensors": []}'
    assert parse_engine_info(said).verbosity == "layer_names"


def layers(**fields: Any) -> str:
    return json.dumps({"Layers": [{"Name": "conv", **fields}], "Bindings": []})


MALFORMED = {
    "": "it is empty",
    "{'Layers': []}": "it is no JSON",
    '{"Layers": [': "it is no JSON",
    "null": "it is missing, not an object",
    "[]": "it is a list, not an object",
    "7": "it is a number",
    "[" * 100_000: "it is no JSON",
    '{"Layers": [], "Bindings": [], "n": ' + "9" * 5_000 + "}": "it is no JSON",
    "{}": "Layers of the engine is missing",
    '{"Layers": {}, "Bindings": []}': "Layers of the engine is an object, not a list",
    '{"Layers": []}': "neither Bindings (10.x) nor I/O Tensors (11.x)",
    '{"Layers": [3], "Bindings": []}': "a layer is a number",
    '{"Layers": [{}], "Bindings": []}': "Name of a layer is missing",
    '{"Layers": [{"Name": ["a"]}], "Bindings": []}': "Name of a layer is a list",
    '{"Layers": [], "Bindings": [1]}': "a binding is a number",
    '{"Layers": [], "I/O Tensors": ["x"]}': "an I/O tensor is a text",
    '{"Layers": [], "I/O Tensors": [{"Name": "x", "IOMode": "Both"}]}': "IOMode of I/O tensor 'x'",
    layers(Inputs="x"): "Inputs of layer 'conv' is a text",
    layers(Inputs=["x"]): "a tensor of layer 'conv' is a text",
    layers(
        Outputs=[{"Name": "y", "Dimensions": [1.5]}]
    ): "Dimensions of tensor 'y' of layer 'conv'",
    layers(Outputs=[{"Name": "y", "Dimensions": [True]}]): "hold True",
    layers(Outputs=[{"Name": "y", "Dimensions": [-2]}]): "hold -2",
    layers(Outputs=[{"Name": "y", "Dimensions": [1 << 70]}]): "hold 1180591620717411303424",
    layers(Outputs=[{"Name": "y", "Format/Datatype": 3}]): "Format/Datatype of tensor 'y'",
    layers(LayerType=3): "LayerType of layer 'conv' is a number",
    layers(TacticName=[]): "TacticName of layer 'conv' is a list",
    layers(Metadata={}): "Metadata of layer 'conv' is an object",
    layers(StreamId="0"): "StreamId of layer 'conv' is a text",
    layers(StreamId=True): "StreamId of layer 'conv' is true or false",
    layers(Name="a\nb" * 1_000, LayerType=3): "LayerType of layer 'a\\nba\\nb",
}


@pytest.mark.parametrize(("text", "told"), MALFORMED.items(), ids=MALFORMED.values())
def test_what_is_no_inspector_output_is_refused_in_one_sentence(text, told):
    with pytest.raises(ArtifactError) as error:
        parse_engine_info(text)
    assert error.value.message.startswith("this is not what TensorRT's engine inspector prints: ")
    assert told in error.value.message
    assert "\n" not in error.value.message
    assert len(error.value.message) < 300
    assert error.value.hint


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["Name", "Inputs", "Outputs", "Dimensions", "Metadata", "Format"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(layers=values, io=values)
def test_any_json_is_read_or_refused(layers, io):
    for key in ("Bindings", "I/O Tensors"):
        try:
            info = parse_engine_info(json.dumps({"Layers": layers, key: io}))
        except ArtifactError:
            continue
        assert all(layer.num_bytes is None or layer.num_bytes >= 0 for layer in info.layers)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_printout_cut_or_changed_anywhere_is_read_or_refused(data):
    text = text_of("window_native_11x")
    at = data.draw(st.integers(0, len(text) - 1))
    put = data.draw(st.sampled_from(["", '"', "}", "]", "0", "null", "[", "\\"]))
    for changed in (text[:at], text[:at] + put + text[at + 1 :]):
        with contextlib.suppress(ArtifactError):
            parse_engine_info(changed)


def test_the_profiler_names_layers_as_the_inspector_does():
    rows = json.loads((FIXTURES / "profile" / "iprofiler_window_plugin_10x.json").read_text())
    names = [layer.name for layer in read("window_plugin_int8_10x").layers]
    assert [name for name, _ in rows["Layers"]] == names
    exported = json.loads((FIXTURES / "profile" / "mobilenet_int8_8x.json").read_text())
    names = [layer.name for layer in read("mobilenet_int8_8x").layers]
    assert [row["name"] for row in exported if "name" in row] == names
