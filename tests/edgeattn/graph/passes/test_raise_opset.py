"""Raising the opset: the same numbers under the same names, or a refusal."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from edgeattn.errors import GraphError
from edgeattn.graph.constants import subgraphs
from edgeattn.graph.nodes import node_label, standard_opset
from edgeattn.graph.passes.raise_opset import raise_opset
from edgeattn.graph.verify import run_graph

OLD = """
<ir_version: 7, opset_import: ["" : 13, "theirs" : 1]>
g (float[N,4,6] x) => (float[N,5] y) {
    [mean] m = ReduceMean<axes = [1], keepdims = 0>(x)
    [halves] left, right = Split<axis = 1>(m)
    [swap] swapped = Concat<axis = 1>(right, left)
    [layer] out = MatMul(swapped, weight)
    [total] sum = ReduceSum<keepdims = 0>(x)
    [sign] positive = Greater(sum, zero)
    [choice] y = If(positive)
        <then_branch = yes () => (float[N,5] p) { p = ReduceMax<axes = [0]>(out) },
         else_branch = no () => (float[N,5] n) { n = ReduceMin<axes = [0]>(out) }>
}
"""


def old_graph() -> onnx.ModelProto:
    model = parser.parse_model(OLD)
    # Larger than what the conversion itself is shown.
    weight = np.random.default_rng(3).standard_normal((6, 5)).astype(np.float32)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.zeros(5000, np.float32), "large"),
        ]
    )
    model.graph.node.append(helper.make_node("Identity", ["large"], ["spare"], name="spare"))
    return model


def labels(graph: onnx.GraphProto) -> list[str]:
    return [node_label(node) for node in graph.node if node.op_type != "Constant"]


@pytest.mark.parametrize("opset", [18, 19, 23])
def test_numbers_and_names_stay_what_they_were(opset: int) -> None:
    model = old_graph()
    before = model.SerializeToString()
    raised = raise_opset(model, opset)
    assert model.SerializeToString() == before
    assert standard_opset(raised) == opset
    onnx.checker.check_model(raised, full_check=True)
    assert labels(raised.graph) == labels(model.graph)
    assert [tensor.name for tensor in raised.graph.initializer] == ["weight", "zero", "large"]
    assert [value.name for value in raised.graph.input] == ["x"]
    for sign in (1, -1):
        x = sign * np.random.default_rng(4).random((3, 4, 6)).astype(np.float32)
        means = x.astype(np.float64).mean(axis=1)
        out = np.roll(means, 3, axis=1) @ numpy_helper.to_array(model.graph.initializer[0])
        expected = out.max(axis=0) if sign > 0 else out.min(axis=0)
        np.testing.assert_allclose(run_graph(raised, {"x": x})[0][0], expected, rtol=1e-5)


def test_bodies_of_control_flow_are_raised_too() -> None:
    (choice,) = (n for n in raise_opset(old_graph(), 18).graph.node if n.op_type == "If")
    for body in subgraphs(choice):
        (reduction,) = (n for n in body.node if n.op_type.startswith("Reduce"))
        assert len(reduction.input) == 2  # axes are an input from 18 on


def test_a_new_graph_is_given_back_as_it_is() -> None:
    model = old_graph()
    assert raise_opset(model, 13) is model
    assert raise_opset(model, 7) is model


def test_unknown_operators_and_their_attributes_pass_through() -> None:
    model = old_graph()
    island = helper.make_node(
        "Island", ["out"], ["isle"], "isle", domain="theirs", alpha=1.5, kind="a"
    )
    island.metadata_props.add(key="origin", value="module 7")
    model.graph.node.insert(4, island)
    (raised,) = (n for n in raise_opset(model, 19).graph.node if n.domain == "theirs")
    assert {a.name: helper.get_attribute_value(a) for a in raised.attribute} == {
        "alpha": 1.5,
        "kind": b"a",
    }
    assert [(p.key, p.value) for p in raised.metadata_props] == [("origin", "module 7")]


def test_functions_of_the_graphs_own_are_refused() -> None:
    model = old_graph()
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 13)]
    model.functions.append(helper.make_function("theirs", "Bend", ["a"], ["b"], body, opsets))
    with pytest.raises(GraphError, match="functions inside the graph, such as Bend") as caught:
        raise_opset(model, 19)
    assert "inline" in caught.value.hint


def test_what_onnx_cannot_convert_is_refused_with_its_reason() -> None:
    model = old_graph()
    model.opset_import[0].version = 12
    model.graph.node.append(helper.make_node("Nonsense", ["x"], ["z"]))
    with pytest.raises(GraphError, match="has opset 12, and onnx cannot raise it to 19"):
        raise_opset(model, 19)
