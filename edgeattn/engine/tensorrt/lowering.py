"""Lower a graph to what TensorRT's parser takes, and keep the books on its attention.

Attention nodes go one of three ways: they stay, for the plugin; they become standard operators in
the form that TensorRT's own fusion takes; or they become ONNX's Attention. For each attention of
the graph it is noted which nodes compute it, so that the built engine can be held to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from onnx import TensorProto, helper

from edgeattn.engine.tensorrt.parser_faults import parser_faults
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError
from edgeattn.graph.files import MAX_INLINE_BYTES, weights_bytes, write_graph
from edgeattn.graph.fused_mha import (
    NOT_HALF,
    NOT_INT8,
    half_group_obstacle,
    half_mha_obstacle,
    int8_mha_obstacle,
)
from edgeattn.graph.half_types import HALF_TYPES
from edgeattn.graph.linear_layers import LINEAR_OPS
from edgeattn.graph.names import FreshNames, name_nodes
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.op import OP_TYPE, attention_nodes, is_attention, spec_of_node
from edgeattn.graph.passes.attention_op import write_attention_op
from edgeattn.graph.passes.fold_qdq import fold_attention_qdq
from edgeattn.graph.passes.int8_mha import lower_int8_mha, release_written_int8
from edgeattn.graph.qdq_pairs import QdqPairs
from edgeattn.graph.shapes import TensorType, infer_types
from edgeattn.graph.standard_attention import DecomposedGroup
from edgeattn.graph.written_attention import INT8_PLACES, WrittenAttention, find_written_attention

AttentionWay = Literal["plugin", "native", "attention"]

_HALF_NAMES: dict[int, str] = {element: name for name, element in HALF_TYPES.items()}
_PLUGIN_FLOAT = "float16"  # what the plugin gives for INT8 where no scale follows
_SHORT_NAMES = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


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


@dataclass(frozen=True)
class LoweredForTensorRt:
    """A graph as TensorRT's parser shall read it.

    Attributes:
        model: The graph; every node has a name of its own.
        version: The TensorRT that it is for.
        way: What became of attention nodes.
        attention: Each attention of the graph.
        faults: What this TensorRT would refuse, or silently compute otherwise.
        precision: What the graph asks for: `fp32`, `fp16`, `bf16`, `int8`, `int8+fp16` or
            `int8+bf16`.
    """

    model: onnx.ModelProto
    version: TensorRtVersion
    way: AttentionWay
    attention: tuple[LoweredAttention, ...]
    faults: tuple[str, ...]
    precision: str

    def save(self, folder: Path) -> Path:
        """Write the graph for the parser to read; weights go beside it where it passes 2 GB.

        Args:
            folder: Where to write. Larger weights are moved out of the model then, so that memory
                holds them once.

        Returns:
            The ONNX file.
        """
        path = folder / "lowered.onnx"
        if weights_bytes(self.model) > MAX_INLINE_BYTES:
            data = path.with_name(path.name + ".data")
            write_graph(self.model, path, data, data.name)
        else:
            path.write_bytes(self.model.SerializeToString(deterministic=True))
        return path


def lower_for_tensorrt(
    model: onnx.ModelProto, version: TensorRtVersion, *, way: AttentionWay = "plugin"
) -> LoweredForTensorRt:
    """Lower a graph for a version of TensorRT.

    Args:
        model: A graph in the precision that the engine shall have; not changed.
        version: The TensorRT that shall read it.
        way: What to make of attention nodes: keep them for the plugin, with the Q/DQ around them
            folded in; standard operators; or ONNX's Attention, where tokens share their keys.

    Raises:
        BuildError: If the version is not supported or has no ONNX Attention.
        GraphError: If an attention node is malformed, or the graph cannot be written with ONNX's
            Attention.
    """
    version.require_supported()
    if way == "attention" and not version.has_attention_operator:
        raise BuildError(
            f"TensorRT {version} has no ONNX Attention; expected 10.14 or newer",
            "lower attention natively, or for the plugin",
        )
    source = onnx.ModelProto()
    source.CopyFrom(model)
    name_nodes(source.graph)
    _drop_functions(source)
    precision = graph_precision(source)
    rewritten = _rewrite(source, way, precision)
    lowered = rewritten.model
    name_nodes(lowered.graph)
    types = infer_types(lowered)
    attention = list(_Books(rewritten, types, version).entries())
    place = {node.name: index for index, node in enumerate(lowered.graph.node)}
    attention.sort(key=lambda entry: place[entry.core[0]])
    faults = [*_attention_faults(source, rewritten, way), *parser_faults(lowered, types, version)]
    return LoweredForTensorRt(lowered, version, way, tuple(attention), tuple(faults), precision)


def graph_precision(model: onnx.ModelProto) -> str:
    """Name the precision that a graph asks for, as `LoweredForTensorRt` spells it."""
    types = infer_types(model)
    computing = [
        node
        for node in model.graph.node
        if is_attention(node) or is_standard(node, *LINEAR_OPS, "Attention")
    ]
    found = Counter(_element(types, node.output[0]) for node in computing or model.graph.node)
    halves = [(found[element], name) for element, name in _SHORT_NAMES.items() if found[element]]
    half = max(halves)[1] if halves else ""
    quantizes = any(
        is_standard(node, "QuantizeLinear") and _element(types, node.output[0]) == TensorProto.INT8
        for node in model.graph.node
    )
    is_int8 = quantizes or any(_element(types, n.input[0]) == TensorProto.INT8 for n in computing)
    return "+".join(filter(None, ("int8" if is_int8 else "", half))) or "fp32"


def _drop_functions(model: onnx.ModelProto) -> None:
    """Drop functions of the plugin's name: some parsers look them up before plugins."""
    others = [function for function in model.functions if function.name != OP_TYPE]
    del model.functions[:]
    model.functions.extend(others)


@dataclass(frozen=True)
class _Rewritten:
    """A graph whose attention went one of the ways.

    Attributes:
        model: The graph.
        groups: Head groups that became standard operators.
        reasons: Why attention that was to be in INT8 is not, by the label of written-out attention
            or by the name of a group.
    """

    model: onnx.ModelProto
    groups: list[DecomposedGroup]
    reasons: dict[str, str]


def _rewrite(source: onnx.ModelProto, way: AttentionWay, precision: str) -> _Rewritten:
    if way == "native":
        half = next((e for e, name in _SHORT_NAMES.items() if name in precision), TensorProto.FLOAT)
        lowered = lower_int8_mha(source, half)
        names = [_group_name(group) for group in lowered.groups]
        labels = [decision.node for decision in lowered.decisions[len(names) :]]
        decided = zip(names + labels, lowered.decisions, strict=True)
        return _Rewritten(
            lowered.model,
            lowered.groups,
            {name: d.reason for name, d in decided if not d.quantized},
        )
    released, decisions = release_written_int8(source)
    reasons = {decision.node: decision.reason for decision in decisions if not decision.quantized}
    if way == "plugin":
        lowered = fold_attention_qdq(released)
        _cast_half_outputs(lowered)
        return _Rewritten(lowered, [], reasons)
    return _Rewritten(*write_attention_op(released), reasons)


def _cast_half_outputs(model: onnx.ModelProto) -> None:
    """Cast where the plugin gives FP16 and the graph has float32: INT8 in, and no scale after."""
    names = FreshNames(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        if is_attention(node):
            spec, output = spec_of_node(node), node.output[0]
            if spec.qkv_quant_scale and not spec.out_quant_scale:
                node.output[0] = names.new(f"{output}_{_PLUGIN_FLOAT}")
                cast = helper.make_node("Cast", node.output, [output], to=TensorProto.FLOAT)
                nodes.append(cast)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _group_name(group: DecomposedGroup) -> str:
    return group.node if group.groups == 1 else f"{group.node}, group {group.number}"


class _Books:
    """Describes each attention of a rewritten graph.

    Args:
        rewritten: The graph.
        types: Of its tensors.
        version: The TensorRT that is to fuse it.
    """

    def __init__(
        self, rewritten: _Rewritten, types: Mapping[str, TensorType], version: TensorRtVersion
    ) -> None:
        self._rewritten = rewritten
        self._types = types
        self._pads_heads = version.pads_heads
        self._pairs = QdqPairs(rewritten.model)

    def entries(self) -> Iterator[LoweredAttention]:
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
            out_type = _PLUGIN_FLOAT
        types, asks_int8 = (in_type, out_type), bool(spec.qkv_quant_scale)
        return LoweredAttention(name, False, "plugin", (name,), (name,), *types, (), asks_int8)

    def _of_group(self, group: DecomposedGroup) -> LoweredAttention:
        name, is_single = _group_name(group), len(group.core) == 1
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
            "int8" if int8_in else _type_name(written.query.element),
            "int8" if int8_out else _type_name(written.out.element),
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
        return _type_name(_element(self._types, tensor))


def _attention_faults(
    source: onnx.ModelProto, rewritten: _Rewritten, way: AttentionWay
) -> Iterator[str]:
    """List what of the attention nodes is not computed as the graph says."""
    types, pairs = infer_types(source), QdqPairs(source)
    in_int8 = {n.name for n in attention_nodes(rewritten.model) if spec_of_node(n).qkv_quant_scale}
    if way == "native":
        in_int8 |= {group.node for group in rewritten.groups if group.spec.out_quant_scale}
    for node in attention_nodes(source):
        for name in node.input[1:]:
            if _element(types, name) not in (TensorProto.FLOAT, TensorProto.UNDEFINED):
                found = _type_name(_element(types, name))
                yield f"{node.name}: {name} is {found}; tables of attention are float32"
        reads_int8 = bool(spec_of_node(node).qkv_quant_scale) or pairs.origin(node.input[0])
        if reads_int8 and node.name not in in_int8:
            reason = "its input is INT8 and its output is not read in INT8 alone"
            if way == "attention":
                reason = "ONNX's Attention has no INT8 probabilities"
            yield f"{node.name}: {reason}, so it computes in float"


def _element(types: Mapping[str, TensorType], tensor: str) -> int:
    return types[tensor].element if tensor in types else TensorProto.UNDEFINED


def _type_name(element: int) -> str:
    """Name an element type as numpy does; empty if it is unknown."""
    if element in _HALF_NAMES:
        return _HALF_NAMES[element]
    if element == TensorProto.UNDEFINED:
        return ""
    return str(helper.tensor_dtype_to_np_dtype(element).name)
