"""A rewrite against what it replaces, on random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.verify import relative_error, run_graph

MAX_RELATIVE_ERROR = 1e-4
# Half precision rounds at each step; the two forms round at others.
_MAX_RELATIVE_ERROR_HALF = 2e-2


def compare(
    model: onnx.ModelProto,
    probe: Probe,
    tokens: str,
    output: str,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
) -> float:
    """Run both forms on random tokens.

    Args:
        model: The graph with the old nodes.
        probe: The graph at one size.
        tokens: What both read.
        output: What both make.
        nodes: The new nodes.
        weights: Their new initializers.

    Returns:
        The largest difference, relative to the largest result.

    Raises:
        UnrecognisedError: If it is larger than rounding explains.
    """
    shape = probe.shape(tokens)
    element = probe.element(tokens)
    assert shape is not None  # it has been traced
    dtype = helper.tensor_dtype_to_np_dtype(element)
    given = np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype, copy=False)
    results = [
        run_graph(_part(model, probe, tokens, output, new, list(weights)), {tokens: given})
        for new in ([], list(nodes))
    ]
    error = relative_error(*results)
    allowed = MAX_RELATIVE_ERROR if element == onnx.TensorProto.FLOAT else _MAX_RELATIVE_ERROR_HALF
    if error > allowed:
        raise UnrecognisedError(f"the rewrite gives other numbers: {error:.1e} relative")
    return error


def _part(
    model: onnx.ModelProto,
    probe: Probe,
    tokens: str,
    output: str,
    new: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
) -> onnx.ModelProto:
    """Cut out what lies between two tensors; what no data changes becomes constant."""
    made_by = dict(probe.producer)
    for node in new:
        made_by.update(dict.fromkeys(node.output, node))
    own = {tensor.name: tensor for tensor in weights}
    wanted, order, constants = [output], [], {}
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if not name or name in seen or name == tokens:
            continue
        seen.add(name)
        if name in own:
            constants[name] = own[name]
        elif name not in made_by or (probe.is_known(name) and name != output):
            if not probe.is_known(name):
                raise UnrecognisedError(f"its result depends on {name} too")
            constants[name] = numpy_helper.from_array(probe.value(name), name)
        else:
            order.append(made_by[name])
            wanted += made_by[name].input
    unique = {id(node): node for node in order}
    places = {id(node): place for place, node in enumerate([*model.graph.node, *new])}
    nodes = sorted(unique.values(), key=lambda node: places.get(id(node), 0))
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(tokens, probe.element(tokens), probe.shape(tokens))],
        [helper.make_tensor_value_info(output, probe.element(output), None)],
        initializer=list(constants.values()),
    )
    return helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
