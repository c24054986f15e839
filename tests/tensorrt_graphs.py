"""A typed graph as a user would build it for TensorRT: a block with attention and a classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeattn.artifacts import Manifest
from edgeattn.graph.files import save_graph
from edgeattn.graph.op import make_attention_node
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.graphs import model

EXPORTED_SHAPE = (1, 8, 8, 32)
CHANNELS = 32
SPEC = AttentionSpec(
    head_dim=16,
    qkv_heads=2,
    head_groups=(HeadGroup(1, (4, 4), (2, 2)), HeadGroup(1, (8, 8), head_offset=1)),
    has_bias=True,
)


def block(*, dynamic: bool = True, faulty: bool = False) -> onnx.ModelProto:
    """Make `y = head(relu(attention(qkv(x))))`; qkv and attention in INT8, head in FP32.

    Args:
        dynamic: Leave batch, height and width open.
        faulty: Let the head read INT8, with its weight in float: TensorRT computes that in float.
    """
    rng = np.random.default_rng(3)
    weights = {
        "x_scale": np.float32(0.03),
        "qkv_scale": np.float32(0.05),
        "out_scale": np.float32(0.02),
        "zero": np.int8(0),
        "qkv_weight": rng.integers(-127, 128, (CHANNELS, 3 * CHANNELS)).astype(np.int8),
        "qkv_steps": np.full(3 * CHANNELS, 0.001, np.float32),
        "qkv_zeros": np.zeros(3 * CHANNELS, np.int8),
        "head_weight": rng.standard_normal((CHANNELS, 5)).astype(np.float32),
        "bias_table": rng.standard_normal(7 * 7 + 15 * 15).astype(np.float32),
    }
    head_input = "out_rounded" if faulty else "positive"
    nodes = [
        *_rounded("x", "x_scale"),
        helper.make_node(
            "DequantizeLinear", ["qkv_weight", "qkv_steps", "qkv_zeros"], ["w"], "w", axis=1
        ),
        helper.make_node("MatMul", ["x_rounded", "w"], ["qkv"], "qkv/MatMul"),
        *_rounded("qkv", "qkv_scale"),
        make_attention_node(SPEC, ["qkv_rounded", "bias_table"], "out", "attention"),
        *_rounded("out", "out_scale"),
        helper.make_node("Relu", ["out_rounded"], ["positive"], "relu"),
        helper.make_node("MatMul", [head_input, "head_weight"], ["y"], "head/MatMul"),
    ]
    shape = ("batch", "height", "width") if dynamic else EXPORTED_SHAPE[:3]
    return model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (*shape, CHANNELS))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (*shape, 5))],
        weights,
    )


def save(graph: onnx.ModelProto, path: Path, *, exported: bool = True) -> Path:
    """Write a graph as `edgeattn quantize` does.

    Args:
        graph: The graph.
        path: Where.
        exported: Whether the manifest has the shapes of the export, as it has for our own models.
    """
    inputs = [{"name": "x", "dtype": "float32", "shape": list(EXPORTED_SHAPE), "preprocess": None}]
    options = {"precision": "int8", "inputs": inputs} if exported else {"precision": "int8"}
    return save_graph(graph, path, Manifest("graph", options=options))


def _rounded(tensor: str, scale: str) -> list[onnx.NodeProto]:
    integers, rounded = f"{tensor}_int8", f"{tensor}_rounded"
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, "zero"], [integers], f"{tensor}/Q"),
        helper.make_node("DequantizeLinear", [integers, scale, "zero"], [rounded], f"{tensor}/DQ"),
    ]
