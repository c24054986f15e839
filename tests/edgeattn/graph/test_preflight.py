"""A graph as a plugin library sees it: its attention nodes with their types, and their results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeattn.graph.op import make_attention_node
from edgeattn.graph.preflight import _SELF_TEST, check_plugin, make_trials, plugin_nodes
from edgeattn.plugin import check as check_module
from edgeattn.plugin.check import PluginNode
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.edgeattn.plugin.fakes import compile_library, plugin_source
from tests.oracle import attention

PLAIN = AttentionSpec(8, 2, (HeadGroup(2, (3, 3)),))
INT8 = AttentionSpec(8, 2, (HeadGroup(2, (3, 3)),), qkv_quant_scale=0.0625)
INT8_OUT = AttentionSpec(
    8, 2, (HeadGroup(2, (3, 3)),), qkv_quant_scale=0.0625, out_quant_scale=0.125
)


def graph_of(spec: AttentionSpec, element: int, *before: onnx.NodeProto) -> onnx.ModelProto:
    """Make a graph of one node whose input comes through others."""
    last = before[-1].output[0] if before else "x"
    node = make_attention_node(spec, [last], "out", "block1")
    value = helper.make_tensor_value_info("x", element, ["B", 7, 8, spec.qkv_channels])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("edgeattn", 1)]
    graph = helper.make_graph([*before, node], "g", [value], [out])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("spec", "element", "types"),
    [
        (PLAIN, TensorProto.FLOAT, ("float32", "float32")),
        (PLAIN, TensorProto.FLOAT16, ("float16", "float16")),
        (PLAIN, TensorProto.BFLOAT16, ("bfloat16", "bfloat16")),
        (INT8_OUT, TensorProto.INT8, ("int8", "int8")),
        (INT8, TensorProto.INT8, ("int8", "float16")),
        (PLAIN, TensorProto.DOUBLE, ("", "")),
    ],
)
def test_a_node_has_the_types_of_its_tensors(
    spec: AttentionSpec, element: int, types: tuple[str, str]
) -> None:
    (node,) = plugin_nodes(graph_of(spec, element))
    assert (node.in_type, node.out_type) == types
    assert (node.name, node.op_type, node.version) == ("block1", "MultiScaleWindowAttention", "1")
    assert (node.spec, node.error) == (spec, "")


def test_the_type_is_inferred_through_other_nodes_and_unknown_behind_foreign_ones() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)
    foreign = helper.make_node("Mystery", ["x"], ["y"], domain="others")
    assert plugin_nodes(graph_of(PLAIN, TensorProto.FLOAT, cast))[0].in_type == "float16"
    model = graph_of(PLAIN, TensorProto.FLOAT, foreign)
    model.opset_import.append(helper.make_opsetid("others", 1))
    assert plugin_nodes(model)[0].in_type == ""


def test_a_malformed_node_is_listed_with_what_is_wrong_beside_sound_ones() -> None:
    model = graph_of(PLAIN, TensorProto.FLOAT)
    broken = onnx.NodeProto()
    broken.CopyFrom(model.graph.node[0])
    broken.name, broken.output[0] = "block2", "out2"
    del broken.attribute[0]
    model.graph.node.append(broken)
    good, bad = plugin_nodes(model)
    assert (good.spec, good.in_type) == (PLAIN, "float32")
    assert bad.spec is None
    assert "block2" in bad.error
    assert "head_dim" in bad.error


def test_a_library_is_asked_for_heads_as_a_build_pads_them_and_malformed_nodes_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "find_cuda_program", lambda name: None)
    library = compile_library(tmp_path / "libplugin.so", plugin_source())
    spec = AttentionSpec(30, 2, (HeadGroup(2, (3, 3)),))
    model = graph_of(spec, TensorProto.FLOAT16)
    onnx.save(model, tmp_path / "net.onnx")
    checked = check_plugin(library, tmp_path / "net.onnx", load=False)
    (note,) = (finding for finding in checked.findings if finding.what == "heads of block1")
    assert note.verdict == "note"
    assert note.detail.startswith("heads of 30 channels are padded to 32")

    del model.graph.node[-1].attribute[:]
    onnx.save(model, tmp_path / "net.onnx")
    checked = check_plugin(library, tmp_path / "net.onnx", load=False)
    assert "node block1" in {failure.what for failure in checked.failures}


def test_nodes_that_compute_the_same_are_tried_once() -> None:
    nodes = plugin_nodes(graph_of(PLAIN, TensorProto.FLOAT))
    unknown = PluginNode("u", "MultiScaleWindowAttention", "1", "", PLAIN, "", "", "")
    assert len(make_trials([*nodes, *nodes, unknown])) == 1


@pytest.mark.parametrize("node", _SELF_TEST, ids=lambda node: node.name)
def test_what_a_trial_expects_is_what_the_oracle_says(node: PluginNode) -> None:
    (trial,) = make_trials([node])
    tensors = {name: np.asarray(t, np.float64) for name, t in trial.tensors.items()}
    assert node.spec is not None
    if node.in_type == "int8":
        tensors["qkv"] *= np.float32(node.spec.qkv_quant_scale)
    expected = attention(node.spec, **tensors)
    if node.out_type == "int8":
        steps = np.clip(np.rint(expected / node.spec.out_quant_scale), -128, 127)
        assert np.abs(trial.expected - steps).max() <= 1
        assert np.mean(trial.expected != steps) < 1e-3
    else:
        np.testing.assert_allclose(trial.expected, expected, atol=2e-5 * np.abs(expected).max())
    modes = {group.mode for other in _SELF_TEST for group in other.spec.head_groups}
    assert modes == {"block", "grid", "neighborhood"}


def test_a_trial_has_two_windows_and_a_rest_and_sequences_stay_flat() -> None:
    causal = AttentionSpec(8, 2, (HeadGroup(2, (1, 5), mode="neighborhood", causal=True),))
    whole = AttentionSpec(8, 2, (HeadGroup(2, (0, 0)),))
    large = AttentionSpec(8, 2, (HeadGroup(2, (32, 32)),))
    sizes = [
        make_trials([PluginNode("n", "", "", "", spec, "", "float32", "float32")])[0].expected.shape
        for spec in (PLAIN, causal, whole, large)
    ]
    assert [size[1:3] for size in sizes] == [(9, 9), (1, 13), (17, 17), (40, 40)]
