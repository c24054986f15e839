"""A constant is a constant, however a graph writes it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeattn.errors import GraphError
from edgeattn.graph.constants import Constants, drop_orphans, used_names
from tests.graphs import from_text

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def graph(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = from_text(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    return model


CHAIN = """
g (float[N,3] x) => (float[N,2] y) {
    t = Transpose<perm = [1, 0]>(w)
    i = Identity(t)
    two = Constant<value_float = 2.0>()
    c = Mul(i, two)
    u, v = Split<axis = 0, num_outputs = 2>(c)
    y = MatMul(x, c)
    s = Shape(x)
}
"""


def test_what_follows_from_constants_is_constant_and_has_its_value():
    constants = Constants(graph(CHAIN, w=WEIGHT))
    for name in ("w", "t", "i", "two", "c", "u", "v"):
        assert name in constants
    for name in ("x", "y", "s", "absent", ""):
        assert name not in constants
    np.testing.assert_array_equal(constants.value("w"), WEIGHT)
    np.testing.assert_array_equal(constants.value("c"), 2 * WEIGHT.T)
    np.testing.assert_array_equal(constants.value("v"), 2 * WEIGHT.T[2:])


def test_an_initializer_that_an_input_overrides_is_not_constant():
    model = graph("g (float[N,2] x, float[2,3] w) => (float[N,3] y) { y = MatMul(x, w) }", w=WEIGHT)
    assert "w" not in Constants(model)


@pytest.mark.parametrize(
    "node",
    [
        "c = RandomNormal<shape = [2, 3]>()",
        "c = RandomNormalLike(w)",
        "c = com.example.Twice(w)",
        "c = If(w) <then_branch = b () => (float t) { t = Identity(w) },"
        " else_branch = b () => (float e) { e = Identity(w) }>",
    ],
    ids=["random", "random like", "another domain", "control flow"],
)
def test_what_could_differ_from_run_to_run_is_not_constant(node):
    node = node.replace("If(w)", "If") if "If" in node else node
    text = "g (float[N,2] x) => (float[N,3] y) { %s y = MatMul(x, c) }"
    if "If" in node:
        model = graph(text % "c = Identity(w)", w=WEIGHT)
        body = onnx.parser.parse_graph("b () => (float t) { t = Identity(w) }")
        branch = helper.make_node("If", ["w"], ["c"], then_branch=body, else_branch=body)
        model.graph.node[0].CopyFrom(branch)
    else:
        model = graph(text % node, w=WEIGHT)
    assert "c" not in Constants(model)


def test_a_constant_that_cannot_be_evaluated_is_named():
    model = graph("g (float[N,2] x) => (float[N,3] y) { c = Reshape(w, w) y = MatMul(x, c) }")
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    with pytest.raises(GraphError, match="the constant c cannot be evaluated"):
        Constants(model).value("c")


def test_what_a_rewrite_orphans_goes_and_what_was_idle_stays():
    model = graph(CHAIN, w=WEIGHT, idle=WEIGHT)
    model.graph.value_info.append(
        helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, [3, 2])
    )
    before = used_names(model.graph)
    (product,) = [node for node in model.graph.node if node.op_type == "MatMul"]
    product.input[1] = "new"
    drop_orphans(model, before)
    assert [node.op_type for node in model.graph.node] == [
        "Transpose",
        "Identity",
        "Constant",
        "Mul",
        "Split",
        "MatMul",
        "Shape",
    ]  # Split was idle before, and still reads c
    del model.graph.node[4]
    drop_orphans(model, before)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Shape"]
    assert [tensor.name for tensor in model.graph.initializer] == ["idle"]
    assert not model.graph.value_info


def test_what_only_a_body_reads_is_in_use():
    model = graph("g (float[N,2] x, bool b) => (float[2,3] y) { y = Identity(w) }", w=WEIGHT)
    body = onnx.parser.parse_graph("b () => (float[2,3] t) { t = Identity(w) }")
    model.graph.node[0].CopyFrom(
        helper.make_node("If", ["b"], ["y"], then_branch=body, else_branch=body)
    )
    assert "w" in used_names(model.graph)
