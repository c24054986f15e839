"""Small hand-made ONNX graphs, with what they compute in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from edgeattn.artifacts import Manifest
from edgeattn.graph.files import save_graph

OPSET = 20
CLASSES = 3
FEATURES = 5

_rng = np.random.default_rng(7)
WEIGHT = _rng.standard_normal((FEATURES, CLASSES)).astype(np.float32)
BIAS = _rng.standard_normal(CLASSES).astype(np.float32)


def classifier(batch: int | str = "batch", weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    """`logits = x weight + bias`, x `[batch, 5]`, logits `[batch, 3]`."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    return model(
        nodes,
        [_value("x", (batch, FEATURES))],
        [_value("logits", (batch, CLASSES))],
        {"weight": weight, "bias": BIAS},
    )


def logits_of(x: np.ndarray) -> np.ndarray:
    """Compute what `classifier` does, in float64."""
    return x.astype(np.float64) @ WEIGHT.astype(np.float64) + BIAS


def from_text(text: str) -> onnx.ModelProto:
    """Parse ONNX's textual form of a graph: `g (float[N] x) => (float[N] y) { y = Neg(x) }`."""
    graph = parser.parse_graph(text)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def int8_chain(depth: int, width: int = 64, batch: int | str = "batch") -> onnx.ModelProto:
    """Q/DQ, INT8 weight with a scale per channel, MatMul, Gelu, residual, LayerNorm; repeated.

    The input's range is +-3.5 and so is every layer's.
    """
    rng = np.random.default_rng(11)
    weights: dict[str, np.ndarray] = {
        "scale": np.float32(3.5 / 127),
        "zero": np.int8(0),
        "gain": np.ones(width, np.float32),
        "zeros": np.zeros(width, np.int8),
    }
    nodes, x = [], "x"
    for layer in range(depth):
        weight = rng.standard_normal((width, width)) / np.sqrt(width)
        steps = np.abs(weight).max(axis=0) / 127
        weights[f"weight{layer}"] = np.rint(weight / steps).astype(np.int8)
        weights[f"steps{layer}"] = steps.astype(np.float32)
        dequantized = [f"weight{layer}", f"steps{layer}", "zeros"]
        nodes += [
            helper.make_node("QuantizeLinear", [x, "scale", "zero"], [f"q{layer}"]),
            helper.make_node("DequantizeLinear", [f"q{layer}", "scale", "zero"], [f"dq{layer}"]),
            helper.make_node("DequantizeLinear", dequantized, [f"w{layer}"], axis=1),
            helper.make_node("MatMul", [f"dq{layer}", f"w{layer}"], [f"product{layer}"]),
            helper.make_node("Gelu", [f"product{layer}"], [f"gelu{layer}"]),
            helper.make_node("Add", [f"gelu{layer}", x], [f"sum{layer}"]),
            helper.make_node("LayerNormalization", [f"sum{layer}", "gain"], [f"y{layer}"]),
        ]
        x = f"y{layer}"
    return model(nodes, [_value("x", (batch, width))], [_value(x, (batch, width))], weights)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray],
) -> onnx.ModelProto:
    """Put a graph together."""
    initializers = [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("edgeattn", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def save(graph: onnx.ModelProto, path: Path) -> Path:
    """Write a graph as the toolkit does."""
    return save_graph(graph, path, Manifest("graph"))


def _value(name: str, shape: tuple[int | str, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
