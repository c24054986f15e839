"""Graphs to quantize, and what quantized linear layers compute, in float64 from the definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from edgeattn.graph.placement import Recipe, place_qdq
from tests.graphs import from_text

Rounding = Callable[[str, np.ndarray], np.ndarray]

# A transformer block as exporters write it: three layers share an input, a residual path skips
# them, attention is two products of activations, the second half runs on reshaped rows.
BLOCK = """
g (float[batch,4,8] x) => (float[batch,4,8] y) {
    norm = LayerNormalization<axis = -1>(x, gain, shift)
    q = MatMul(norm, wq)
    k = MatMul(norm, wk)
    v = MatMul(norm, wv)
    kt = Transpose<perm = [0, 2, 1]>(k)
    logits = MatMul(q, kt)
    probabilities = Softmax(logits)
    mixed = MatMul(probabilities, v)
    projected = MatMul(mixed, wo)
    biased = Add(projected, bo)
    sum = Add(x, biased)
    flat = Reshape(sum, rows)
    hidden = Gemm<transB = 1>(flat, w1, b1)
    active = Relu(hidden)
    out = Gemm(active, w2, b2)
    back = Reshape(out, tokens)
    y = Add(sum, back)
}
"""


def block_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 8), "bo": (8,)} | {
        "w1": (16, 8), "b1": (16,), "w2": (16, 8), "b2": (8,)
    }  # fmt: skip
    weights = {n: rng.standard_normal(s).astype(np.float32) * 0.5 for n, s in shapes.items()}
    constants = {"gain": np.linspace(0.5, 2, 8), "shift": np.linspace(-1, 1, 8)}
    weights |= {name: array.astype(np.float32) for name, array in constants.items()}
    return weights | {"rows": np.array([-1, 8]), "tokens": np.array([-1, 4, 8])}


def floats(*shape: int) -> np.ndarray:
    """Draw normal numbers: the same for the same shape, whichever tests run."""
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def block() -> onnx.ModelProto:
    return with_weights(BLOCK, block_weights())


def with_weights(text: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Parse a graph and give it initializers."""
    model = from_text(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    return model


def run_block(
    x: np.ndarray,
    weights: dict[str, np.ndarray],
    activation: Rounding,
    weight: Rounding,
    recipe: str = "linear",
) -> np.ndarray:
    """Compute `BLOCK` in float64, rounding by the given functions what the recipe says."""
    product = activation if recipe != "linear" else as_is
    skip = activation if recipe == "full" else as_is
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    x = x.astype(np.float64)
    centred = x - x.mean(axis=-1, keepdims=True)
    norm = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-5)
    norm = activation("norm", norm * w["gain"] + w["shift"])
    q, k, v = (norm @ weight(name, w[name]) for name in ("wq", "wk", "wv"))
    logits = product("q", q) @ product("k", k).swapaxes(1, 2)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = powers / powers.sum(axis=-1, keepdims=True)
    mixed = product("probabilities", probabilities) @ product("v", v)
    total = skip("x", x) + activation("mixed", mixed) @ weight("wo", w["wo"]) + w["bo"]
    hidden = activation("sum", total).reshape(-1, 8) @ weight("w1", w["w1"].T) + w["b1"]
    out = activation("active", np.maximum(hidden, 0)) @ weight("w2", w["w2"]) + w["b2"]
    return skip("sum", total) + out.reshape(total.shape)


def as_is(name: str, values: np.ndarray) -> np.ndarray:
    return values


def fake_quantized(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Round to INT8 and back: clamp to [-128, 127], halves to even."""
    return np.clip(np.rint(values / scale), -128, 127) * scale


def fake_quantized_matrix(name: str, values: np.ndarray) -> np.ndarray:
    """Round a `[K, N]` weight with one scale per column."""
    amax = np.abs(values).max(axis=0)
    return fake_quantized(values, (amax / 127).astype(np.float32).astype(np.float64))


def observed_amax(run: Callable[[Rounding], np.ndarray]) -> dict[str, float]:
    """Run and note the largest magnitude of each tensor that would be rounded."""
    amax: dict[str, float] = {}

    def note(name: str, values: np.ndarray) -> np.ndarray:
        amax[name] = float(np.float32(np.abs(values).max()))
        return values

    run(note)
    return amax


def unit_scales(
    model: onnx.ModelProto, scale: float = 0.05, recipe: Recipe = "linear"
) -> dict[str, float]:
    """Give every activation that needs one the same scale."""
    return dict.fromkeys(place_qdq(model, recipe).activations, scale)
