"""TensorRT's layers joined with the model, on printouts that each name their source."""

from __future__ import annotations

import json

import pytest

from edgeattn.engine.tensorrt.inspector import EngineInfo, EngineLayer, LayerTensor
from edgeattn.engine.tensorrt.layer_times import LayerTime
from edgeattn.profiling.layers.roofline import gpu_ceiling
from edgeattn.profiling.layers.rows import OTHER, LayerProfile, LayerRow
from edgeattn.profiling.layers.tensorrt import tensorrt_layer_profile
from edgeattn.targets import AGX_ORIN
from tests.graphs import from_text
from tests.tensorrt_printouts import ATTENTION, FIXTURES, HEAD, QKV, read, window_block

TIMES = [
    LayerTime(name, (ms, ms, 2 * ms, ms))
    for name, ms in json.loads(
        (FIXTURES / "profile" / "iprofiler_window_plugin_10x.json").read_text()
    )["Layers"]
]


def window_profile(**keywords) -> LayerProfile:
    info = read("window_plugin_int8_10x")
    return tensorrt_layer_profile(TIMES, info, whole_ms=0.25, **keywords)


def by_node(profile: LayerProfile, node: str) -> LayerRow:
    (row,) = [row for row in profile.rows if node in row.nodes]
    return row


def test_layers_are_rolled_up_by_the_nodes_that_the_engine_names():
    profile = window_profile()
    assert [row.name for row in profile.rows] == [layer.name for layer in TIMES]
    assert by_node(profile, QKV).module == ("blocks.0",)  # it holds the next Q too
    assert by_node(profile, ATTENTION).module == ("blocks.0", "attn")
    assert by_node(profile, HEAD).module == ("head",)
    assert profile.rows[0].module == profile.rows[-1].module == OTHER  # copies for others
    assert profile.runs == 4
    # The late run is left out, and what is left of the others adds up.
    assert profile.total_ms == pytest.approx(sum(layer.times_ms[0] for layer in TIMES))
    assert sum(module.ms for module in profile.modules) == pytest.approx(profile.total_ms)


def test_kinds_and_types_are_told_as_the_build_report_tells_them():
    profile = window_profile()
    assert [row.kind for row in profile.rows] == [
        "reformat", "other", "product", "plugin", "product", "move", "product", "reformat",
    ]  # fmt: skip
    assert by_node(profile, QKV).precision == "int8"


def test_bytes_are_what_the_engine_reads_and_writes():
    profile = window_profile()
    assert profile.rows[0].bytes == 56 * 56 * 96 * (4 + 2)
    assert profile.rows[0].flops == 0
    assert by_node(profile, QKV).bytes is None  # weights are not told, and there is no graph


def test_a_graph_gives_windows_operations_and_weights():
    profile = window_profile(graph=window_block().model)
    (blocks,) = [module for module in profile.modules if module.path == ("blocks.0",)]
    labels = [child.label for child in blocks.children]
    assert "block 0 / attn (window 7)" in labels
    attention = by_node(profile, ATTENTION)
    # 64 windows of 49 tokens, 3 heads of 32: two products, and a softmax.
    assert attention.flops == 64 * 3 * 49**2 * (4 * 32 + 5)
    assert attention.bytes == 3136 * (288 + 96) + 507 * 4 + 507 * 4  # the table once more
    assert by_node(profile, HEAD).flops == 2 * 3136 * 96 * 3


def test_shares_of_a_ceiling_are_those_of_the_board():
    profile = window_profile(graph=window_block().model, ceiling=gpu_ceiling(AGX_ORIN))
    reformat = profile.rows[0]
    assert reformat.bound == "memory"
    assert reformat.ceiling_share == pytest.approx(56 * 56 * 96 * 6 / 204.8e6 / 0.011)
    assert "AGX Orin" in profile.ceiling


def box(*, metadata: tuple[str, ...] = ()) -> EngineInfo:
    tensor = LayerTensor("t", (2, 8), "float16", "linear")
    return EngineInfo(
        "10",
        (
            EngineLayer("stem/Neg", "kgen", (tensor,), (tensor,), onnx_nodes=("stem/Neg",)),
            EngineLayer(
                "{ForeignNode[blocks.0.a/Sin...blocks.0.c/Exp]}",
                "Myelin",
                (tensor,),
                (tensor,),
                onnx_nodes=metadata,
            ),
            EngineLayer(
                "blocks.0.b/Cos", "kgen", (tensor,), (tensor,), onnx_nodes=("blocks.0.b/Cos",)
            ),
        ),
        (),
        "detailed",
    )


def chain():
    model = from_text(
        "g (float16[2,8] x) => (float16[2,8] y)"
        " { p = Neg (x) q = Sin (p) r = Cos (q) s = Abs (r) y = Exp (s) }"
    )
    names = ("stem/Neg", "blocks.0.a/Sin", "blocks.0.b/Cos", "blocks.0.b/Abs", "blocks.0.c/Exp")
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    return model


def test_a_black_box_holds_what_lies_between_its_ends_and_nowhere_else():
    info = box()
    times = [LayerTime(layer.name, (1.0,)) for layer in info.layers]
    profile = tensorrt_layer_profile(times, info, whole_ms=3.0, graph=chain())
    opaque = profile.rows[1]
    assert opaque.kind == "opaque"
    assert opaque.nodes == ("blocks.0.a/Sin", "blocks.0.b/Abs", "blocks.0.c/Exp")
    assert opaque.module == ("blocks.0",)
    assert opaque.ms == 1.0  # never split
    assert opaque.flops == 3 * 16
    assert opaque.bytes == 2 * 32


def test_a_black_box_without_a_graph_is_not_looked_into():
    info = box()
    times = [LayerTime(layer.name, (1.0,)) for layer in info.layers]
    opaque = tensorrt_layer_profile(times, info, whole_ms=3.0).rows[1]
    assert (opaque.nodes, opaque.module, opaque.flops) == ((), OTHER, None)


def test_a_black_box_that_lists_its_nodes_is_believed():
    info = box(metadata=("blocks.0.a/Sin",))
    opaque = tensorrt_layer_profile(
        [LayerTime(info.layers[1].name, (1.0,))], info, whole_ms=3.0, graph=chain()
    ).rows[0]
    assert opaque.nodes == ("blocks.0.a/Sin",)
    assert opaque.module == ("blocks.0", "a")


def test_operations_of_a_node_in_several_layers_are_nobodys():
    tensor = LayerTensor("t", (2, 8), "float16", "linear")
    layers = tuple(
        EngineLayer(name, "kgen", (tensor,), (tensor,), onnx_nodes=("stem/Neg",)) for name in "ab"
    )
    info = EngineInfo("10", layers, (), "detailed")
    times = [LayerTime(name, (1.0,)) for name in "ab"]
    profile = tensorrt_layer_profile(times, info, whole_ms=2.0, graph=chain())
    assert [row.flops for row in profile.rows] == [None, None]
    assert {row.module for row in profile.rows} == {("stem",)}


def test_a_layer_that_the_inspector_does_not_know_keeps_its_time():
    info = EngineInfo("10", (), (), "none")
    profile = tensorrt_layer_profile([LayerTime("0", (1.0, 3.0))], info, whole_ms=2.0)
    (row,) = profile.rows
    assert (row.kind, row.module, row.ms, row.bytes) == ("", OTHER, 2.0, None)


def test_names_alone_give_no_bytes():
    info = read("names_only_10x")
    times = [LayerTime(layer.name, (1.0,)) for layer in info.layers]
    profile = tensorrt_layer_profile(times, info, whole_ms=2.0)
    assert [row.bytes for row in profile.rows] == [None, None]
    assert [module.label for module in profile.modules] == ["other"]


def test_streams_side_by_side_are_told():
    layers = tuple(EngineLayer(str(stream), stream=stream) for stream in (0, 1))
    info = EngineInfo("10", layers, (), "detailed")
    profile = tensorrt_layer_profile([LayerTime("0", (1.0,))], info, whole_ms=2.0)
    assert "2 streams run side by side" in profile.note
    assert "side by side" not in window_profile().note


def test_an_engine_without_layers_has_an_empty_profile():
    profile = tensorrt_layer_profile([], EngineInfo("10", (), (), "none"), whole_ms=1.0)
    assert (profile.rows, profile.modules, profile.total_ms, profile.runs) == ((), (), 0.0, 0)
    assert profile.export_profile() == [{"count": 0}]
