"""A sound graph for every question of `check`, and faults to plant in it one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.op import make_attention_node
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.graphs import model

CHANNELS = 32
SPEC = AttentionSpec(
    head_dim=16,
    qkv_heads=2,
    head_groups=(HeadGroup(1, (4, 4), (2, 2)), HeadGroup(1, (8, 8), head_offset=1)),
    has_bias=True,
)

Change = Callable[[onnx.ModelProto], None]


def sound() -> onnx.ModelProto:
    """Make `y = head(relu(attention(qkv(norm(x)))))` over maps of 8 x 8 tokens, in float32."""
    rng = np.random.default_rng(3)
    weights = {
        "gain": np.ones(CHANNELS, np.float32),
        "shift": np.zeros(CHANNELS, np.float32),
        "qkv_weight": rng.standard_normal((CHANNELS, 3 * CHANNELS)).astype(np.float32),
        "head_weight": rng.standard_normal((CHANNELS, 5)).astype(np.float32),
        "bias_table": rng.standard_normal(7 * 7 + 15 * 15).astype(np.float32),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["normal"], "norm"),
        helper.make_node("MatMul", ["normal", "qkv_weight"], ["qkv"], "qkv/MatMul"),
        make_attention_node(SPEC, ["qkv", "bias_table"], "mixed", "attention"),
        helper.make_node("Relu", ["mixed"], ["positive"], "relu"),
        helper.make_node("MatMul", ["positive", "head_weight"], ["y"], "head/MatMul"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 8, CHANNELS))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 8, 5))
    return model(nodes, [x], [y], weights)


def between(*nodes: onnx.NodeProto, **weights: np.ndarray) -> Change:
    """Plant nodes between `positive` and the head: they read `positive` and give `planted`."""

    def change(graph: onnx.ModelProto) -> None:
        old = list(graph.graph.node)
        del graph.graph.node[:]
        old[-1].input[0] = "planted"
        graph.graph.node.extend([*old[:-1], *nodes, old[-1]])
        graph.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()
        )

    return change


def there_and_back(element: int, name: str = "there") -> Change:
    """Cast to a type and back."""
    return between(
        helper.make_node("Cast", ["positive"], ["inner"], name, to=element),
        helper.make_node("Cast", ["inner"], ["planted"], "back", to=TensorProto.FLOAT),
    )


def set_opset(version: int) -> Change:
    def change(graph: onnx.ModelProto) -> None:
        graph.opset_import[0].version = version

    return change


def free_the_batch(graph: onnx.ModelProto) -> None:
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def forget_the_head_dim(graph: onnx.ModelProto) -> None:
    (node,) = (n for n in graph.graph.node if n.name == "attention")
    kept = [a for a in node.attribute if a.name != "head_dim"]
    del node.attribute[:]
    node.attribute.extend(kept)


def break_a_weight(graph: onnx.ModelProto) -> None:
    (tensor,) = (t for t in graph.graph.initializer if t.name == "head_weight")
    values = numpy_helper.to_array(tensor).copy()
    values[3, 1] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def take_the_norm_apart(graph: onnx.ModelProto) -> None:
    """Write LayerNormalization as exporters did before opset 17."""
    old = list(graph.graph.node)
    del graph.graph.node[:]
    last, two, epsilon = (
        np.array([-1]),
        np.array(2, np.float32),
        np.array(1e-5, np.float32),
    )
    graph.graph.initializer.extend(
        numpy_helper.from_array(array, name)
        for name, array in (("last", last), ("two", two), ("epsilon", epsilon))
    )
    graph.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["x", "last"], ["mean"], "mean"),
            helper.make_node("Sub", ["x", "mean"], ["centred"], "sub"),
            helper.make_node("Pow", ["centred", "two"], ["squares"], "square"),
            helper.make_node("ReduceMean", ["squares", "last"], ["variance"], "variance"),
            helper.make_node("Add", ["variance", "epsilon"], ["padded"], "add"),
            helper.make_node("Sqrt", ["padded"], ["deviation"], "sqrt"),
            helper.make_node("Div", ["centred", "deviation"], ["ratio"], "div"),
            helper.make_node("Mul", ["ratio", "gain"], ["scaled"], "scale"),
            helper.make_node("Add", ["scaled", "shift"], ["normal"], "shift_it"),
            *old[1:],
        ]
    )


def rounded(zero_point: np.ndarray, *, weight: bool = True) -> Change:
    """Round what the head reads, and its weight too, to the type of a zero point."""

    def change(graph: onnx.ModelProto) -> None:
        between(
            helper.make_node("QuantizeLinear", ["positive", "step", "zero"], ["integers"], "q"),
            helper.make_node("DequantizeLinear", ["integers", "step", "zero"], ["planted"], "dq"),
            step=np.float32(0.05),
            zero=zero_point,
        )(graph)
        if not weight:
            return
        head = graph.graph.node[-1]
        read = helper.make_node(
            "DequantizeLinear", ["rounded_head", "steps", "zeros"], ["head"], "head/DQ", axis=1
        )
        head.input[1] = "head"
        graph.graph.node.insert(0, read)
        steps = {
            "rounded_head": np.ones((CHANNELS, 5), np.int8),
            "steps": np.full(5, 0.01, np.float32),
            "zeros": np.zeros(5, np.int8),
        }
        graph.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in steps.items()
        )

    return change


def in_fp8(graph: onnx.ModelProto) -> None:
    """Round what the head reads to FP8."""
    between(
        helper.make_node("QuantizeLinear", ["positive", "step", "zero"], ["eighths"], "q"),
        helper.make_node("DequantizeLinear", ["eighths", "step", "zero"], ["planted"], "dq"),
        step=np.float32(0.05),
    )(graph)
    zero = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True)
    graph.graph.initializer.append(zero)


@dataclass(frozen=True)
class Planted:
    """A fault, and everything that `check` is to say of it, notes aside.

    Attributes:
        change: Plants it.
        found: Level, topic, node and what the reason holds, of each finding.
        arguments: Of `check_graph`.
        request: Of `TensorRtRequest`, beside the board.
    """

    change: Change
    found: tuple[tuple[str, str, str, str], ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)


def _int64_product() -> Change:
    return between(
        helper.make_node("Cast", ["positive"], ["whole"], "there", to=TensorProto.INT64),
        helper.make_node("MatMul", ["whole", "square"], ["product"], "product"),
        helper.make_node("Cast", ["product"], ["planted"], "back", to=TensorProto.FLOAT),
        square=np.eye(CHANNELS, dtype=np.int64),
    )


def _foreign(node: onnx.NodeProto) -> Change:
    def change(graph: onnx.ModelProto) -> None:
        between(node)(graph)
        graph.opset_import.append(helper.make_opsetid(node.domain, 1))

    return change


def _nine_axes() -> Change:
    return between(
        helper.make_node("Reshape", ["positive", "many"], ["folded"], "fold"),
        helper.make_node("Reshape", ["folded", "few"], ["planted"], "unfold"),
        many=np.array([1, 2, 2, 2, 2, 2, 2, 4, 8]),
        few=np.array([1, 8, 8, CHANNELS]),
    )


def _in_a_branch() -> Change:
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Bernoulli")):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8, 8, CHANNELS))
        body = [helper.make_node(op, ["positive"], [name], f"inner {op}")]
        branches[name] = helper.make_graph(body, name, [], [out])
    return between(helper.make_node("If", ["always"], ["planted"], "choice", **branches),
                   always=np.array(True))  # fmt: skip


PLANTED: dict[str, Planted] = {
    "an operator that TensorRT does not have": Planted(
        between(helper.make_node("Bernoulli", ["positive"], ["planted"], "chance")),
        (("error", "operator", "chance", "TensorRT has no Bernoulli"),),
    ),
    "an operator that a later TensorRT has": Planted(
        between(
            helper.make_node("BlackmanWindow", ["count"], ["window"], "window"),
            helper.make_node("Mul", ["positive", "window"], ["planted"], "weigh"),
            count=np.array(CHANNELS),
        ),
        (("error", "operator", "window", "from 10.4 on, not in 10.3.0.30"),),
    ),
    "an operator in the branch of an If": Planted(
        _in_a_branch(),
        (("error", "operator", "choice", "its body has inner Bernoulli: TensorRT has no"),),
    ),
    "an operator of another domain": Planted(
        _foreign(helper.make_node("Magic", ["positive"], ["planted"], "magic", domain="mine")),
        (("error", "operator", "magic", "mine::Magic is no ONNX operator"),),
    ),
    "a mode that TensorRT does not have": Planted(
        between(
            helper.make_node(
                "Resize", ["positive", "", "scales"], ["planted"], "resize", mode="cubic"
            ),
            scales=np.ones(4, np.float32),
        ),
        (("error", "operator", "resize", "its mode is cubic; TensorRT takes nearest, linear"),),
    ),
    "a product of integers": Planted(
        _int64_product(),
        (("error", "type", "product", "whole in INT64; TensorRT takes FP32, FP16, BF16"),),
    ),
    "a type that TensorRT does not have": Planted(
        there_and_back(TensorProto.INT16),
        (("error", "type", "there", "it gives int16, a type that TensorRT does not have"),),
    ),
    "float64": Planted(
        there_and_back(TensorProto.DOUBLE),
        (("warning", "type", "there", "float64, which TensorRT computes in float32"),),
    ),
    "too many axes": Planted(
        _nine_axes(), (("error", "type", "fold", "9 axes; TensorRT has at most 8"),)
    ),
    "an opset that is too new": Planted(
        set_opset(21), (("warning", "opset", "", "opset 21; TensorRT 10.3.0.30 is documented"),)
    ),
    "uint8 inside": Planted(
        there_and_back(TensorProto.UINT8),
        (("error", "UINT8", "there", "inner is uint8 inside the network"),),
    ),
    "an attribute of 33 bits": Planted(
        _foreign(
            helper.make_node(
                "Magic", ["positive"], ["planted"], "magic", domain="mine", seed=1 << 32
            )
        ),
        (
            ("error", "operator", "magic", "needs a plugin of that name"),
            ("error", "INT64", "magic", "its attribute seed holds 4294967296"),
        ),
    ),
    "a free size without a range": Planted(
        free_the_batch,
        (("error", "shapes", "", "x has the free dimension batch, and no range of shapes"),),
    ),
    "FP8 on a board without it": Planted(
        in_fp8, (("error", "precision", "q", "it is in FP8, which sm_87 has no arithmetic for"),)
    ),
    "a zero point": Planted(
        rounded(np.int8(3), weight=False),
        (
            ("error", "quantization", "q", "its zero point is not zero"),
            ("error", "quantization", "dq", "its zero point is not zero"),
            ("warning", "quantization", "head/MatMul", "planted is INT8 and head_weight is not"),
        ),
    ),
    "a product of INT8 and float": Planted(
        rounded(np.int8(0), weight=False),
        (("warning", "quantization", "head/MatMul", "so it computes in float"),),
    ),
    "attention in float32 for TensorRT to fuse": Planted(
        lambda graph: None,
        (
            ("warning", "attention", "attention, group 0", "its products are in float32"),
            ("warning", "attention", "attention, group 1", "its products are in float32"),
        ),
        request={"attention": "native"},
    ),
    "attention that is malformed": Planted(
        forget_the_head_dim, (("error", "attention", "attention", "head_dim"),)
    ),
    "NaN in a weight": Planted(
        break_a_weight, (("error", "weights", "", "head_weight holds 1 NaN of 160 values"),)
    ),
    "LayerNorm in pieces": Planted(
        take_the_norm_apart,
        (("warning", "LayerNorm", "div", "a LayerNorm that is written out in single operators"),),
    ),
    "a module that is too small to build on": Planted(
        lambda graph: None,
        (("warning", "memory", "", "building on a board with 2 GiB"),),
        arguments={"module_gib": 2},
    ),
}
