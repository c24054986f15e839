"""Notes on written-out attention: where they stand, and that nothing else changes."""

from __future__ import annotations

import onnx
import pytest

from edgeattn.graph.head_group_notes import (
    describe_group,
    describe_windows,
    note_head_groups,
    noted_group,
    noted_windows,
)
from edgeattn.graph.op import make_attention_node
from edgeattn.graph.passes.decompose import decompose, decompose_groups
from edgeattn.graph.standard_attention import AttentionForm
from edgeattn.spec import AttentionSpec, HeadGroup

GROUPS = (HeadGroup(1, 2), HeadGroup(1, 4, (2, 0), head_offset=1))


def attention(*groups: HeadGroup) -> onnx.ModelProto:
    spec = AttentionSpec(head_dim=4, qkv_heads=len(groups), head_groups=groups)
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Neg", ["x"], ["qkv"], "before"),
            make_attention_node(spec, ["qkv"], "y", "attn"),
        ],
        "g",
        [make("x", onnx.TensorProto.FLOAT, (1, 8, 8, 12 * len(groups)))],
        [make("y", onnx.TensorProto.FLOAT, (1, 8, 8, 4 * len(groups)))],
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("edgeattn", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_each_node_of_an_attention_knows_its_windows_and_its_group():
    lowered = decompose(attention(*GROUPS))
    before, *nodes = lowered.graph.node
    assert (noted_windows(before), noted_group(before)) == ("", None)
    assert {noted_windows(node) for node in nodes} == {"windows 2, 4"}
    assert [noted_group(node) for node in nodes if node.op_type == "Softmax"] == [
        ("0", "window 2"),
        ("1", "window 4, shift 2×0"),
    ]
    assert noted_group(nodes[0]) is noted_group(nodes[-1]) is None  # they serve both


def test_one_group_alone_is_not_numbered():
    lowered = decompose(attention(HeadGroup(1, 4)))
    assert {noted_group(node) for node in lowered.graph.node} == {None}
    assert noted_windows(lowered.graph.node[-1]) == "window 4"


def test_notes_change_nothing_else():
    plain, groups = decompose_groups(attention(*GROUPS), AttentionForm())
    noted = onnx.ModelProto()
    noted.CopyFrom(plain)
    noted.graph.node[1].metadata_props.add(key="kept", value="as it was")
    for _ in range(2):  # a second time nothing is added
        note_head_groups(noted, groups)
    assert noted.graph.node[1].metadata_props[0].key == "kept"
    keys = [prop.key for prop in noted.graph.node[-1].metadata_props]
    assert len(keys) == len(set(keys))
    for node in noted.graph.node:
        del node.metadata_props[:]
    assert noted == plain


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (HeadGroup(1, 7), "window 7"),
        (HeadGroup(1, (7, 9), (3, 4)), "window 7×9, shift 3×4"),
        (HeadGroup(1, 0), "window all"),
        (HeadGroup(1, (4, 0), mode="grid"), "window grid 4×all"),
        (HeadGroup(1, 3, mode="neighborhood"), "window neighborhood 3"),
    ],
)
def test_windows_in_words(group, words):
    assert describe_group(group) == words
    spec = AttentionSpec(head_dim=4, qkv_heads=1, head_groups=(group,))
    assert describe_windows(spec) == words.partition(",")[0]
