"""Bytes and operations, against counts by hand and against torch's counter."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.op import make_attention_node
from edgeattn.graph.passes.decompose import decompose
from edgeattn.profiling.layers.cost import Cost, GraphCosts
from edgeattn.spec import AttentionSpec, HeadGroup

FLOAT = TensorProto.FLOAT


def graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int | str, ...]],
    outputs: tuple[str, ...],
    weights: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    make = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [make(name, FLOAT, shape) for name, shape in inputs.items()],
        [make(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def one(
    op_type: str,
    *shapes: tuple[int, ...],
    weights: dict[str, np.ndarray] | None = None,
    **attributes: Any,
) -> Cost:
    """Count a lone node on inputs of these shapes, then the weights."""
    inputs = {f"x{i}": shape for i, shape in enumerate(shapes)}
    node = helper.make_node(op_type, [*inputs, *(weights or {})], ["y"], "n", **attributes)
    return GraphCosts(graph([node], inputs, ("y",), weights)).of(["n"])


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_a_matrix_product():
    # 2·3·5·7 operations; 15 + 35 + 21 numbers.
    assert one("MatMul", (3, 5), (5, 7)) == Cost(4 * 71, 210, 210)


def test_a_batch_of_products():
    assert one("MatMul", (2, 4, 3, 5), (5, 7)) == Cost(4 * (120 + 35 + 168), 8 * 210, 8 * 210)


def test_a_linear_layer_with_a_bias():
    weights = {"w": zeros(7, 5), "b": zeros(7)}
    assert one("Gemm", (3, 5), weights=weights, transB=1) == Cost(4 * (15 + 35 + 7 + 21), 231, 210)


def test_a_linear_layer_of_a_transposed_input():
    assert one("Gemm", (5, 3), weights={"w": zeros(5, 7)}, transA=1).products == 210


def test_a_convolution():
    # [1, 6, 9, 9] by 8 filters of [6, 3, 3]: [1, 8, 7, 7], each of 54 multiply-adds and a bias.
    cost = one("Conv", (1, 6, 9, 9), weights={"w": zeros(8, 6, 3, 3), "b": zeros(8)})
    assert cost == Cost(4 * (486 + 432 + 8 + 392), 2 * 54 * 392 + 392, 2 * 54 * 392)


def test_a_convolution_in_groups():
    cost = one("Conv", (1, 6, 9, 9), weights={"w": zeros(6, 1, 3, 3)}, group=6)
    assert cost.flops == cost.products == 2 * 9 * 6 * 49


def test_a_transposed_convolution():
    # Each of 2·16 inputs is multiplied into 3 filters of 2 by 2.
    cost = one("ConvTranspose", (1, 2, 4, 4), weights={"w": zeros(2, 3, 2, 2)})
    assert cost.products == 2 * 32 * 12


@pytest.mark.parametrize(
    ("op_type", "flops"), [("Relu", 30), ("Softmax", 150), ("Gelu", 150), ("Sigmoid", 120)]
)
def test_functions_of_each_element(op_type, flops):
    assert one(op_type, (5, 6)) == Cost(240, flops, 0)


def test_a_sum_is_broadcast():
    assert one("Add", (5, 6), (6,)) == Cost(4 * (30 + 6 + 30), 30, 0)


def test_a_tensor_that_is_read_twice_moves_once():
    node = helper.make_node("Mul", ["x", "x"], ["y"], "n")
    assert GraphCosts(graph([node], {"x": (4,)}, ("y",))).of(["n"]).bytes == 32


def test_a_norm():
    cost = one("LayerNormalization", (5, 6), weights={"g": zeros(6), "b": zeros(6)})
    assert cost == Cost(4 * (30 + 12 + 30), 210, 0)


def test_a_mean_counts_what_it_reads():
    weights = {"axes": np.array([1, 2])}
    assert one("ReduceMean", (2, 3, 4), weights=weights, keepdims=0) == Cost(96 + 16 + 8, 24, 0)


def test_pooling_counts_its_window():
    assert one("MaxPool", (1, 2, 8, 8), kernel_shape=[2, 2], strides=[2, 2]).flops == 4 * 32


def test_another_shape_moves_nothing():
    assert one("Reshape", (5, 6), weights={"s": np.array([6, 5])}) == Cost(0, 0, 0)
    assert one("Flatten", (5, 6)) == Cost(0, 0, 0)
    assert one("Transpose", (5, 6)) == Cost(240, 0, 0)


def test_picking_reads_what_it_picks():
    rows = np.array([3, 1], np.int64)
    assert one("Gather", (1000, 6), weights={"i": rows}) == Cost(4 * 12 + 16 + 4 * 12, 0, 0)


def test_what_passes_between_fused_nodes_moves_nothing():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Reshape", ["a", "s"], ["b"], "shape"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("Neg", ["a"], ["d"], "reader"),
    ]
    weights = {"w": zeros(5, 7), "s": np.array([7, 3])}
    costs = GraphCosts(graph(nodes, {"x": (3, 5)}, ("c", "d"), weights))
    # Another node reads the product; through the Reshape the Relu does too.
    assert costs.of(["product"]).bytes == 4 * (15 + 35 + 21)
    assert costs.of(["product", "shape", "relu"]).bytes == 4 * (15 + 35 + 21 + 21)
    assert costs.of(["product", "shape", "relu", "reader"]).bytes == 4 * (15 + 35 + 21 + 21)
    assert costs.of(["shape", "relu"]).bytes == 4 * 42
    assert costs.of(["product", "shape", "relu"]).flops == 210 + 21
    assert costs.weight_bytes(["product", "shape", "relu"]) == 140


def test_a_quantized_weight_is_read_in_integers():
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "s", "z"], ["w"], "dq"),
        helper.make_node("MatMul", ["x", "w"], ["y"], "n"),
    ]
    weights = {"w8": np.zeros((5, 7), np.int8), "s": np.float32(1), "z": np.int8(0)}
    values = {name: np.asarray(value) for name, value in weights.items()}
    costs = GraphCosts(graph(nodes, {"x": (3, 5)}, ("y",), values))
    assert costs.of(["n"]).bytes == 4 * 15 + 35 + 4 * 21
    assert costs.of(["dq"]).flops == 0  # before the engine runs


def test_open_sizes_are_filled_in():
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "n")
    model = graph([node], {"x": ("batch", 5)}, ("y",), {"w": zeros(5, 7)})
    assert GraphCosts(model).of(["n"]) == Cost(None, None, 0)
    assert GraphCosts(model, {"x": (3, 5)}).of(["n"]) == Cost(284, 210, 210)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_nothing_is_claimed_of_what_is_not_known():
    node = helper.make_node("Anything", ["x"], ["y"], "n", domain="elsewhere")
    model = graph([node], {"x": (3, 5)}, ("y",))
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    costs = GraphCosts(model)
    assert costs.of(["n"]) == costs.of([]) == costs.of(["who"]) == Cost(None, None, 0)
    assert costs.weight_bytes(["who"]) is None


def attention() -> onnx.ModelProto:
    groups = (HeadGroup(1, 4, 2), HeadGroup(2, (3, 0), head_offset=1))
    spec = AttentionSpec(head_dim=4, qkv_heads=3, head_groups=groups)
    node = make_attention_node(spec, ["x"], "y", "attention")
    model = graph([node], {"x": (2, 6, 5, 36)}, ("y",))
    model.opset_import.append(helper.make_opsetid("edgeattn", 1))
    return model


def test_an_attention_node():
    # On 6 by 5 tokens windows of 4 make 2·2 of 16 tokens, those of 3 by 5 make 2 of 15.
    pairs = 2 * (1 * 4 * 16**2 + 2 * 2 * 15**2)
    cost = GraphCosts(attention()).of(["attention"])
    assert cost.products == 4 * 4 * pairs
    assert cost.flops == cost.products + 5 * pairs
    assert cost.bytes == 4 * 2 * 30 * (36 + 12)


def test_written_out_attention_has_the_same_products():
    lowered = decompose(attention())
    cost = GraphCosts(lowered).of([node.name for node in lowered.graph.node])
    # The map does not divide: windows of the shifted group reach over its edges, padded alike.
    assert cost.products == GraphCosts(attention()).of(["attention"]).products


def test_a_whole_model_agrees_with_torch(tmp_path):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import edgeattn.models.flops  # noqa: F401  # registers the formula of the operator
    from edgeattn.graph.export import export
    from tests.tiny import INPUT, tiny

    model = tiny()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(INPUT.shape))
    exported = onnx.load(export(model, INPUT, tmp_path / "tiny.onnx", simplify=False))
    costs = GraphCosts(exported)
    products = sum(costs.of([node.name]).products for node in exported.graph.node)
    assert products == counter.get_total_flops()
