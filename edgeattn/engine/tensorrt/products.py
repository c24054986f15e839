"""In which type a graph asks for its matrix products: nearly all of a network's arithmetic.

Networks are strongly typed: TensorRT computes a product in INT8 where both factors come from
DequantizeLinear nodes of INT8, else in the type that the factors have in the graph.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from edgeattn.graph.nodes import MOVING_OPS, is_standard, node_label
from edgeattn.graph.shapes import TensorType, infer_types

PRODUCT_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def product_types(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """List the nodes with matrix products by the type that the graph has them computed in.

    Args:
        model: A graph, lowered or not. Attention nodes are not among them.

    Returns:
        Names of nodes by numpy's name of the type, `unknown` where it cannot be inferred.
    """
    found: dict[str, list[str]] = {}
    for node, name in _typed_products(model):
        found.setdefault(name, []).append(node_label(node))
    return {name: tuple(found[name]) for name in sorted(found)}


def _typed_products(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    types = infer_types(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if not is_standard(node, *PRODUCT_OPS):
            continue
        stored = [_stored_element(name, producers, types) for name in node.input[:2]]
        if all(element == TensorProto.INT8 for element in stored):
            yield node, "int8"
        else:
            yield node, _name(_element(node.output[0], types) or _element(node.input[0], types))


def _stored_element(
    tensor: str, producers: dict[str, onnx.NodeProto], types: dict[str, TensorType]
) -> int:
    """Element type that a factor is held in before it is dequantized; 0 if it is not."""
    source = producers.get(tensor)
    while source is not None and is_standard(source, *MOVING_OPS):
        source = producers.get(source.input[0])
    if source is None or not is_standard(source, "DequantizeLinear"):
        return TensorProto.UNDEFINED
    return _element(source.input[0], types)


def _element(tensor: str, types: dict[str, TensorType]) -> int:
    return types[tensor].element if tensor in types else TensorProto.UNDEFINED


def _name(element: int) -> str:
    if element == TensorProto.UNDEFINED:
        return "unknown"
    if element == TensorProto.BFLOAT16:
        return "bfloat16"
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).name
