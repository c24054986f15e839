"""Weights that are no numbers are refused by name; masks and bounds may be infinite."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeattn.errors import GraphError
from edgeattn.graph.finite import check_finite
from tests.graphs import BIAS, WEIGHT, classifier, from_text


def with_value(value: float, dtype: type = np.float32) -> onnx.ModelProto:
    weight = WEIGHT.astype(dtype)
    weight[2, 1] = value
    return classifier(weight=weight)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused_by_name(value: float, dtype: type) -> None:
    with pytest.raises(GraphError, match=r"the weight weight holds 1 \w+ of 15 values"):
        check_finite(with_value(value, dtype))


def test_finite_weights_pass() -> None:
    check_finite(classifier())


def test_integer_weights_pass() -> None:
    check_finite(from_text("g (float[N,4] x) => (float[N,2] y) <int64[2] i = {0, 1}> {"
                           " y = Gather<axis=1>(x, i) }"))  # fmt: skip


def added(value: float, op_type: str = "Add") -> onnx.ModelProto:
    graph = classifier()
    graph.graph.initializer[1].CopyFrom(
        numpy_helper.from_array(np.where(np.arange(3) == 1, value, BIAS).astype("float32"), "bias")
    )
    graph.graph.node[1].op_type = op_type
    return graph


def test_a_mask_of_minus_infinity_may_be_added() -> None:
    check_finite(added(-np.inf))


@pytest.mark.parametrize(("value", "op_type"), [(np.inf, "Add"), (np.nan, "Add"), (-np.inf, "Mul")])
def test_what_is_no_mask_may_not(value: float, op_type: str) -> None:
    with pytest.raises(GraphError, match="the weight bias holds 1"):
        check_finite(added(value, op_type))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_bounds_may_be_infinite(value: float) -> None:
    check_finite(added(value, "Max"))


def test_constant_nodes_are_checked() -> None:
    graph = classifier()
    graph.graph.initializer.remove(graph.graph.initializer[1])
    tensor = numpy_helper.from_array(np.full(3, np.nan, np.float32))
    graph.graph.node.insert(0, helper.make_node("Constant", [], ["bias"], value=tensor))
    with pytest.raises(GraphError, match="the weight bias holds 3 NaN of 3 values"):
        check_finite(graph)


def test_bodies_of_control_flow_are_checked() -> None:
    body = with_value(np.nan).graph
    del body.input[:]
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    graph = helper.make_graph([branch], "g", [], [])
    with pytest.raises(GraphError, match="the weight weight"):
        check_finite(helper.make_model(graph))
