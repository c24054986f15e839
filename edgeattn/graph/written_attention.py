"""Attention that a graph writes out, as a whole: its nodes, its sizes, and where Q/DQ stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from edgeattn.graph.attention_products import AttentionProduct, AttentionProducts
from edgeattn.graph.constants import Constants
from edgeattn.graph.nodes import MOVING_OPS, is_standard, node_label
from edgeattn.graph.shapes import TensorType


@dataclass(frozen=True)
class WrittenAttention:
    """One softmax between two products of activations.

    Attributes:
        label: Of the first product.
        nodes: Labels of the nodes from the first product to the last.
        core: Labels of products and softmax alone.
        query: What is known of the queries' type.
        key: Likewise of what they are multiplied by, channels before tokens.
        out: Likewise of what the last product gives.
        places: Of queries and keys, probabilities, values, and output those that are in INT8.
    """

    label: str
    nodes: tuple[str, ...]
    core: tuple[str, ...]
    query: TensorType
    key: TensorType
    out: TensorType
    places: frozenset[str]

    @property
    def head_size(self) -> int | None:
        """Channels of a head; `None` if they are not known before the graph runs."""
        return _size(self.query, -1)

    @property
    def num_queries(self) -> int | None:
        """Tokens that attend, likewise."""
        return _size(self.query, -2)

    @property
    def num_keys(self) -> int | None:
        """Tokens that they attend to, likewise."""
        return _size(self.key, -1)


INT8_PLACES = ("queries and keys", "probabilities", "values", "output")


def find_written_attention(
    model: onnx.ModelProto, types: Mapping[str, TensorType]
) -> list[WrittenAttention]:
    """Find the attention that a graph writes out in standard operators.

    Args:
        model: The graph.
        types: Of its tensors.
    """
    finder = _Finder(model, types)
    return [finder.describe(product) for product in finder.products.found]


class _Finder:
    """Follows tensors from node to node."""

    def __init__(self, model: onnx.ModelProto, types: Mapping[str, TensorType]) -> None:
        self._nodes = model.graph.node
        self._types = types
        self._producer = {name: i for i, node in enumerate(self._nodes) for name in node.output}
        self._readers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self._nodes):
            for name in node.input:
                self._readers[name].append(index)
        self.products = AttentionProducts(model.graph, Constants(model))

    def describe(self, product: AttentionProduct) -> WrittenAttention:
        nodes = self._between(product)
        first, last = self._nodes[product.logits[0]], self._nodes[product.outputs[-1]]
        of_core = {*product.logits, *product.outputs}
        of_core |= {i for i in nodes if is_standard(self._nodes[i], "Softmax")}
        return WrittenAttention(
            node_label(first),
            tuple(node_label(self._nodes[i]) for i in sorted(nodes)),
            tuple(node_label(self._nodes[i]) for i in sorted(of_core)),
            self._type(first.input[0]),
            self._type(first.input[1]),
            self._type(last.output[0]),
            frozenset(self._int8_places(product)),
        )

    def _between(self, product: AttentionProduct) -> set[int]:
        """List the nodes on the ways from the products of queries and keys to those of values."""
        ends = set(product.outputs)
        after = self._reach(product.logits, ends, forward=True)
        before = self._reach(product.outputs, set(product.logits), forward=False)
        return (after & before) | set(product.logits) | ends

    def _reach(self, start: Iterable[int], stop: set[int], *, forward: bool) -> set[int]:
        seen: set[int] = set()
        waiting = list(start)
        while waiting:
            index = waiting.pop()
            if index in seen:
                continue
            seen.add(index)
            if index not in stop:
                node = self._nodes[index]
                waiting += self._readers_of(node) if forward else self._producers_of(node)
        return seen

    def _readers_of(self, node: onnx.NodeProto) -> Iterator[int]:
        for name in node.output:
            yield from self._readers[name]

    def _producers_of(self, node: onnx.NodeProto) -> Iterator[int]:
        return (self._producer[name] for name in node.input if name in self._producer)

    def _int8_places(self, product: AttentionProduct) -> Iterator[str]:
        logits = [self._nodes[i] for i in product.logits]
        outputs = [self._nodes[i] for i in product.outputs]
        if all(self._is_dequantized(name) for node in logits for name in node.input):
            yield "queries and keys"
        for slot, place in enumerate(("probabilities", "values")):
            if all(self._is_dequantized(node.input[slot]) for node in outputs):
                yield place
        if all(self._is_quantized(name) for node in outputs for name in node.output):
            yield "output"

    def _is_dequantized(self, tensor: str) -> bool:
        """Tell whether a DequantizeLinear made a tensor, moves aside."""
        while tensor in self._producer:
            node = self._nodes[self._producer[tensor]]
            if not is_standard(node, *MOVING_OPS):
                return is_standard(node, "DequantizeLinear")
            tensor = node.input[0]
        return False

    def _is_quantized(self, tensor: str) -> bool:
        """Tell whether QuantizeLinear is all that reads a tensor, moves aside."""
        readers = [self._nodes[i] for i in self._readers[tensor]]
        return bool(readers) and all(
            is_standard(node, "QuantizeLinear")
            or (is_standard(node, *MOVING_OPS) and self._is_quantized(node.output[0]))
            for node in readers
        )

    def _type(self, name: str) -> TensorType:
        return self._types.get(name, TensorType(onnx.TensorProto.UNDEFINED, None))


def _size(tensor: TensorType, axis: int) -> int | None:
    if tensor.shape is None or len(tensor.shape) < -axis:
        return None
    size = tensor.shape[axis]
    return size if isinstance(size, int) else None
