"""Weights that are no numbers: a graph that holds NaN or a stray infinity is refused by name.

Such a graph builds, runs and yields NaN; the fault lies in the training or the conversion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from edgeattn.errors import GraphError

# Minus infinity masks logits, and both infinities are bounds of a clip: operators that select,
# move or add such constants take them; arithmetic on weights does not.
_BOUNDS = {"Clip", "Max", "Min", "Where"}
_MASKS = {"Add", "Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "Identity", "Pad"} | {
    "Reshape", "ScatterElements", "ScatterND", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"
}  # fmt: skip


def check_finite(model: onnx.ModelProto) -> None:
    """Refuse a graph with NaN in a constant, or infinity where it cannot be a mask or a bound.

    Raises:
        GraphError: It names the tensor.
    """
    _check_graph(model.graph)


def _check_graph(graph: onnx.GraphProto) -> None:
    readers: dict[str, set[str]] = defaultdict(set)
    for node in graph.node:
        for name in node.input:
            readers[name].add(node.op_type)
    for name, tensor in _constants(graph):
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind not in "fV" or np.isfinite(values).all():  # V: types of ml_dtypes
            continue
        if np.isnan(values).any():
            raise _refusal(name, int(np.isnan(values).sum()), "NaN", values)
        allowed = _BOUNDS if np.isposinf(values).any() else _BOUNDS | _MASKS
        if not readers[name] <= allowed:
            raise _refusal(name, int(np.isinf(values).sum()), "infinite", values)
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _check_graph(body)


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _refusal(name: str, count: int, what: str, values: np.ndarray) -> GraphError:
    return GraphError(
        f"the weight {name} holds {count} {what} of {values.size} values",
        "train or convert the model again; nothing it computes can be trusted",
    )
