"""Linear layers on tokens, as exporters write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.nodes import is_standard


@dataclass(frozen=True)
class Projection:
    """`output = input @ weight + bias`, row by row.

    Attributes:
        input: Name of the tensor that is projected.
        weight: Name of the weight.
        transposed: Whether the weight is stored `[out, in]`.
        bias: Name of the bias, or of what has its values; empty without one.
    """

    input: str
    weight: str
    transposed: bool
    bias: str

    def matrix(self, probe: Probe) -> NDArray[Any]:
        """Read the weight, `[in, out]`."""
        weight = probe.value(self.weight)
        return weight.T if self.transposed else weight

    def vector(self, probe: Probe) -> NDArray[Any] | None:
        """Read the bias, `[out]`."""
        return probe.value(self.bias).reshape(-1) if self.bias else None


def find_projection(name: str, probe: Probe) -> Projection | None:
    """Find the linear layer that makes a tensor; `None` if none does."""
    node = probe.producer.get(name)
    if node is None:
        return None
    if is_standard(node, "Add"):
        for slot in (0, 1):
            bias, product = node.input[slot], node.input[1 - slot]
            if not probe.is_known(bias) or probe.is_known(product):
                continue
            found = find_projection(product, probe)
            if found is not None and not found.bias and _is_vector(bias, product, probe):
                return Projection(found.input, found.weight, found.transposed, bias)
        return None
    if is_standard(node, "MatMul"):
        data, weight = node.input
        shape = probe.shape(weight)
        if probe.is_known(weight) and not probe.is_known(data) and shape and len(shape) == 2:
            return Projection(data, weight, False, "")
    if is_standard(node, "Gemm"):
        return _from_gemm(node, probe)
    return None


def _from_gemm(node: onnx.NodeProto, probe: Probe) -> Projection | None:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    data, weight, bias = [*node.input, ""][:3]
    if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0:
        return None
    if bias and attributes.get("beta", 1.0) != 1.0:
        return None
    if probe.is_known(data) or not probe.is_known(weight) or (bias and not probe.is_known(bias)):
        return None
    if bias and not _is_vector(bias, node.output[0], probe):
        return None
    return Projection(data, weight, bool(attributes.get("transB", 0)), bias)


def _is_vector(name: str, beside: str, probe: Probe) -> bool:
    """Tell whether a tensor has one value for each channel of another."""
    shape, other = probe.shape(name), probe.shape(beside)
    if not shape or not other:
        return False
    return shape[-1] == other[-1] == int(np.prod(shape, dtype=np.int64))
