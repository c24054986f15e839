"""Lower a graph to what TensorRT's parser takes.

Attention nodes go one of three ways: they stay, for the plugin; they become standard operators in
the form that TensorRT's own fusion takes; or they become ONNX's Attention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from edgeattn.engine.tensorrt.attention_books import (
    PLUGIN_FLOAT,
    AttentionBooks,
    AttentionWay,
    LoweredAttention,
    Rewritten,
    element_of,
    group_name,
    type_name,
)
from edgeattn.engine.tensorrt.parser_faults import parser_faults
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError
from edgeattn.graph.faults import Fault
from edgeattn.graph.files import MAX_INLINE_BYTES, weights_bytes, write_graph
from edgeattn.graph.linear_layers import LINEAR_OPS
from edgeattn.graph.names import FreshNames, name_nodes
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.op import OP_TYPE, attention_nodes, is_attention, spec_of_node
from edgeattn.graph.passes.attention_op import write_attention_op
from edgeattn.graph.passes.bool_equal import rewrite_bool_equal
from edgeattn.graph.passes.fold_qdq import fold_attention_qdq
from edgeattn.graph.passes.int8_mha import lower_int8_mha, release_written_int8
from edgeattn.graph.passes.pad_heads import pad_heads
from edgeattn.graph.qdq_pairs import QdqPairs
from edgeattn.graph.shapes import infer_types

__all__ = ["AttentionWay", "LoweredAttention", "LoweredForTensorRt", "lower_for_tensorrt"]

_SHORT_NAMES = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


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
    faults: tuple[Fault, ...]
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
            folded in and heads padded to the sizes that it takes; standard operators; or ONNX's
            Attention, where tokens share their keys.

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
    precision = _precision(source)
    rewritten = _rewrite(source, way, precision)
    lowered = rewritten.model
    rewrite_bool_equal(lowered)
    name_nodes(lowered.graph)
    types = infer_types(lowered)
    attention = list(AttentionBooks(rewritten, types, version).entries())
    place = {node.name: index for index, node in enumerate(lowered.graph.node)}
    attention.sort(key=lambda entry: place[entry.core[0]])
    faults = [*_attention_faults(source, rewritten, way), *parser_faults(lowered, types, version)]
    return LoweredForTensorRt(lowered, version, way, tuple(attention), tuple(faults), precision)


def _precision(model: onnx.ModelProto) -> str:
    """Name the precision that a graph asks for, as `LoweredForTensorRt` spells it."""
    types = infer_types(model)
    computing = [
        node
        for node in model.graph.node
        if is_attention(node) or is_standard(node, *LINEAR_OPS, "Attention")
    ]
    found = Counter(element_of(types, node.output[0]) for node in computing or model.graph.node)
    halves = [(found[element], name) for element, name in _SHORT_NAMES.items() if found[element]]
    half = max(halves)[1] if halves else ""
    quantizes = any(
        is_standard(node, "QuantizeLinear")
        and element_of(types, node.output[0]) == TensorProto.INT8
        for node in model.graph.node
    )
    is_int8 = quantizes or any(element_of(types, n.input[0]) == TensorProto.INT8 for n in computing)
    return "+".join(filter(None, ("int8" if is_int8 else "", half))) or "fp32"


def _drop_functions(model: onnx.ModelProto) -> None:
    """Drop functions of the plugin's name: some parsers look them up before plugins."""
    others = [function for function in model.functions if function.name != OP_TYPE]
    del model.functions[:]
    model.functions.extend(others)


def _rewrite(source: onnx.ModelProto, way: AttentionWay, precision: str) -> Rewritten:
    if way == "native":
        half = next((e for e, name in _SHORT_NAMES.items() if name in precision), TensorProto.FLOAT)
        mha = lower_int8_mha(source, half)
        names = [group_name(group) for group in mha.groups]
        names += [decision.node for decision in mha.decisions[len(names) :]]
        decided = zip(names, mha.decisions, strict=True)
        reasons = {name: decision.reason for name, decision in decided if not decision.quantized}
        return Rewritten(mha.model, mha.groups, reasons)
    released, decisions = release_written_int8(source)
    reasons = {decision.node: decision.reason for decision in decisions if not decision.quantized}
    if way == "plugin":
        lowered = fold_attention_qdq(released)
        _cast_half_outputs(lowered)
        name_nodes(lowered.graph)
        fitting = pad_heads(lowered)
        return Rewritten(fitting.model, [], reasons, fitting.padded, fitting.unfit)
    return Rewritten(*write_attention_op(released), reasons)


def _cast_half_outputs(model: onnx.ModelProto) -> None:
    """Cast where the plugin gives FP16 and the graph has float32: INT8 in, and no scale after."""
    names = FreshNames(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        if is_attention(node):
            spec, output = spec_of_node(node), node.output[0]
            if spec.qkv_quant_scale and not spec.out_quant_scale:
                node.output[0] = names.new(f"{output}_{PLUGIN_FLOAT}")
                cast = helper.make_node("Cast", node.output, [output], to=TensorProto.FLOAT)
                nodes.append(cast)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _attention_faults(
    source: onnx.ModelProto, rewritten: Rewritten, way: AttentionWay
) -> Iterator[Fault]:
    """List what of the attention nodes is not computed as the graph says."""
    for unfit in rewritten.unfit:
        yield Fault(unfit.reason, unfit.node, "attention")
    types, pairs = infer_types(source), QdqPairs(source)
    in_int8 = {n.name for n in attention_nodes(rewritten.model) if spec_of_node(n).qkv_quant_scale}
    if way == "native":
        in_int8 |= {group.node for group in rewritten.groups if group.spec.out_quant_scale}
    for node in attention_nodes(source):
        for name in node.input[1:]:
            if element_of(types, name) not in (TensorProto.FLOAT, TensorProto.UNDEFINED):
                found = type_name(element_of(types, name))
                reason = f"{name} is {found}; tables of attention are float32"
                yield Fault(reason, node.name, "attention")
        reads_int8 = bool(spec_of_node(node).qkv_quant_scale) or pairs.origin(node.input[0])
        if reads_int8 and node.name not in in_int8:
            reason = "its input is INT8 and its output is not read in INT8 alone"
            if way == "attention":
                reason = "ONNX's Attention has no INT8 probabilities"
            reason += ", so it computes in float"
            yield Fault(reason, node.name, "attention", is_refused=False)
