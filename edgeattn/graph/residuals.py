"""Which branch of a residual Add to round, so that a layer and the Add run as one kernel.

    y = layer(x) + skip

TensorRT computes a quantized layer and the Add after it in one kernel that reads the skip branch
in INT8. A Q/DQ pair between the layer and the Add would part them. So of the two branches the skip
is rounded and the layer's result is not.

References:
    NVIDIA's own quantizer places Q/DQ on the skip branch alone: nvidia-modelopt,
    onnx/quantization.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import onnx

from edgeattn.graph.constants import Constants
from edgeattn.graph.linear_layers import LINEAR_OPS
from edgeattn.graph.nodes import is_standard

# Between a layer and the Add these keep the order of the values in memory.
_RESHAPES = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


class Residuals:
    """Answers which input of an Add is the skip branch.

    Args:
        graph: The graph.
        constants: Its constants.
        layers: Places of the layers that compute in INT8.
    """

    def __init__(
        self, graph: onnx.GraphProto, constants: Constants, layers: Collection[int]
    ) -> None:
        self._constants = constants
        self._made_by = {node.output[0]: (i, node) for i, node in enumerate(graph.node)}
        self._layers = layers
        self._num_readers = Counter(name for node in graph.node for name in node.input)
        self._num_readers.update(value.name for value in graph.output)
        self._depth = _depths(graph, constants)

    def is_sum_of_activations(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node adds two tensors that are not constant."""
        return is_standard(node, "Add") and not any(x in self._constants for x in node.input)

    def skip_slot(self, node: onnx.NodeProto) -> int | None:
        """Find the input of an Add to round; `None` if no layer can be computed with the Add.

        Where both branches end in a layer, the deeper one is the layer's: what a residual path
        skips.
        """
        candidates = [slot for slot, name in enumerate(node.input) if self.ends_in_layer(name)]
        if not candidates:
            return None
        deepest = max(candidates, key=lambda slot: self._depth[node.input[slot]])
        return 1 - deepest

    def ends_in_layer(self, tensor: str) -> bool:
        """Tell whether a tensor is a layer's result, with its bias, that one node alone reads."""
        while self._num_readers[tensor] == 1 and tensor in self._made_by:
            index, node = self._made_by[tensor]
            if index in self._layers:
                return True
            if is_standard(node, *_RESHAPES) or self._is_folded_normalization(node):
                tensor = node.input[0]
            elif is_standard(node, "Add"):
                terms = [name for name in node.input if name not in self._constants]
                if len(terms) != 1:
                    return False
                tensor = terms[0]
            else:
                return False
        return False

    def _is_folded_normalization(self, node: onnx.NodeProto) -> bool:
        """Batch normalization of fixed statistics becomes part of the convolution before it."""
        return is_standard(node, "BatchNormalization") and all(
            name in self._constants for name in node.input[1:]
        )


def _depths(graph: onnx.GraphProto, constants: Constants) -> Mapping[str, int]:
    """Count the layers on the longest path to each tensor; simplifying does not change it."""
    depth: Counter[str] = Counter()
    for node in graph.node:
        longest = max((depth[name] for name in node.input), default=0)
        for name in node.output:
            if name not in constants:
                depth[name] = longest + is_standard(node, *LINEAR_OPS)
    return depth
