"""In which type a graph asks for its matrix products, by graphs whose answer is evident."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeattn.engine.tensorrt.products import product_types
from tests.graphs import classifier, int8_chain, model
from tests.tensorrt_graphs import block


def product_of(element: int, dtype: type) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        [value("x", element, (2, 4))],
        [value("y", element, (2, 3))],
        {"w": np.ones((4, 3), dtype)},
    )


def test_a_graph_without_products_has_none():
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, (2,))
    assert product_types(model([helper.make_node("Neg", ["x"], ["y"])], [value], [out], {})) == {}


@pytest.mark.parametrize(
    ("element", "dtype", "name"),
    [(TensorProto.FLOAT, np.float32, "float32"), (TensorProto.FLOAT16, np.float16, "float16")],
)
def test_a_product_of_floats_is_in_their_type(element, dtype, name):
    assert product_types(product_of(element, dtype)) == {name: ("product",)}


def test_bfloat16_has_its_name():
    graph = product_of(TensorProto.FLOAT, np.float32)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    graph.graph.initializer[0].CopyFrom(
        helper.make_tensor("w", TensorProto.BFLOAT16, (4, 3), [1.0] * 12)
    )
    assert product_types(graph) == {"bfloat16": ("product",)}


def test_a_nameless_node_is_called_after_its_output():
    assert product_types(classifier()) == {"float32": ("product",)}


def test_products_of_dequantized_factors_are_int8_and_named_in_the_order_of_the_graph():
    found = product_types(int8_chain(3))
    assert found == {"int8": ("product0", "product1", "product2")}


def test_one_factor_in_float_makes_a_float_product():
    assert product_types(block()) == {"float32": ("head/MatMul",), "int8": ("qkv/MatMul",)}


def test_moves_between_dequantization_and_product_do_not_matter():
    graph = int8_chain(1)
    (product,) = (node for node in graph.graph.node if node.op_type == "MatMul")
    move = helper.make_node("Transpose", [product.input[1]], ["moved"], perm=[0, 1])
    product.input[1] = "moved"
    graph.graph.node.insert(3, move)
    assert product_types(graph) == {"int8": ("product0",)}


def test_what_cannot_be_inferred_is_unknown():
    value = helper.make_tensor_value_info
    graph = model(
        [
            helper.make_node("Mystery", ["x"], ["a"], domain="elsewhere"),
            helper.make_node("MatMul", ["a", "a"], ["b"], "product"),
            helper.make_node("Mystery", ["b"], ["y"], domain="elsewhere"),
        ],
        [value("x", TensorProto.FLOAT, (2, 2))],
        [value("y", TensorProto.FLOAT, (2, 2))],
        {},
    )
    graph.opset_import.append(helper.make_opsetid("elsewhere", 1))
    assert product_types(graph) == {"unknown": ("product",)}
