"""What nodes of a graph cost: bytes moved and operations computed, from the shapes of tensors.

Bytes are what has to be moved once, whatever the caches do: every tensor that a layer reads and its
outside makes, every tensor that it makes and its outside reads, weights included. What passes
between fused nodes moves nothing, nor does a node that only gives a tensor another shape.

Operations are counted as a textbook writes them: a multiply-accumulate is two, a function such as
exp or erf is one, and of those that are made of several:

    Softmax               5 per element     maximum, subtract, exp, sum, divide
    Gelu                  5 per element     divide, erf, add, two multiplications
    LayerNormalization    7 per element     mean, subtract, square, sum, divide, scale, shift
    BatchNormalization    2 per element     scale, shift
    QuantizeLinear        3 per element     divide, round, clip
    DequantizeLinear      2 per element     subtract, multiply

Convolutions and products with a bias add one per output. Of an operator that is not known here
nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeattn.graph.constants import Constants
from edgeattn.graph.nodes import is_standard_domain, node_label
from edgeattn.graph.op import is_attention, spec_of_node
from edgeattn.graph.shapes import TensorType, at_shapes, infer_types
from edgeattn.models.attention_flops import attention_products

Shape = tuple[int, ...]

# The same numbers in the same order: nothing moves.
_VIEWS = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
# These read as much of their first input as they write.
_PICKING = {"Gather", "GatherElements", "GatherND", "Slice", "Split"}
# These read the sizes of their first input alone.
_SIZES = {"Shape", "Size", "ConstantOfShape"}
_MOVES = {
    "Cast",
    "Concat",
    "DepthToSpace",
    "Expand",
    "Pad",
    "SpaceToDepth",
    "Tile",
    "Transpose",
} | {
    "ScatterElements",
    "ScatterND",
    "Range",
    "Dropout",
}
_PER_OUTPUT = dict.fromkeys(
    (
        *("Abs", "Add", "And", "BitwiseAnd", "Ceil", "Clip", "Cos", "Div", "Equal", "Erf", "Exp"),
        *("Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod"),
        *("Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sign", "Sin", "Sqrt"),
        *("Sub", "Tanh", "Where"),
    ),
    1,
) | {
    "BatchNormalization": 2,
    "DequantizeLinear": 2,
    "Gelu": 5,
    "HardSigmoid": 3,
    "HardSwish": 4,
    "InstanceNormalization": 7,
    "LayerNormalization": 7,
    "LeakyRelu": 2,
    "LogSoftmax": 5,
    "QuantizeLinear": 3,
    "Sigmoid": 4,
    "Softmax": 5,
}
_PER_INPUT = dict.fromkeys(
    (
        *("ArgMax", "ArgMin", "GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSum"),
    ),
    1,
) | {"ReduceL2": 2, "ReduceSumSquare": 2}


@dataclass(frozen=True)
class Cost:
    """What a layer moves and computes.

    Attributes:
        bytes: Read and written; `None` if a size is not known.
        flops: Operations; `None` if an operator or a size is not known.
        products: Those of them in matrix products and convolutions.
    """

    bytes: int | None
    flops: int | None
    products: int


class GraphCosts:
    """The costs of a graph's nodes, for inputs of given shapes.

    Args:
        model: A graph, lowered or not.
        inputs: Shapes of its inputs, by name; those of the graph count where one is not given.

    Raises:
        GraphError: If the graph contradicts itself or the shapes.
    """

    def __init__(self, model: onnx.ModelProto, inputs: Mapping[str, Shape] | None = None) -> None:
        self._types = infer_types(at_shapes(model, inputs or {}))
        self._nodes = {node_label(node): node for node in model.graph.node}
        self._constants = Constants(model)
        self._views = {
            node.output[0]: node.input[0] for node in model.graph.node if _is(node, _VIEWS)
        }
        # Engines keep a quantized weight in integers, whatever the graph computes from it.
        self._stored = {
            node.output[0]: node.input[0]
            for node in model.graph.node
            if _is(node, {"DequantizeLinear"}) and node.output[0] in self._constants
        }
        self._readers: dict[str, set[str]] = {}
        for label, node in self._nodes.items():
            if not _is(node, _VIEWS):
                for name in filter(None, node.input):
                    self._readers.setdefault(self._source(name), set()).add(label)
        self._outputs = {self._source(value.name) for value in model.graph.output}

    def of(self, labels: Collection[str]) -> Cost:
        """Count what a layer that computes these nodes costs.

        Args:
            labels: Names of nodes.

        Returns:
            The cost; nothing is known of an empty layer, or of one with a node that is not here.
        """
        if not labels or any(label not in self._nodes for label in labels):
            return Cost(None, None, 0)
        nodes = [self._nodes[label] for label in labels]
        moved = [*self._reads(nodes), *self._writes(nodes, set(labels))]
        counts = [self._operations(node) for node in nodes]
        return Cost(
            None if None in moved else sum(size or 0 for size in moved),
            None if None in counts else sum(sum(count or (0, 0)) for count in counts),
            sum(count[0] for count in counts if count),
        )

    def weight_bytes(self, labels: Collection[str]) -> int | None:
        """Count the bytes of the constants that a layer reads; `None` if one is not known.

        Args:
            labels: Names of the nodes that it computes.
        """
        nodes = [self._nodes[label] for label in labels if label in self._nodes]
        if len(nodes) < len(labels):
            return None
        names = {
            self._source(name)
            for node in nodes
            if not _is(node, _VIEWS | _SIZES)
            for name in node.input
            if name in self._constants
        }
        sizes = [self._bytes(name) for name in names]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def _reads(self, nodes: Collection[onnx.NodeProto]) -> Iterator[int | None]:
        made = {name for node in nodes if not _is(node, _VIEWS) for name in node.output}
        sizes: dict[str, int | None] = {}
        for node in nodes:
            if _is(node, _VIEWS | _SIZES):
                continue
            for slot, name in enumerate(node.input):
                source = self._source(name)
                if not name or source in made:
                    continue
                picks = slot == 0 and _is(node, _PICKING)
                size = self._bytes(node.output[0] if picks else name)
                known = sizes.get(source, 0)
                sizes[source] = None if size is None or known is None else max(size, known)
        yield from sizes.values()

    def _writes(self, nodes: Collection[onnx.NodeProto], labels: set[str]) -> Iterator[int | None]:
        for node in nodes:
            if _is(node, _VIEWS | _SIZES):
                continue
            for name in filter(None, node.output):
                if name in self._outputs or self._readers.get(name, set()) - labels:
                    yield self._bytes(name)

    def _source(self, name: str) -> str:
        """Follow a tensor back through nodes that only give it another shape."""
        while name in self._views:
            name = self._views[name]
        return name

    def _shape(self, name: str) -> Shape | None:
        known = self._types.get(name, TensorType(0, None)).shape
        if known is None or not all(isinstance(size, int) for size in known):
            return None
        return tuple(int(size) for size in known)

    def _bytes(self, name: str) -> int | None:
        name = self._stored.get(name, name)
        shape = self._shape(name)
        element = self._types[name].element if name in self._types else TensorProto.UNDEFINED
        if shape is None or element in (TensorProto.UNDEFINED, TensorProto.STRING):
            return None
        if element in (TensorProto.INT4, TensorProto.UINT4):
            return -(-math.prod(shape) // 2)
        return math.prod(shape) * int(np.dtype(helper.tensor_dtype_to_np_dtype(element)).itemsize)

    def _operations(self, node: onnx.NodeProto) -> tuple[int, int] | None:
        """Count a node's operations: those in products, and others; `None` if not known."""
        if is_attention(node):
            return self._attention(node)
        if not is_standard_domain(node.domain):
            return None
        op = node.op_type
        if op in _VIEWS | _PICKING | _SIZES | _MOVES or op == "Constant":
            return 0, 0
        if all(name in self._constants for name in node.output):
            return 0, 0  # computed before the engine runs
        out = self._shape(node.output[0])
        shapes = [self._shape(name) for name in node.input if name]
        if out is None or None in shapes[:2]:
            return None
        first, *others = [shape or () for shape in shapes]
        size = math.prod(out)
        if op in _PER_OUTPUT:
            return 0, _PER_OUTPUT[op] * size
        if op in _PER_INPUT:
            return 0, _PER_INPUT[op] * math.prod(first)
        if op in ("AveragePool", "MaxPool"):
            return 0, math.prod(_ints(node, "kernel_shape")) * size
        if op == "Conv":
            return 2 * math.prod(others[0][1:]) * size, size * (len(others) > 1)
        if op == "ConvTranspose":
            return 2 * math.prod(others[0][1:]) * math.prod(first), size * (len(others) > 1)
        if op == "MatMul":
            return 2 * first[-1] * size, 0
        if op == "Gemm":
            depth = first[0] if any(_ints(node, "transA")) else first[-1]
            return 2 * depth * size, size * (len(others) > 1)
        return None

    def _attention(self, node: onnx.NodeProto) -> tuple[int, int] | None:
        """Count the products of an attention node, and its softmax."""
        shape = self._shape(node.input[0])
        if shape is None:
            return None
        spec = spec_of_node(node)
        products = attention_products(spec, *shape[:3])
        logits = products // (4 * spec.head_dim)
        return products, _PER_OUTPUT["Softmax"] * logits


def _is(node: onnx.NodeProto, op_types: Collection[str]) -> bool:
    return node.op_type in op_types and is_standard_domain(node.domain)


def _ints(node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    for attribute in node.attribute:
        if attribute.name == name:
            return tuple(attribute.ints) or (int(attribute.i),)
    return ()
