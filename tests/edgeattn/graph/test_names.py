"""Names of nodes: each node has one, and no two the same."""

from __future__ import annotations

import onnx

from edgeattn.graph.names import name_nodes
from tests.graphs import from_text


def named(*names: str) -> list[str]:
    """Name a chain of nodes that have these names, each making the tensor `t0`, `t1`, ..."""
    chain = "\n".join(f"t{i} = Neg({f't{i - 1}' if i else 'x'})" for i in range(len(names)))
    model = from_text(f"g (float[2] x) => (float[2] t{len(names) - 1}) {{ {chain} }}")
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    name_nodes(model.graph)
    return [node.name for node in model.graph.node]


def test_names_that_are_there_stay() -> None:
    assert named("b", "a", "c") == ["b", "a", "c"]


def test_a_node_without_a_name_is_called_after_its_first_output() -> None:
    assert named("", "a", "") == ["t0", "a", "t2"]


def test_a_name_given_by_a_person_is_not_taken_by_a_node_without_one() -> None:
    assert named("", "t0") == ["t0_2", "t0"]


def test_repetitions_are_numbered_and_step_over_what_is_taken() -> None:
    assert named("a", "a", "a_2", "a") == ["a", "a_3", "a_2", "a_4"]


def test_a_node_whose_first_output_is_left_out_has_a_name_too() -> None:
    graph = onnx.GraphProto()
    graph.node.append(onnx.helper.make_node("Split", ["x"], ["", "y"]))
    graph.node.append(onnx.helper.make_node("Sink", ["y"], []))
    name_nodes(graph)
    assert [node.name for node in graph.node] == ["y", "Sink"]


def test_an_empty_graph_has_nothing_to_name() -> None:
    name_nodes(onnx.GraphProto())
