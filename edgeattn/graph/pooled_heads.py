"""Which layers turn pooled features into a graph's output: the classifier's last Linear.

Rounding errors before a global average shrink in it, by the root of the number of positions. What
is rounded after it goes to the output as it is. In the shipped models the pooled features' own
rounding made half of all noise at the output when they were quantized, and the layer that reads
them is next to no arithmetic. So it stays in float.
"""

from __future__ import annotations

from collections import defaultdict

import onnx

from edgeattn.graph.constants import Constants
from edgeattn.graph.linear_layers import LINEAR_OPS
from edgeattn.graph.nodes import MOVING_OPS, is_standard

POOLED_HEAD = "the output layer on pooled features: nothing after it averages its rounding out"

_POOLING_OPS = ("GlobalAveragePool", "ReduceMean")
_PASSED_OPS = (*MOVING_OPS, "LogSoftmax", "Sigmoid", "Softmax")


def pooled_heads(graph: onnx.GraphProto, constants: Constants) -> frozenset[int]:
    """Find the layers from globally averaged features to an output, by their place in the graph.

    Between the average, the layer and the output there are only nodes that move values, a bias, and
    functions that turn logits into probabilities.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {value.name for value in graph.output}

    def is_pooled(tensor: str) -> bool:
        while (node := made_by.get(tensor)) is not None and _moves_values(node, constants):
            tensor = node.input[0]
        return node is not None and is_standard(node, *_POOLING_OPS) and tensor not in constants

    def is_result(tensor: str) -> bool:
        while tensor not in outputs:
            if len(readers[tensor]) != 1:
                return False
            (node,) = readers[tensor]
            if not (_adds_bias(node, constants) or is_standard(node, *_PASSED_OPS)):
                return False
            tensor = node.output[0]
        return True

    return frozenset(
        index
        for index, node in enumerate(graph.node)
        if is_standard(node, *LINEAR_OPS) and is_pooled(node.input[0]) and is_result(node.output[0])
    )


def _moves_values(node: onnx.NodeProto, constants: Constants) -> bool:
    """Tell whether a node gives values of its first input and nothing else.

    torch writes the flattening after an adaptive average pool as a Gather of every element.
    """
    if is_standard(node, "Gather", "Slice"):
        return all(name in constants for name in node.input[1:])
    return is_standard(node, *MOVING_OPS)


def _adds_bias(node: onnx.NodeProto, constants: Constants) -> bool:
    return is_standard(node, "Add") and any(name in constants for name in node.input)
