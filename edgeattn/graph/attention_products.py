"""Find attention that is written out: softmax between two products of activations.

    probabilities = softmax(f(query · key));   output = probabilities · value

`f` is whatever exporters put there: scaling, position bias, masks of shifted windows, reshapes.
Any chain of elementwise and moving nodes passes, so that a product is found or not whichever of
its terms are constant: folding a bias or leaving out a mask changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from edgeattn.graph.constants import Constants
from edgeattn.graph.linear_layers import is_product_of_activations
from edgeattn.graph.nodes import MOVING_OPS, is_standard

_LOGIT_OPS = (
    *MOVING_OPS,
    "Add",
    "Cast",
    "Clip",
    "Div",
    "Max",
    "Min",
    "Mul",
    "Sub",
    "Tanh",  # soft capping
    "Where",
)

# Where: exporters give zeros to rows that are masked altogether, whose softmax is NaN.
_PROBABILITY_OPS = (
    *MOVING_OPS,
    "Cast",
    "DequantizeLinear",
    "Dropout",
    "QuantizeLinear",
    "Where",
)


@dataclass(frozen=True)
class AttentionProduct:
    """Attention that is written out: the MatMul nodes around one softmax.

    Attributes:
        softmax: Place of the softmax.
        logits: Places of those that make logits, query · key.
        outputs: Places of those that weigh values with probabilities.
    """

    softmax: int
    logits: tuple[int, ...]
    outputs: tuple[int, ...]


class AttentionProducts:
    """The written-out attention of a graph, quantized or not.

    Attributes:
        found: Each, in the graph's order.
        places: Places of all their MatMul nodes.
    """

    def __init__(self, graph: onnx.GraphProto, constants: Constants) -> None:
        self._nodes = graph.node
        self._constants = constants
        self._producer = {name: i for i, node in enumerate(graph.node) for name in node.output}
        self._readers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(graph.node):
            for name in node.input:
                self._readers[name].append(index)
        self.found: list[AttentionProduct] = []
        for place, node in enumerate(graph.node):
            if is_standard(node, "Softmax"):
                logits = sorted(set(self._products_before(node.input[0])))
                outputs = sorted(set(self._products_after(node.output[0])))
                if logits and outputs:
                    self.found.append(AttentionProduct(place, tuple(logits), tuple(outputs)))
        self.places = {i for each in self.found for i in (*each.logits, *each.outputs)}

    def is_probability(self, tensor: str) -> bool:
        """Tell whether a tensor holds what a softmax made, possibly moved, and zeros."""
        while tensor in self._producer:
            node = self._nodes[self._producer[tensor]]
            if is_standard(node, "Softmax"):
                return True
            if not is_standard(node, *_PROBABILITY_OPS):
                return False
            candidates = self._branches(node)
            if len(candidates) != 1:
                return False
            tensor = candidates[0]
        return False

    def _branches(self, node: onnx.NodeProto) -> list[str]:
        """List what a node takes values from, constant zeros left out."""
        if not is_standard(node, "Where"):
            return [node.input[0]]
        return [name for name in node.input[1:] if not self._is_zero(name)]

    def _is_zero(self, name: str) -> bool:
        return name in self._constants and not self._constants.value(name).any()

    def _products_before(self, tensor: str) -> Iterator[int]:
        """Follow logits back to the products that they come from."""
        seen, waiting = set(), [tensor]
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self._producer:
                continue
            seen.add(name)
            index = self._producer[name]
            node = self._nodes[index]
            if is_product_of_activations(node, self._constants):
                yield index
            elif is_standard(node, *_LOGIT_OPS):
                moves = is_standard(node, *MOVING_OPS)
                waiting += node.input[:1] if moves else node.input

    def _products_after(self, tensor: str) -> Iterator[int]:
        """Follow probabilities on to the products that use them as a factor."""
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            for index in self._readers[name]:
                node = self._nodes[index]
                if is_product_of_activations(node, self._constants):
                    yield index
                elif is_standard(node, *_PROBABILITY_OPS):
                    waiting += node.output
