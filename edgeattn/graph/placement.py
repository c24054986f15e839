"""Decide which tensors of a graph become symmetric INT8, and say why the others do not.

Each recipe adds to the one before it:

    linear     Conv, Gemm and MatMul with a constant weight, where nearly all the arithmetic is
    attention  input and output of attention nodes; the products of attention that is written out
    full       other products of activations, pooling, the skip branch of residual Adds

Normalization, softmax, activation functions and a classifier's last layer stay in float in all of
them: placement decides the accuracy of windowed attention far more than the way scales are found.
The choice looks through nodes that only move values, and at the value of weights, not at how they
are written, so it is the same before and after a graph is simplified, and for blocks with and
without a shift.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import onnx
from onnx import TensorProto

from edgeattn.errors import GraphError, SpecError
from edgeattn.graph.attention_products import AttentionProducts
from edgeattn.graph.constants import Constants, subgraphs
from edgeattn.graph.float_reasons import float_reason
from edgeattn.graph.int8 import PROBABILITY_QUANT_SCALE
from edgeattn.graph.linear_layers import (
    LINEAR_OPS,
    constant_weight,
    is_product_of_activations,
)
from edgeattn.graph.nodes import (
    MOVING_OPS,
    check_node_names,
    is_standard,
    node_label,
    range_keepers,
    standard_opset,
)
from edgeattn.graph.op import is_attention
from edgeattn.graph.pooled_heads import POOLED_HEAD, pooled_heads
from edgeattn.graph.residuals import Residuals
from edgeattn.graph.shapes import infer_types

Recipe = Literal["linear", "attention", "full"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)

MIN_OPSET = 13  # scales per channel

_FLOATS = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.UNDEFINED,
)

_POOLING_OPS = ("AveragePool", "GlobalAveragePool", "MaxPool")


@dataclass(frozen=True)
class Decision:
    """What became of one tensor of one node, and why.

    Attributes:
        node: Name of the node, or of its first output if it has none.
        op_type: Its type.
        tensor: The tensor.
        quantized: Whether the node reads it, or of its output whether it writes it, as INT8.
        reason: Why.
        sqnr_db: Of a quantized weight: signal to quantization noise; `None` if there is no noise.
    """

    node: str
    op_type: str
    tensor: str
    quantized: bool
    reason: str
    sqnr_db: float | None = None


@dataclass(frozen=True)
class QuantizedRead:
    """An activation that a node reads in INT8.

    Attributes:
        slot: Which of the node's inputs.
        activation: Tensor whose range counts: the input, traced back through nodes that only move
            values or pad with zeros.
        reason: What it is quantized for.
        quant_scale: Scale that is known beforehand; `None` if it is the activation's own.
    """

    slot: int
    activation: str
    reason: str
    quant_scale: float | None = None


@dataclass(frozen=True)
class LinearNode:
    """A layer to compute in INT8.

    Attributes:
        activation: Tensor whose range counts: the node's input, traced back through nodes that
            only move values or pad with zeros.
        weight: Its constant input.
        channel_axis: Axis of the output channels in the weight.
    """

    activation: str
    weight: str
    channel_axis: int


@dataclass(frozen=True)
class Placement:
    """What of a graph becomes INT8. Nodes are given by their place among the graph's nodes.

    Attributes:
        linears: Layers with a constant weight.
        reads: What other nodes read in INT8.
        outputs: What attention nodes write in INT8; all readers get the rounded tensor.
        floats: What stays in float, and why.
    """

    linears: dict[int, LinearNode] = field(default_factory=dict)
    reads: dict[int, tuple[QuantizedRead, ...]] = field(default_factory=dict)
    outputs: dict[int, str] = field(default_factory=dict)
    floats: dict[int, tuple[Decision, ...]] = field(default_factory=dict)

    @property
    def activations(self) -> tuple[str, ...]:
        """The tensors that need a scale, each once, in the order of the nodes."""
        return tuple(dict.fromkeys(self._activations()))

    def _activations(self) -> Iterator[str]:
        for index in sorted({*self.linears, *self.reads, *self.outputs}):
            if index in self.linears:
                yield self.linears[index].activation
            for read in self.reads.get(index, ()):
                if read.quant_scale is None:
                    yield read.activation
            if index in self.outputs:
                yield self.outputs[index]


def place_qdq(
    model: onnx.ModelProto, recipe: Recipe = "linear", keep_float: Collection[str] = ()
) -> Placement:
    """Decide what to quantize.

    Args:
        model: A float graph, attention nodes included.
        recipe: How much.
        keep_float: Names of nodes that are not quantized, as `node_label` gives them.

    Raises:
        GraphError: If the graph is quantized already, its opset has no scales per channel, a
            weight holds NaN or infinity, or there is nothing to quantize.
        SpecError: If the recipe or a node to keep in float is unknown.
    """
    if recipe not in RECIPES:
        raise SpecError(
            f"the recipe is {recipe!r}; expected {' or '.join(RECIPES)}", "use recipe linear"
        )
    _check_graph(model)
    check_node_names(model.graph, keep_float)
    return _Placer(model, recipe, keep_float).place()


class _Placer:
    """Decides node by node."""

    def __init__(self, model: onnx.ModelProto, recipe: Recipe, keep_float: Collection[str]) -> None:
        self._graph = model.graph
        self._nodes = model.graph.node
        self._recipe = recipe
        self._keep_float = frozenset(keep_float)
        self._constants = Constants(model)
        self._types = infer_types(model)
        self._keeps_range = range_keepers(model.graph, self._constants)
        self._graph_outputs = {value.name for value in model.graph.output}
        self._attention = AttentionProducts(model.graph, self._constants)
        linears, self._obstacles = self._place_layers()
        self._residuals = Residuals(model.graph, self._constants, linears)
        self._placement = Placement(linears)

    def place(self) -> Placement:
        placement = self._placement
        for index, node in enumerate(self._nodes):
            is_layer = index in placement.linears
            if not (is_layer or self._is_folded(node) or is_standard(node, *MOVING_OPS)):
                self._place(index, node)
        if not (placement.linears or placement.reads):
            raise GraphError(
                "there is nothing to quantize: no Conv, Gemm or MatMul has a constant float32 "
                "weight that INT8 can hold",
                "run the graph in float",
            )
        return placement

    def _is_folded(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node is gone before it ever runs."""
        return all(name in self._constants for name in node.output if name)

    def _place_layers(self) -> tuple[dict[int, LinearNode], dict[int, str]]:
        """Find the layers with a constant weight, and what keeps nodes from being quantized."""
        linears: dict[int, LinearNode] = {}
        obstacles: dict[int, str] = {}
        heads = pooled_heads(self._graph, self._constants)
        for index, node in enumerate(self._nodes):
            if self._is_folded(node):
                continue
            if node_label(node) in self._keep_float:
                obstacles[index] = "kept in float as asked"
            elif index in heads:
                obstacles[index] = POOLED_HEAD
            elif is_standard(node, *LINEAR_OPS) and not is_product_of_activations(
                node, self._constants
            ):
                weight = constant_weight(node, self._constants)
                if isinstance(weight, str):
                    obstacles[index] = weight
                else:
                    root = self._root(node.input[0])
                    linears[index] = LinearNode(root, weight.tensor, weight.channel_axis)
        return linears, obstacles

    def _place(self, index: int, node: onnx.NodeProto) -> None:
        """Note what a node without INT8 weights reads and writes in INT8, and what it does not."""
        placement = self._placement
        reads: tuple[QuantizedRead, ...] = ()
        reason = self._obstacles.get(index, "") or self._wrong_type(node)
        if not reason:
            reads, reason = self._reads(index, node)
        if reads:
            placement.reads[index] = reads
        floats = self._keep_rest(node, {node.input[read.slot] for read in reads}, reason)
        if reads and is_attention(node):
            if node.output[0] in self._graph_outputs:
                floats.append(_keep(node, node.output[0], "the graph's outputs stay in float"))
            else:
                placement.outputs[index] = node.output[0]
        if floats:
            placement.floats[index] = tuple(floats)

    def _reads(self, index: int, node: onnx.NodeProto) -> tuple[tuple[QuantizedRead, ...], str]:
        """Find what a node reads in INT8, and why it reads the rest in float."""
        attention, full = self._recipe != "linear", self._recipe == "full"
        if is_attention(node):
            if not attention:
                return (), "attention stays in float; the layers around it are quantized"
            read = self._read(node, 0, "input of attention")
            return (read,), "tables and padding of attention stay in float"
        if is_product_of_activations(node, self._constants):
            of_attention = index in self._attention.places
            if full or (attention and of_attention):
                what = "factor of attention" if of_attention else "factor of MatMul"
                return (self._read(node, 0, what), self._read(node, 1, what)), ""
            return (), "both factors are activations"
        if is_standard(node, *_POOLING_OPS):
            if not full:
                return (), "pooling stays in float"
            return (self._read(node, 0, f"input of {node.op_type}"),), ""
        if self._residuals.is_sum_of_activations(node):
            if not full:
                return (), "sums of activations stay in float: residual paths are not rounded"
            slot = self._residuals.skip_slot(node)
            if slot is None:
                return (), "sums of activations stay in float where no layer can run with the sum"
            read = self._read(node, slot, "skip branch of a sum")
            return (read,), "the layer before it and this sum can run as one"
        if is_standard(node, "Add"):
            return (), "biases are added in float"
        return (), float_reason(node)

    def _read(self, node: onnx.NodeProto, slot: int, reason: str) -> QuantizedRead:
        tensor = node.input[slot]
        if self._attention.is_probability(tensor):
            reason += ": probabilities, at most 1"
            return QuantizedRead(slot, self._root(tensor), reason, PROBABILITY_QUANT_SCALE)
        return QuantizedRead(slot, self._root(tensor), f"{reason}: one scale")

    def _root(self, tensor: str) -> str:
        """Trace a tensor back to where its range comes from."""
        while tensor in self._keeps_range:
            tensor = self._keeps_range[tensor].input[0]
        return tensor

    def _keep_rest(
        self, node: onnx.NodeProto, quantized: Collection[str], reason: str
    ) -> list[Decision]:
        """Decide for the float tensors, and a layer's weight, that a node does not read in INT8."""
        is_layer = is_standard(node, *LINEAR_OPS)
        rest = [
            name
            for slot, name in enumerate(node.input)
            if name not in quantized
            and self._may_be_float(name)
            and (name not in self._constants or (is_layer and slot < 2))
        ]
        if not rest and subgraphs(node):
            rest = node.input[:1] or [""]
        return [_keep(node, name, reason) for name in dict.fromkeys(rest)]

    def _may_be_float(self, name: str) -> bool:
        return bool(name) and (name not in self._types or self._types[name].element in _FLOATS)

    def _wrong_type(self, node: onnx.NodeProto) -> str:
        """Say what type a node computes in if it is not the one that scales have."""
        found = self._types.get(node.input[0]) if node.input else None
        if found is None or found.element in (TensorProto.FLOAT, TensorProto.UNDEFINED):
            return ""
        if found.element not in _FLOATS:
            return float_reason(node)
        return f"it computes in {TensorProto.DataType.Name(found.element).lower()}, not float32"


def _keep(node: onnx.NodeProto, tensor: str, reason: str) -> Decision:
    return Decision(node_label(node), node.op_type, tensor, False, reason)


def _check_graph(model: onnx.ModelProto) -> None:
    present = sum(
        is_standard(node, "QuantizeLinear", "DequantizeLinear") for node in model.graph.node
    )
    if present:
        raise GraphError(
            f"the graph is quantized already: it holds {present} Q/DQ nodes",
            "calibrate and quantize the float graph",
        )
    opset = standard_opset(model)
    if opset < MIN_OPSET:
        raise GraphError(
            f"the graph has opset {opset}; INT8 weights need at least {MIN_OPSET}",
            "export it again with a newer opset",
        )
