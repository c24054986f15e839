"""Printouts of TensorRT's engine inspector, and the graph that one of them is of."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeattn.engine.tensorrt.inspector import EngineInfo, parse_engine_info
from edgeattn.engine.tensorrt.lowering import LoweredAttention, LoweredForTensorRt
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.graph.op import make_attention_node
from edgeattn.spec import AttentionSpec, HeadGroup

FIXTURES = Path(__file__).parent / "fixtures" / "tensorrt"
PRINTOUTS = sorted((FIXTURES / "inspector").glob("*.json"))

QKV, PROJ, HEAD = "/blocks.0/qkv/MatMul", "/blocks.0/proj/MatMul", "/head/Gemm"
ATTENTION = "/blocks.0/attn/MultiScaleWindowAttention"


def text_of(name: str) -> str:
    """Give the text of a printout."""
    return (FIXTURES / "inspector" / f"{name}.json").read_text()


def read(name: str) -> EngineInfo:
    """Read a printout."""
    return parse_engine_info(text_of(name))


def changed(name: str, change: Callable[[list[dict[str, Any]]], None]) -> str:
    """Give the text of a printout after a change to its layers."""
    values = json.loads(text_of(name))
    change(values["Layers"])
    return json.dumps(values)


def layer_of(layers: list[dict[str, Any]], node: str) -> dict[str, Any]:
    """Find the last layer of a printout that a node is named for."""
    return next(each for each in layers[::-1] if f"[ONNX Layer: {node}]" in each["Metadata"])


def window_block() -> LoweredForTensorRt:
    """Make the graph of `window_plugin_int8_10x`: a block with the plugin, and a classifier."""
    spec = AttentionSpec(
        head_dim=32,
        qkv_heads=3,
        head_groups=(HeadGroup(3, (7, 7)),),
        has_bias=True,
        qkv_quant_scale=0.125,
        out_quant_scale=0.25,
    )
    nodes = [
        _q("x", "x_int8", "/blocks.0/qkv/QuantizeLinear"),
        _dq("x_int8", "x_rounded"),
        _dq("qkv_weight", "qkv_weight_half"),
        helper.make_node("MatMul", ["x_rounded", "qkv_weight_half"], ["qkv"], QKV),
        _q("qkv", "qkv_int8", "/blocks.0/attn/QuantizeLinear"),
        make_attention_node(spec, ["qkv_int8", "bias_table"], "attention_int8", ATTENTION),
        _dq("attention_int8", "attention"),
        helper.make_node("Reshape", ["attention", "rows"], ["tokens"], "/blocks.0/Reshape"),
        _dq("proj_weight", "proj_weight_half"),
        helper.make_node("MatMul", ["tokens", "proj_weight_half"], ["projected"], PROJ),
        helper.make_node("Gemm", ["projected", "head_weight"], ["logits"], HEAD),
    ]
    weights = {
        "scale": np.float16(0.125),
        "zero": np.int8(0),
        "qkv_weight": np.ones((96, 288), np.int8),
        "proj_weight": np.ones((96, 96), np.int8),
        "head_weight": np.ones((96, 3), np.float16),
        "bias_table": np.zeros(3 * 169, np.float32),
        "rows": np.array([-1, 96], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "window",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, (1, 56, 56, 96))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, (3136, 3))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    attention = LoweredAttention(
        ATTENTION, False, "plugin", (ATTENTION,), (ATTENTION,), "int8", "int8", ()
    )
    version = TensorRtVersion(10, 3)
    return LoweredForTensorRt(model, version, "plugin", (attention,), (), "int8+fp16")


def in_float(lowered: LoweredForTensorRt, node: str) -> onnx.ModelProto:
    """Take the Q/DQ away from a layer's factors, as a recipe does that keeps it in float."""
    model = copy.deepcopy(lowered.model)
    (product,) = (each for each in model.graph.node if each.name == node)
    _, weight = product.input
    model.graph.initializer.append(
        numpy_helper.from_array(np.ones((96, 96), np.float16), f"{weight}_float")
    )
    product.input[1] = f"{weight}_float"
    return model


def _q(source: str, target: str, name: str) -> onnx.NodeProto:
    return helper.make_node("QuantizeLinear", [source, "scale", "zero"], [target], name)


def _dq(source: str, target: str) -> onnx.NodeProto:
    name = f"/{source}/DequantizeLinear"
    return helper.make_node("DequantizeLinear", [source, "scale", "zero"], [target], name)
