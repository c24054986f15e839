"""Lower attention for a TensorRT without the plugin: in the form that its own fusion takes.

Attention nodes become standard operators, and attention that the graph already writes out stays
so. Where TensorRT can fuse it in INT8 there are Q/DQ before the product of queries and keys, after
the softmax and after the product with the values; where it cannot, the products are in float.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx

from edgeattn.graph.attention_products import AttentionProduct, AttentionProducts
from edgeattn.graph.constants import Constants, drop_orphans, used_names
from edgeattn.graph.fused_mha import int8_group_obstacle, int8_mha_obstacle
from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import node_label
from edgeattn.graph.op import attention_nodes, spec_of_node
from edgeattn.graph.passes.decompose import decompose_groups
from edgeattn.graph.passes.fold_qdq import fold_attention_qdq
from edgeattn.graph.placement import Decision
from edgeattn.graph.qdq_pairs import QdqPairs, replay
from edgeattn.graph.shapes import TensorType, infer_types
from edgeattn.graph.standard_attention import AttentionForm, DecomposedGroup


class LoweredMha(NamedTuple):
    """A graph without attention nodes, and what became of its attention.

    Attributes:
        model: The graph.
        groups: Each head group of each attention node.
        decisions: For each of these, then for each quantized attention that the graph writes out,
            whether its products are in INT8, and why not.
    """

    model: onnx.ModelProto
    groups: list[DecomposedGroup]
    decisions: list[Decision]


def lower_int8_mha(
    model: onnx.ModelProto, float_element: int = onnx.TensorProto.FLOAT
) -> LoweredMha:
    """Rewrite attention for TensorRT's own fusion.

    Args:
        model: A graph, quantized or not; not changed.
        float_element: Type of the products of INT8 attention that cannot be fused in INT8.

    Raises:
        GraphError: If an attention node is malformed.
    """
    folded, written = release_written_int8(fold_attention_qdq(model))
    decisions = _decide_nodes(folded, infer_types(folded))
    form = AttentionForm("fused_mha", int8_products=True, float_element=float_element)
    lowered, groups = decompose_groups(folded, form)
    return LoweredMha(lowered, groups, decisions + written)


def release_written_int8(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Take Q/DQ away from the products of attention that TensorRT could not fuse in INT8.

    Args:
        model: A graph; attention that it writes out is looked at, its attention nodes are not. Not
            changed.

    Returns:
        A new graph, or the same if nothing is to be taken away; and what was decided for each
        quantized attention that it writes out.
    """
    types = infer_types(model)
    decided = _Written(model, types).decide()
    decisions = [decision for _, decision in decided]
    refused = [product for product, decision in decided if not decision.quantized]
    if not refused:
        return model, decisions
    released = onnx.ModelProto()
    released.CopyFrom(model)
    _Written(released, types).release(refused)
    return released, decisions


def _decide_nodes(model: onnx.ModelProto, types: dict[str, TensorType]) -> list[Decision]:
    decisions = []
    for node in attention_nodes(model):
        spec = spec_of_node(node)
        _, height, width, _ = _sizes(types, node.input[0], rank=4)
        for number, group in enumerate(spec.head_groups):
            obstacle = int8_group_obstacle(spec, group, height, width)
            name = f"{node_label(node)}, group {number}"
            decisions.append(_decide(name, node, obstacle))
    return decisions


def _decide(name: str, node: onnx.NodeProto, obstacle: str) -> Decision:
    reason = obstacle or "its products are in INT8, within the limits of TensorRT's fusion"
    return Decision(name, node.op_type, node.input[0], not obstacle, reason)


def _sizes(types: dict[str, TensorType], tensor: str, rank: int) -> Sequence[int | None]:
    """Give the last sizes of a tensor; `None` for each that is not known."""
    found = types.get(tensor)
    shape = found.shape if found else None
    if shape is None or len(shape) < rank:
        return [None] * rank
    return [size if isinstance(size, int) else None for size in shape[-rank:]]


class _Written:
    """Attention that a graph writes out.

    Args:
        model: Changed in place by `release`.
        types: Of its tensors.
    """

    def __init__(self, model: onnx.ModelProto, types: dict[str, TensorType]) -> None:
        self._model = model
        self._types = types
        self._pairs = QdqPairs(model)
        self._names = FreshNames(model.graph)

    def decide(self) -> list[tuple[AttentionProduct, Decision]]:
        """Find the quantized attention, and say of each whether TensorRT could fuse it."""
        nodes = self._model.graph.node
        decided = []
        for product in AttentionProducts(self._model.graph, Constants(self._model)).found:
            places = (*product.logits, *product.outputs)
            if any(self._pairs.origin(name) for i in places for name in nodes[i].input):
                first = nodes[product.logits[0]]
                decision = _decide(node_label(first), first, self._obstacle(product))
                decided.append((product, decision))
        return decided

    def release(self, products: Sequence[AttentionProduct]) -> None:
        """Take the Q/DQ away from before products."""
        graph = self._model.graph
        nodes = list(graph.node)
        used_before = used_names(graph)
        places = {i for product in products for i in (*product.logits, *product.outputs)}
        added = {i: self._read_unrounded(nodes[i]) for i in sorted(places)}
        rewritten = [part for i, node in enumerate(nodes) for part in (*added.get(i, ()), node)]
        del graph.node[:]
        graph.node.extend(rewritten)
        drop_orphans(self._model, used_before)

    def _obstacle(self, product: AttentionProduct) -> str:
        for place in product.logits:
            query, key = self._model.graph.node[place].input
            num_queries, head_size = _sizes(self._types, query, rank=2)
            _, num_keys = _sizes(self._types, key, rank=2)
            obstacle = int8_mha_obstacle(head_size, num_queries, num_keys)
            if obstacle:
                return obstacle
        return ""

    def _read_unrounded(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Let a node read the tensors that its inputs were rounded from."""
        added = []
        for slot, name in enumerate(node.input):
            origin = self._pairs.origin(name)
            source = self._pairs.unrounded(origin.integers) if origin else None
            if origin and source:
                moves, node.input[slot] = replay(origin.moves, source, "_float", self._names)
                added += moves
        return added
