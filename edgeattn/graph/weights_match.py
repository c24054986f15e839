"""Tell whether two graphs have the same weights, rounding aside."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.constants import Constants
from edgeattn.graph.linear_layers import LINEAR_OPS
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.placement import place_qdq

# Weights of four bits keep about 20 dB, fine-tuning keeps more than 10; other weights have -3.
_SAME_DB = 10.0


def other_weights(model: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[list[str], int]:
    """Compare the weights of linear layers that have the same output in two graphs.

    Args:
        model: A float graph.
        quantized: The graph that is said to be made of it, weights rounded or not.

    Returns:
        The weights of `model` that differ by more than rounding, and how many were compared.

    Raises:
        GraphError: As `place_qdq`.
    """
    ours, theirs = Constants(model), Constants(quantized)
    outputs = {
        node.output[0]: node
        for node in quantized.graph.node
        if is_standard(node, *LINEAR_OPS) and node.input[1] in theirs
    }
    names = [
        (linear.weight, outputs[output].input[1])
        for index, linear in place_qdq(model).linears.items()
        if (output := model.graph.node[index].output[0]) in outputs
    ]
    differing, compared = [], 0
    for name, found in dict.fromkeys(names):
        same = _are_same(ours.value(name), theirs.value(found))
        compared += same is not None
        if same is False:
            differing.append(name)
    return differing, compared


def _are_same(weight: NDArray[Any], found: NDArray[Any]) -> bool | None:
    """Compare two weights, either way around; `None` if their shapes cannot be."""
    ways = [found, found.T] if found.ndim == 2 else [found]
    noise_db = [
        sqnr_db(weight, way.astype(np.float32)) for way in ways if way.shape == weight.shape
    ]
    return max(noise_db) >= _SAME_DB if noise_db else None
