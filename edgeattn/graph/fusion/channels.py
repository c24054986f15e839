"""Sums and products with one number for each channel: they work on each token by itself."""

from __future__ import annotations

import numpy as np
import onnx

from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.nodes import is_standard


def is_per_channel(node: onnx.NodeProto, data: str, probe: Probe) -> bool:
    """Tell whether a node adds to a tensor, or multiplies it by, known numbers of its channels.

    Args:
        node: Any node.
        data: The input that is not known.
        probe: The graph at one size.
    """
    if not is_standard(node, "Add", "Mul"):
        return False
    other = node.input[1] if node.input[0] == data else node.input[0]
    shape, own = probe.shape(other), probe.shape(data)
    if not probe.is_known(other) or shape is None or not own:
        return False
    size = int(np.prod(shape, dtype=np.int64))
    return size == 1 or (bool(shape) and size == shape[-1] == own[-1])
