"""Names of nodes, as three exporters and the toolkit's own lowering write them, to modules."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.op import make_attention_node
from edgeattn.graph.passes.decompose import decompose
from edgeattn.profiling.layers.modules import ModuleMap, module_path
from edgeattn.profiling.layers.rows import MODEL, OTHER
from edgeattn.spec import AttentionSpec, HeadGroup

BLOCK = ("stages.0", "blocks.1")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("stages.2.blocks.1.attention/Add", ("stages.2", "blocks.1", "attention")),
        ("stages.2.blocks.1/Add_2", ("stages.2", "blocks.1")),
        ("stages.2.attention/MultiScaleWindowAttention/MatMul_26", ("stages.2", "attention")),
        ("layers.0.1.conv/Conv", ("layers.0", "1", "conv")),
        ("Mixed_5b.branch/Conv", ("Mixed_5b", "branch")),
        ("/layers.0/blocks.1/attn/qkv/MatMul", ("layers.0", "blocks.1", "attn", "qkv")),
        ("/layers/layers.0/blocks/blocks.1/norm/Div", ("layers.0", "blocks.1", "norm")),
        ("/Mixed_5b/conv/Conv", ("Mixed_5b", "conv")),
        ("/Softmax", None),
        ("model/dense/BiasAdd", ("model", "dense")),
        ("Conv_9", None),
    ],
)
def test_the_path_stands_in_the_name(name, path):
    assert module_path(name) == path


def node(name: str, op_type: str, source: str, output: str) -> onnx.NodeProto:
    return helper.make_node(op_type, [source], [output], name)


def graph_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [], []))


def test_a_fused_layer_belongs_to_the_module_that_holds_all_of_it():
    modules = ModuleMap(
        graph_of(
            node("stages.0.blocks.1.mlp.fc1/Neg", "Neg", "x", "a"),
            node("stages.0.blocks.1.mlp.act/Relu", "Relu", "a", "b"),
            node("stages.0.blocks.1/Abs", "Abs", "b", "c"),
            node("Exp", "Exp", "c", "d"),
        )
    )
    fc1, act = "stages.0.blocks.1.mlp.fc1/Neg", "stages.0.blocks.1.mlp.act/Relu"
    assert modules.path_of([fc1]) == (*BLOCK, "mlp", "fc1")
    assert modules.path_of([fc1, act]) == (*BLOCK, "mlp")
    assert modules.path_of([act, "stages.0.blocks.1/Abs"]) == BLOCK
    assert modules.path_of([act, "Exp"]) == MODEL
    assert modules.path_of(["Exp"]) == MODEL


def test_what_is_not_known_is_other_and_never_guessed():
    modules = ModuleMap(graph_of(node("stem/Neg", "Neg", "x", "a")))
    assert modules.path_of([]) == OTHER
    assert modules.path_of(["Neg_7"]) == OTHER
    assert modules.path_of(["stem/Neg", "Neg_7"]) == OTHER
    assert modules.path_of(["/blocks_0/qkv/MatMul_myl0_1"]) == OTHER


def test_a_graph_without_paths_has_no_modules():
    modules = ModuleMap(graph_of(node("Conv_1", "Neg", "x", "a"), node("Add_2", "Abs", "a", "b")))
    assert modules.path_of(["Conv_1"]) == modules.path_of(["Add_2"]) == OTHER


def test_moves_have_no_say_beside_what_computes():
    modules = ModuleMap(
        graph_of(
            node("stem/Neg", "Neg", "x", "a"),
            node("head/Transpose", "Transpose", "a", "b"),
        )
    )
    assert modules.path_of(["stem/Neg", "head/Transpose"]) == ("stem",)
    assert modules.path_of(["head/Transpose"]) == ("head",)


def test_a_conversion_without_a_path_belongs_to_what_it_converts():
    modules = ModuleMap(
        graph_of(
            node("x_QuantizeLinear", "QuantizeLinear", "x", "q"),
            node("stem/Neg", "Neg", "q", "a"),
            node("a_QuantizeLinear", "QuantizeLinear", "a", "b"),
            node("b_DequantizeLinear", "DequantizeLinear", "b", "c"),
        )
    )
    assert modules.path_of(["a_QuantizeLinear"]) == ("stem",)
    assert modules.path_of(["b_DequantizeLinear"]) == ("stem",)
    assert modules.path_of(["x_QuantizeLinear"]) == MODEL


def attention(*groups: HeadGroup) -> onnx.ModelProto:
    heads = sum(group.num_heads for group in groups)
    spec = AttentionSpec(head_dim=4, qkv_heads=heads, head_groups=groups)
    make = helper.make_tensor_value_info
    graph = helper.make_graph(
        [make_attention_node(spec, ["x"], "y", "blocks.0.attn/MultiScaleWindowAttention")],
        "g",
        [make("x", TensorProto.FLOAT, (1, 8, 8, 12 * heads))],
        [make("y", TensorProto.FLOAT, (1, 8, 8, 4 * heads))],
        [numpy_helper.from_array(np.zeros(1, np.float32), "unused")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("edgeattn", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_an_attention_node_is_named_with_its_windows():
    model = attention(HeadGroup(1, 4), HeadGroup(1, (2, 8), head_offset=1))
    modules = ModuleMap(model)
    assert modules.path_of([model.graph.node[0].name]) == ("blocks.0", "attn")
    assert modules.notes == {("blocks.0", "attn"): "windows 4, 2×8"}


def test_written_out_attention_is_sorted_by_head_group():
    groups = (HeadGroup(1, 4, 2), HeadGroup(2, (0, 2), head_offset=1, mode="grid"))
    lowered = decompose(attention(*groups))
    modules = ModuleMap(lowered)
    paths = [modules.path_of([each.name]) for each in lowered.graph.node]
    softmaxes = [
        path
        for path, each in zip(paths, lowered.graph.node, strict=True)
        if each.op_type == "Softmax"
    ]
    base = ("blocks.0", "attn")
    assert softmaxes == [(*base, "group 0"), (*base, "group 1")]
    assert paths[0] == paths[-1] == base  # what reads and writes the maps serves both
    assert modules.notes == {
        base: "windows 4, grid all×2",
        (*base, "group 0"): "window 4, shift 2",
        (*base, "group 1"): "window grid all×2",
    }


def test_a_single_head_group_makes_no_level_of_its_own():
    lowered = decompose(attention(HeadGroup(2, 4)))
    modules = ModuleMap(lowered)
    paths = {modules.path_of([each.name]) for each in lowered.graph.node}
    assert paths == {("blocks.0", "attn")}
    assert modules.notes == {("blocks.0", "attn"): "window 4"}
