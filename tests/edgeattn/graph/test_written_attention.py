"""Attention that a graph writes out, found as a whole: nodes, sizes, places of Q/DQ."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn.graph.names import name_nodes
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.shapes import infer_types
from edgeattn.graph.written_attention import INT8_PLACES, WrittenAttention, find_written_attention
from tests.quantization import block, floats, unit_scales, with_weights

# Two heads of 16 channels over 9 tokens; the logits are scaled and biased on the way. What makes
# the bias and the values lies on no way between the products, nor does what else reads logits.
WRITTEN = """g (float[1,2,9,16] q, float[1,2,9,16] k, float[1,2,9,16] x, float[2,9,9] far)
    => (float[A,B,C,D] y, float[E,F,G,H] seen) {
    kt = Transpose<perm = [0, 1, 3, 2]>(k)
    raw = MatMul(q, kt)
    scaled = Mul(raw, scale)
    seen = Abs(scaled)
    bias = Neg(far)
    biased = Add(scaled, bias)
    weights = Softmax<axis = -1>(biased)
    kept = Identity(weights)
    v = Tanh(x)
    mixed = MatMul(kept, v)
    y = MatMul(mixed, w)
}"""


def found_in(model: onnx.ModelProto) -> list[WrittenAttention]:
    name_nodes(model.graph)
    return find_written_attention(model, infer_types(model))


def written() -> onnx.ModelProto:
    return with_weights(WRITTEN, {"scale": np.array(0.25, np.float32), "w": floats(16, 16)})


def test_the_nodes_from_the_first_product_to_the_last_belong_to_it() -> None:
    (attention,) = found_in(written())
    assert attention.label == "raw"
    assert attention.nodes == ("raw", "scaled", "biased", "weights", "kept", "mixed")
    assert attention.core == ("raw", "weights", "mixed")
    sizes = (attention.head_size, attention.num_queries, attention.num_keys)
    assert sizes == (16, 9, 9)
    assert attention.query.element == attention.out.element == onnx.TensorProto.FLOAT
    assert attention.places == frozenset()


def test_sizes_that_only_the_run_tells_are_unknown() -> None:
    model = written()
    for value in model.graph.input[:3]:
        value.type.tensor_type.shape.dim[2].dim_param = "tokens"
    (attention,) = found_in(model)
    assert (attention.head_size, attention.num_queries, attention.num_keys) == (16, None, None)


def test_a_graph_without_attention_has_none() -> None:
    assert found_in(with_weights("g (float[2] x) => (float[2] y) { y = Softmax(x) }", {})) == []


@pytest.mark.parametrize(("recipe", "places"), [("attention", set(INT8_PLACES)), ("linear", set())])
def test_places_in_int8_are_those_that_q_and_dq_stand_at(recipe: str, places: set[str]) -> None:
    model = block()
    model, _ = insert_qdq(model, unit_scales(model, 0.05, recipe), recipe)
    (attention,) = found_in(model)
    # The output of a block goes to a layer in INT8 whatever the recipe.
    assert attention.places == places | {"output"}


def test_q_and_dq_between_the_products_belong_to_it() -> None:
    model = block()
    model, _ = insert_qdq(model, unit_scales(model, 0.05, "attention"), "attention")
    (attention,) = found_in(model)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert [kinds[name] for name in attention.nodes] == [
        "MatMul", "Softmax", "QuantizeLinear", "DequantizeLinear", "MatMul"
    ]  # fmt: skip
    assert [kinds[name] for name in attention.core] == ["MatMul", "Softmax", "MatMul"]
