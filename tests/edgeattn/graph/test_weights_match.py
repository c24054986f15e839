"""Weights are recognized through rounding; others are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.weights_match import other_weights
from tests.quantization import block, block_weights, floats, unit_scales, with_weights

ALL = ["wq", "wk", "wv", "wo", "w1", "w2"]


def with_values(model: onnx.ModelProto, **values: np.ndarray) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return changed


def test_a_graph_has_its_own_weights():
    assert other_weights(block(), block()) == ([], 6)


def test_rounded_weights_are_the_same():
    quantized, _ = insert_qdq(block(), unit_scales(block()))
    assert other_weights(block(), quantized) == ([], 6)


def test_four_bits_are_the_same():
    weights = block_weights()
    steps = {name: np.abs(weights[name]).max() / 7 for name in ALL}
    rounded = {n: np.rint(weights[n] / s).astype(np.float32) * s for n, s in steps.items()}
    assert other_weights(block(), with_values(block(), **rounded)) == ([], 6)


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_another_training_are_named(seed):
    rng = np.random.default_rng(seed)
    drawn = {n: rng.permutation(block_weights()[n].ravel()) for n in ("wk", "w2")}
    other = {n: values.reshape(block_weights()[n].shape) for n, values in drawn.items()}
    assert other_weights(block(), with_values(block(), **other)) == (["wk", "w2"], 6)


def test_channels_that_were_balanced_are_others():
    """Scales of balanced activations would not fit the graph that was not balanced."""
    factors = np.float32(2) ** np.arange(-4, 4)
    balanced = block_weights()["wq"] * factors[:, None]
    assert other_weights(block(), with_values(block(), wq=balanced)) == (["wq"], 6)


def test_a_weight_may_be_stored_the_other_way_round():
    weight = floats(6, 4)
    model = with_weights("g (float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": weight})
    turned = with_weights(
        "g (float[N,6] x) => (float[N,4] y) { y = Gemm<transB = 1>(x, w) }",
        {"w": np.ascontiguousarray(weight.T)},
    )
    assert other_weights(model, turned) == ([], 1)
    assert other_weights(turned, model) == ([], 1)
    square = floats(6, 6)
    model = with_weights("g (float[N,6] x) => (float[N,6] y) { y = MatMul(x, w) }", {"w": square})
    assert other_weights(model, with_values(model, w=square.T.copy())) == ([], 1)


def test_nodes_of_other_outputs_and_weights_of_other_shapes_are_not_compared():
    model = with_weights(
        "g (float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": floats(6, 4)}
    )
    renamed = with_weights(
        "g (float[N,6] x) => (float[N,4] z) { z = MatMul(x, w) }", {"w": floats(6, 4)}
    )
    assert other_weights(model, renamed) == ([], 0)
    assert other_weights(model, with_values(model, w=floats(6, 5))) == ([], 0)
    plain = helper.make_model(renamed.graph, opset_imports=model.opset_import)
    del plain.graph.node[:]
    assert other_weights(model, plain) == ([], 0)
