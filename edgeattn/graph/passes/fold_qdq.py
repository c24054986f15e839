"""Fold the Q/DQ around attention into the node: its INT8 form.

    DequantizeLinear -> attention -> QuantizeLinear     becomes     attention, INT8 in and out

What it computes changes in one place: padded tokens' keys and values are rounded to the steps of
`qkv`, as every other token's are (docs/operator.md, The INT8 form).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import onnx

from edgeattn.graph.constants import drop_orphans, subgraphs, used_names
from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.op import is_attention, make_attention_node, spec_of_node
from edgeattn.graph.qdq_pairs import Dequantized, QdqPairs, replay


def fold_attention_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give attention nodes INT8 in place of the DequantizeLinear before and the Q after them.

    A node is folded if its `qkv` is dequantized by one constant scale, moved at most in between,
    and a QuantizeLinear is all that reads its output. Others stay as they are: INT8 on one side
    only would change the type of the other.

    Args:
        model: A quantized graph; not changed.

    Returns:
        A new graph.

    Raises:
        GraphError: If an attention node is malformed.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    used_before = used_names(graph)
    folds, names = _find_folds(folded), FreshNames(graph)
    absorbed = {fold.quantize.output[0] for fold in folds.values()}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        fold = folds.get(node.output[0]) if is_attention(node) else None
        if fold:
            nodes += _fold(node, fold, names)
        elif node.output[0] not in absorbed:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_orphans(folded, used_before)
    return folded


@dataclass(frozen=True)
class _Fold:
    """What goes into an attention node.

    Attributes:
        qkv: Its INT8 input.
        quantize: The QuantizeLinear that reads its output.
        out_quant_scale: That one's scale.
    """

    qkv: Dequantized
    quantize: onnx.NodeProto
    out_quant_scale: float


def _find_folds(model: onnx.ModelProto) -> dict[str, _Fold]:
    """Find the attention nodes that can be folded, by their output."""
    pairs = QdqPairs(model)
    graph = model.graph
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    elsewhere = {value.name for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
        for body in subgraphs(node):
            elsewhere |= used_names(body)
    folds = {}
    for node in graph.node:
        if not is_attention(node) or spec_of_node(node).qkv_quant_scale:
            continue
        qkv, (output,) = pairs.origin(node.input[0]), node.output
        if qkv is None or output in elsewhere or len(readers[output]) != 1:
            continue
        (quantize,) = readers[output]
        scale = pairs.quant_scale(quantize) if is_standard(quantize, "QuantizeLinear") else None
        if scale:
            folds[output] = _Fold(qkv, quantize, scale)
    return folds


def _fold(node: onnx.NodeProto, fold: _Fold, names: FreshNames) -> list[onnx.NodeProto]:
    moves, qkv = replay(fold.qkv.moves, fold.qkv.integers, "_int8", names)
    spec = replace(
        spec_of_node(node),
        qkv_quant_scale=fold.qkv.quant_scale,
        out_quant_scale=fold.out_quant_scale,
    )
    inputs = [qkv, *node.input[1:]]
    attention = make_attention_node(spec, inputs, fold.quantize.output[0], node.name)
    attention.metadata_props.extend(node.metadata_props)
    return [*moves, attention]
