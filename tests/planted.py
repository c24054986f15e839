"""A small classifier with one layer that INT8 ruins."""

from __future__ import annotations

import numpy as np
import onnx

from tests.quantization import with_weights

FEATURES, CLASSES = 12, 5
LAYERS = ("first", "planted", "third", "y")

_TEXT = """
g (float[N,12] x) => (float[N,5] y) {
    first = MatMul(x, w1)
    bounded = Tanh(first)
    wide = Mul(bounded, spread)
    planted = MatMul(wide, w2)
    active = Relu(planted)
    third = MatMul(active, w3)
    smooth = Tanh(third)
    y = MatMul(smooth, w4)
}
"""


def planted() -> onnx.ModelProto:
    """One channel of `planted`'s input is 3,000 times the others, and next to nothing reads it."""
    rng = np.random.default_rng(23)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) * 0.5
        for name, shape in (("w1", (12, 12)), ("w2", (12, 12)), ("w3", (12, 12)), ("w4", (12, 5)))
    }
    spread = np.ones(12, np.float32)
    spread[4] = 3000
    weights["w2"][4] *= 1e-5
    return with_weights(_TEXT, weights | {"spread": spread})


def samples(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, FEATURES)).astype(np.float32)
