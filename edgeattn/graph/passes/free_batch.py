"""Free the batch axis of a graph that was exported with a fixed one.

The samples of a batch can then be run one by one, in parallel and in the processor's caches.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgeattn.graph.files import value_shape
from edgeattn.graph.shapes import TensorType, infer_types

BATCH = "batch"


def free_batch(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Let axis 0 of every input and output be of any size.

    Constant shapes in Reshape nodes are the only thing rewritten. That the samples are then
    computed independently is for the caller to verify: a graph may mix them by intent.

    Args:
        model: Its inputs share a fixed size of axis 0, over 1; not changed.

    Returns:
        The freed graph; `None` if a shape in it cannot be freed.
    """
    batch = fixed_batch(model)
    if batch < 2:
        return None
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    types = infer_types(model)
    for node in result.graph.node:
        if node.op_type in ("Expand", "ConstantOfShape", "Tile"):
            return None
        if node.op_type != "Reshape" or node.input[1] not in weights:
            continue
        freed = _freed_shape(node, types, numpy_helper.to_array(weights[node.input[1]]), batch)
        if freed is None:
            return None
        name = f"{node.output[0]}/freed_shape"
        result.graph.initializer.append(numpy_helper.from_array(freed, name))
        node.input[1] = name
    for value in (*result.graph.input, *result.graph.output):
        if value.name not in weights:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del result.graph.value_info[:]
    return result


def fixed_batch(model: onnx.ModelProto) -> int:
    """Find the fixed size of axis 0 that all inputs and outputs share; 0 if there is none."""
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [v for v in (*model.graph.input, *model.graph.output) if v.name not in weights]
    sizes = {value_shape(value)[:1] for value in values}
    batch = next(iter(sizes))[:1] if len(sizes) == 1 else ()
    return batch[0] if batch and isinstance(batch[0], int) else 0


def _freed_shape(
    node: onnx.NodeProto, types: dict[str, TensorType], shape: np.ndarray, batch: int
) -> np.ndarray | None:
    """Rewrite a constant shape whose first size counts samples; `None` if that is impossible."""
    known = types.get(node.input[0])
    if known is None or known.shape is None or not all(isinstance(d, int) for d in known.shape):
        return None
    freed = shape.copy()
    if len(shape) == 0 or shape[0] <= 0:  # copied from the input, or inferred, already
        return freed
    if shape[0] % batch or not known.shape or int(known.shape[0]) % batch:
        return None
    if -1 not in shape:
        freed[0] = -1
    elif shape[0] == known.shape[0]:
        freed[0] = 0
    else:
        return None
    return freed
