"""Names of an exported graph are those of the model's modules, and nothing tells of the machine."""

from __future__ import annotations

import onnx
from onnx import helper

from edgeattn.graph.clean import name_nodes_after_modules, strip_traces
from tests.graphs import from_text

SCOPES = "pkg.torch.onnx.name_scopes"


def graph(*scopes: list[str] | None) -> onnx.ModelProto:
    """A chain of `Neg`, each with the scopes that the exporter would note."""
    chain = " ".join(f"x{i + 1} = Neg(x{i})" for i in range(len(scopes)))
    model = from_text(f"g (float[2] x0) => (float[2] x{len(scopes)}) {{ {chain} }}")
    for node, noted in zip(model.graph.node, scopes, strict=True):
        node.name = "node_Neg_17"
        if noted is not None:
            node.metadata_props.add(key=SCOPES, value=repr(noted))
    return model


def names(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node]


def test_a_node_is_named_after_the_innermost_module() -> None:
    model = graph(["", "stem", "neg"], ["", "blocks", "blocks.0.act", "neg_1"], ["", "neg_2"])
    name_nodes_after_modules(model)
    assert names(model) == ["stem/Neg", "blocks.0.act/Neg", "Neg"]


def test_nodes_of_one_type_and_module_are_numbered() -> None:
    model = graph(*[["", "stem", "neg"]] * 3)
    name_nodes_after_modules(model)
    assert names(model) == ["stem/Neg", "stem/Neg_2", "stem/Neg_3"]


def test_a_node_of_no_module_is_named_after_the_one_it_reads() -> None:
    hook = ["", "_empty_nn_module_stack_from_metadata_hook", "neg"]
    model = graph(None, ["", "stem", "neg"], None, hook)
    name_nodes_after_modules(model)
    assert names(model) == ["Neg", "stem/Neg", "stem/Neg_2", "stem/Neg_3"]


def test_names_that_are_kept_stay_and_are_not_given_twice() -> None:
    model = graph(None, None, None, None)
    given = ["stem/Neg", "fused_3", "stem/Neg", ""]
    for node, name in zip(model.graph.node, given, strict=True):
        node.name = name
    name_nodes_after_modules(model, keep={"stem/Neg"})
    assert names(model) == ["stem/Neg", "stem/Neg_2", "stem/Neg_3", "stem/Neg_4"]


def test_nodes_of_control_flow_are_named_too() -> None:
    model = graph(["", "stem", "neg"])
    body = graph(["", "stem", "neg"], ["", "other", "neg"]).graph
    model.graph.node.append(
        helper.make_node("If", ["x1"], ["y"], then_branch=body, else_branch=body)
    )
    name_nodes_after_modules(model)
    branches = [[n.name for n in a.g.node] for a in model.graph.node[1].attribute]
    assert sorted(sum(branches, names(model))) == [
        "other/Neg",
        "other/Neg_2",
        "stem/If",
        "stem/Neg",
        "stem/Neg_2",
        "stem/Neg_3",
    ]


def test_traces_are_stripped_everywhere() -> None:
    secret = "File /home/somebody/model.py, line 3"
    model = graph(["", "stem", "neg"])
    model.graph.initializer.append(helper.make_tensor("w", 1, [1], [1.0]))
    model.graph.value_info.append(helper.make_tensor_value_info("x9", 1, [2]))
    body = onnx.GraphProto()
    body.CopyFrom(model.graph)
    model.graph.node.append(
        helper.make_node("If", ["x1"], ["y"], then_branch=body, else_branch=body)
    )
    branch = model.graph.node[1].attribute[0].g
    for holder in (model.graph, branch):
        places = (holder, *holder.node, *holder.input, *holder.output, *holder.value_info)
        for entry in (*places, *holder.initializer):
            entry.doc_string = secret
            entry.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=secret)
    model.doc_string = secret
    model.metadata_props.add(key="stack", value=secret)
    strip_traces(model)
    assert b"somebody" not in model.SerializeToString()
    assert [prop.key for prop in model.graph.node[0].metadata_props] == [SCOPES]
