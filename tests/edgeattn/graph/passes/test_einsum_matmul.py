"""Einsum written as MatMul, against numpy's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn.graph.passes.einsum_matmul import write_einsum_as_matmul
from edgeattn.graph.verify import run_graph
from tests.quantization import with_weights

SIZES = {"b": 2, "h": 3, "i": 4, "j": 5, "d": 6, "B": 2, "G": 3, "H": 1, "I": 4, "J": 5, "D": 7}


def einsum(equation: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    terms = equation.replace(" ", "").replace("...", "bh").partition("->")[0].split(",")
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal([SIZES[letter] for letter in term]).astype(np.float32)
        for name, term in zip("xyz", terms, strict=False)
    }
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape)
        for name, array in arrays.items()
    ]
    node = helper.make_node("Einsum", list(arrays), ["out"], "product", equation=equation)
    result = np.einsum(equation, *arrays.values())
    output = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, result.shape)
    graph = helper.make_graph([node], "g", inputs, [output])
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), arrays


@pytest.mark.parametrize(
    "equation",
    [
        "B G H I D, B G H J D -> B G H I J",
        "B G H I J, B G H J D -> B G H I D",
        "bhid,bhjd->bhij",
        "bihd,bjhd->bhij",
        "bhij,bjhd->bihd",
        "bhij,bhjd->bihd",
        "id,jd->ji",
        "ij,jd->id",
        "hbid,bhdj->jbhi",
    ],
)
def test_products_of_matrices_become_matmul_and_give_the_same_numbers(equation: str) -> None:
    model, arrays = einsum(equation)
    before = model.SerializeToString()
    result = write_einsum_as_matmul(model)
    assert model.SerializeToString() == before
    kinds = {node.op_type for node in result.graph.node}
    assert "MatMul" in kinds
    assert kinds <= {"MatMul", "Transpose"}
    onnx.checker.check_model(result)
    expected = np.einsum(equation, *arrays.values())
    np.testing.assert_allclose(run_graph(result, arrays)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "equation",
    [
        "bhid,bhjd->bij",  # heads are summed over as well
        "bhi,bhj->bhij",  # nothing is summed over
        "bhid,d->bhi",  # a vector
        "bid,bhd->bihd",  # no product of matrices
        "bij->bji",
        "iid,jd->ij",
        "...id,...jd->...ij",
        "bi,bj,bd->ijd",
        "id,jd",
    ],
)
def test_everything_else_is_left(equation: str) -> None:
    model, _ = einsum(equation)
    assert write_einsum_as_matmul(model) is model


def test_products_with_weights_are_left() -> None:
    model = with_weights(
        'g (float[4,6] x) => (float[4,5] y) { y = Einsum<equation="id,jd->ij">(x, w) }',
        {"w": np.ones((5, 6), np.float32)},
    )
    assert write_einsum_as_matmul(model) is model
