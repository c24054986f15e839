"""A quantized graph whose activations can be rounded at other scales, or not at all, in each run.

It is the graph that `insert_qdq` writes; one session serves all trials. Weights are rounded in
every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeattn.calibration.judge import Arrays, SampleSession, rows_of
from edgeattn.calibration.sources import Array
from edgeattn.graph.int8 import quant_scale_from_amax
from edgeattn.graph.names import FreshNames
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import Recipe, place_qdq


class ScaleTrials:
    """A session for trials.

    Args:
        model: The float graph; not kept.
        recipe: What to quantize.
        samples: Inputs by name, samples along axis 0.

    Attributes:
        tensors: The activations that can be rounded, in the graph's order.

    Raises:
        GraphError: As `insert_qdq`, or if ONNX Runtime does not load the graph.
    """

    def __init__(self, model: onnx.ModelProto, recipe: Recipe, samples: Arrays) -> None:
        self.tensors = place_qdq(model, recipe).activations
        self._samples = samples
        # Each gets a scale of its own value, by which its initializers are found again.
        marks = {float(np.float32(1 + n / 4096)): name for n, name in enumerate(self.tensors)}
        scales = {name: mark for mark, name in marks.items()}
        quantized = decompose(insert_qdq(model, scales, recipe)[0])
        self._scales = _make_switchable(quantized, marks)
        self._session = SampleSession(quantized)

    def run(self, amax: Mapping[str, float], rows: Any = slice(None)) -> dict[str, Array]:
        """Run samples with some activations rounded.

        Args:
            amax: Magnitude that becomes 127, by tensor; the tensors left out stay in float.
            rows: Which of the samples.

        Returns:
            Outputs by name, samples along axis 0.

        Raises:
            DataError: If the samples do not fit the graph.
            GraphError: If ONNX Runtime fails, or an output varies in shape.
        """
        off = np.zeros((), np.float32)
        scales = {
            scale: quant_scale_from_amax(amax[tensor]) if tensor in amax else off
            for scale, tensor in self._scales.items()
        }
        return self._session.run(rows_of(self._samples, rows), scales)


def _make_switchable(model: onnx.ModelProto, marks: Mapping[float, str]) -> dict[str, str]:
    """Make scales inputs of the graph, in place; where one is 0, nothing is rounded.

    Returns:
        The tensor of each such input.
    """
    graph = model.graph
    names = FreshNames(graph)
    quantizers = {n.output[0]: n for n in graph.node if n.op_type == "QuantizeLinear"}
    scales = {n.input[1] for n in quantizers.values()}
    tensors: dict[str, str] = {}
    used: dict[str, tuple[str, str]] = {}
    nodes: list[onnx.NodeProto] = []
    zero, one = (names.new(f"edgeattn/{value}") for value in ("zero", "one"))
    for initializer in graph.initializer:
        mark = numpy_helper.to_array(initializer) if initializer.name in scales else None
        if mark is None or float(mark) not in marks:
            continue
        name = initializer.name
        tensors[name] = marks[float(mark)]
        is_on, scale = names.new(f"{name}/on"), names.new(f"{name}/used")
        nodes.append(helper.make_node("Greater", [name, zero], [is_on]))
        nodes.append(helper.make_node("Where", [is_on, name, one], [scale]))
        used[name] = is_on, scale
        graph.input.append(helper.make_tensor_value_info(name, initializer.data_type, []))
    for name, value in ((zero, 0), (one, 1)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    for node in graph.node:
        nodes.append(node)
        quantizer = quantizers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantizer is None or (quantizer.input[1] not in used and node.input[1] not in used):
            continue
        is_on, scale = used[node.input[1]]
        rounded, chosen = names.new(f"{node.output[0]}/rounded"), node.output[0]
        quantizer.input[1] = node.input[1] = scale
        node.output[0] = rounded
        nodes.append(helper.make_node("Where", [is_on, rounded, quantizer.input[0]], [chosen]))
    del graph.node[:]
    graph.node.extend(nodes)
    return tensors
