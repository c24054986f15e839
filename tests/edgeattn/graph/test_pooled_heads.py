"""The output layer on pooled features stays in float, however it is written; no other does."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn.graph.placement import RECIPES, place_qdq
from edgeattn.graph.pooled_heads import POOLED_HEAD
from tests.quantization import floats, with_weights

# 4 channels, averaged over 6 positions, and 3 classes.
GRAPH = "g (float[2,6,4] x) => (float[A,B] y) {{ h = MatMul(x, w) r = Relu(h) {} }}"
WEIGHTS = {
    "w": floats(4, 4),
    "v": floats(4, 3),
    "k": floats(3, 4, 1, 1),
    "bias": floats(3),
    "one": np.array([1], np.int64),
    "flat": np.array([2, 4], np.int64),
    "row": np.array([2, 3], np.int64),
    "line": np.array([8], np.int64),
    "every": np.arange(8),
    "some": np.array([0, 2, 1], np.int64),
}
MEAN = "m = ReduceMean<keepdims = 0>(r, one)"
POOL = "t = Transpose<perm = [0, 2, 1]>(r) p = GlobalAveragePool(t) m = Reshape(p, flat)"
HEADS = {
    "of a mean": f"{MEAN} y = Gemm(m, v, bias)",
    "flattened as torch does it": "t = ReduceMean<keepdims = 1>(r, one) f = Reshape(t, line) "
    "e = Gather<axis = 0>(f, every) m = Reshape(e, flat) y = Gemm(m, v, bias)",
    "with its bias apart": f"{MEAN} a = MatMul(m, v) y = Add(a, bias)",
    "of a pooling": f"{POOL} y = Gemm(m, v)",
    "with probabilities": f"{MEAN} a = MatMul(m, v) b = Add(bias, a) y = Softmax(b)",
    "that is a convolution": "t = Transpose<perm = [0, 2, 1]>(r) p = GlobalAveragePool(t) "
    "q = Unsqueeze(p, one) s = Transpose<perm = [0, 2, 1, 3]>(q) c = Conv(s, k) "
    "y = Reshape(c, row)",
}
OTHERS = {
    "nothing is pooled": "f = Flatten<axis = 2>(r) y = MatMul(f, v)",
    "positions are picked": "e = Gather<axis = 1>(r, some) y = MatMul(e, v)",
    "a layer follows": f"{MEAN} a = MatMul(m, w) b = Relu(a) y = MatMul(b, v)",
    "activations are scaled with it": f"{MEAN} a = MatMul(m, w) s = Sigmoid(a) y = Mul(s, m)",
    "its result is used twice": f"{MEAN} a = MatMul(m, w) b = Relu(a) y = Add(a, b)",
    "what was pooled went through a function": f"{MEAN} e = Relu(m) y = MatMul(e, v)",
}


def float_heads(text: str, recipe: str) -> list[str]:
    """Reasons of the layers after the first one that stay in float."""
    placement = place_qdq(with_weights(GRAPH.format(text), WEIGHTS), recipe)
    decisions = [d for each in placement.floats.values() for d in each]
    return [d.reason for d in decisions if d.op_type in ("Conv", "Gemm", "MatMul")]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("text", HEADS.values(), ids=HEADS)
def test_a_head_on_pooled_features_stays_in_float(text, recipe):
    assert float_heads(text, recipe) == [POOLED_HEAD, POOLED_HEAD]  # features and weight


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_other_layers_are_quantized(text):
    assert float_heads(text, "linear") == []


def test_the_layer_before_the_pooling_is_quantized():
    model = with_weights(GRAPH.format(HEADS["of a mean"]), WEIGHTS)
    assert place_qdq(model, "full").activations == ("x",)
