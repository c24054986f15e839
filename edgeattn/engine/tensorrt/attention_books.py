"""The books on a lowered graph's attention: which nodes compute it, and what is against fusing it.

A built engine is held to them: the audit looks up in which of its layers the nodes ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx
from onnx import TensorProto, helper

from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.graph.fused_mha import (
    NOT_HALF,
    NOT_INT8,
    half_group_obstacle,
    half_mha_obstacle,
    int8_mha_obstacle,
)
from edgeattn.graph.half_types import HALF_TYPES
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.op import attention_nodes, spec_of_node
from edgeattn.graph.passes.pad_heads import PaddedHeads, UnfitHeads
from edgeattn.graph.qdq_pairs import QdqPairs
from edgeattn.graph.shapes import TensorType
from edgeattn.graph.standard_attention import DecomposedGroup
from edgeattn.graph.written_attention import INT8_PLACES, WrittenAttention, find_written_attention

AttentionWay = Literal["plugin", "native", "attention"]

PLUGIN_FLOAT = "float16"  # what the plugin gives for INT8 where no scale follows

_HALF_NAMES: dict[int, str] = {element: name for name, element in HALF_TYPES.items()}


@dataclass(frozen=True)
class LoweredAttention:
    """One attention of a graph: an attention node, one of its head groups, or a written-out one.

    Attributes:
        name: Label of the node in the source graph, with `, group N` behind it where a node of
            several head groups became standard operators; of written-out attention the label of
            its first product.
        written: Whether the graph wrote it out; it had no node of ours then.
        way: `plugin`: one node of ours; `native`: standard operators; `attention`: ONNX's Attention
            and what leads to it.
        nodes: Names of the lowered graph's nodes that compute it; those that serve several head
            groups are in each.
        core: Of these the ones that must share one layer of the engine to count as fused: products
            and softmax, or the one node.
        in_type: Type of its input in the lowered graph, as numpy calls it; empty if unknown.
        out_type: Likewise of its output.
        obstacles: What TensorRT's own fused attention has against it, in words; empty if nothing
            stands against it, and where the plugin computes it.
        asks_int8: Whether the source graph has it in INT8, whatever it was lowered to.
        padded: How its heads were padded for the plugin; `None` if they were not.
    """

    name: str
    written: bool
    way: AttentionWay
    nodes: tuple[str, ...]
    core: tuple[str, ...]
    in_type: str
    out_type: str
    obstacles: tuple[str, ...]
    asks_int8: bool = False
    padded: PaddedHeads | None = None


@dataclass(frozen=True)
class Rewritten:
    """A graph whose attention went one of the ways.

    Attributes:
        model: The graph.
        groups: Head groups that became standard operators.
        reasons: Why attention that was to be in INT8 is not, by the label of written-out attention
            or by the name of a group.
        padded: Heads that were padded for the plugin, by their node's name.
        unfit: Heads that the plugin does not take and that could not be padded.
    """

    model: onnx.ModelProto
    groups: list[DecomposedGroup]
    reasons: dict[str, str]
    padded: Mapping[str, PaddedHeads] = field(default_factory=dict)
    unfit: tuple[UnfitHeads, ...] = ()


def group_name(group: DecomposedGroup) -> str:
    """Name a head group as `LoweredAttention.name` does."""
    return group.node if group.groups == 1 else f"{group.node}, group {group.number}"


class AttentionBooks:
    """Describes each attention of a rewritten graph.

    Args:
        rewritten: The graph.
        types: Of its tensors.
        version: The TensorRT that is to fuse it.
    """

    def __init__(
        self, rewritten: Rewritten, types: Mapping[str, TensorType], version: TensorRtVersion
    ) -> None:
        self._rewritten = rewritten
        self._types = types
        self._pads_heads = version.pads_heads
        self._pairs = QdqPairs(rewritten.model)

    def entries(self) -> Iterator[LoweredAttention]:
        """Describe all attention of the graph, in no order."""
        model = self._rewritten.model
        for node in attention_nodes(model):
            yield self._of_node(node)
        for group in self._rewritten.groups:
            yield self._of_group(group)
        ours = {name for group in self._rewritten.groups for name in group.core}
        for written in find_written_attention(model, self._types):
            if ours.isdisjoint(written.core):
                yield self._of_written(written)
        for node in model.graph.node:
            if is_standard(node, "Attention") and node.name not in ours:
                yield self._of_attention_op(node)

    def _of_node(self, node: onnx.NodeProto) -> LoweredAttention:
        name, spec = node.name, spec_of_node(node)
        in_type, out_type = self._name_of(node.input[0]), self._name_of(node.output[0])
        if spec.qkv_quant_scale and not spec.out_quant_scale:
            out_type = PLUGIN_FLOAT
        types, asks_int8 = (in_type, out_type), bool(spec.qkv_quant_scale)
        padded = self._rewritten.padded.get(name)
        names = ((name,), (name,))
        return LoweredAttention(name, False, "plugin", *names, *types, (), asks_int8, padded)

    def _of_group(self, group: DecomposedGroup) -> LoweredAttention:
        name, is_single = group_name(group), len(group.core) == 1
        obstacles = []
        if not group.in_int8:
            obstacles.append(self._reason(name))
            obstacles.append(
                half_group_obstacle(group.spec, group.head_group, pads_heads=self._pads_heads)
            )
            if not is_single:
                obstacles.append(self._type_obstacle(group.products_element))
        return LoweredAttention(
            name,
            False,
            "attention" if is_single else "native",
            group.nodes,
            group.core,
            self._name_of(group.qkv),
            self._name_of(group.output),
            tuple(filter(None, obstacles)),
            bool(group.spec.qkv_quant_scale) or self._is_dequantized(group.qkv),
        )

    def _of_written(self, written: WrittenAttention) -> LoweredAttention:
        sizes = (written.head_size, written.num_queries, written.num_keys)
        missing = [place for place in INT8_PLACES if place not in written.places]
        is_int8 = bool(written.places - {"output"})  # a layer behind it may read INT8 anyway
        if not is_int8:
            obstacles = [
                self._reason(written.label),
                half_mha_obstacle(*sizes, pads_heads=self._pads_heads),
                self._type_obstacle(written.query.element),
            ]
        else:
            obstacles = [int8_mha_obstacle(*sizes)]
            if missing:
                obstacles.append(
                    f"it has no Q/DQ at its {', '.join(missing)}; TensorRT wants them before both "
                    "products and after the second to fuse in INT8"
                )
        int8_in = is_int8 and "queries and keys" in written.places
        int8_out = is_int8 and "output" in written.places
        return LoweredAttention(
            written.label,
            True,
            "native",
            written.nodes,
            written.core,
            "int8" if int8_in else type_name(written.query.element),
            "int8" if int8_out else type_name(written.out.element),
            tuple(filter(None, obstacles)),
            is_int8 or written.label in self._rewritten.reasons,
        )

    def _of_attention_op(self, node: onnx.NodeProto) -> LoweredAttention:
        """Describe an Attention node that the graph had from the start."""
        shape = (self._types.get(node.input[0]) or TensorType(0, None)).shape
        is_packed = any(attribute.name == "q_num_heads" for attribute in node.attribute)
        size = shape[-1] if shape and not is_packed else None
        head_size = size if isinstance(size, int) else None
        obstacle = half_mha_obstacle(head_size, None, None, pads_heads=self._pads_heads)
        if is_packed:
            obstacle = "its inputs have three axes; TensorRT takes [batch, heads, tokens, channels]"
        types = (self._name_of(node.input[0]), self._name_of(node.output[0]))
        obstacles = (obstacle,) if obstacle else ()
        name = node.name
        asks_int8 = all(map(self._is_dequantized, node.input[:3]))
        return LoweredAttention(
            name, True, "attention", (name,), (name,), *types, obstacles, asks_int8
        )

    def _is_dequantized(self, tensor: str) -> bool:
        return self._pairs.origin(tensor) is not None

    def _reason(self, name: str) -> str:
        """Say why attention is not in INT8, if it was to be."""
        reason = self._rewritten.reasons.get(name, "")
        return "" if reason == NOT_INT8 else reason

    def _type_obstacle(self, element: int) -> str:
        return NOT_HALF if element == TensorProto.FLOAT else ""

    def _name_of(self, tensor: str) -> str:
        return type_name(element_of(self._types, tensor))


def element_of(types: Mapping[str, TensorType], tensor: str) -> int:
    """Look up a tensor's element type; `UNDEFINED` if it is unknown."""
    return types[tensor].element if tensor in types else TensorProto.UNDEFINED


def type_name(element: int) -> str:
    """Name an element type as numpy does; empty if it is unknown."""
    if element in _HALF_NAMES:
        return _HALF_NAMES[element]
    if element == TensorProto.UNDEFINED:
        return ""
    return str(helper.tensor_dtype_to_np_dtype(element).name)
