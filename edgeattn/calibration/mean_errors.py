"""Measure how far INT8 shifts the mean of each layer's output, the layers before it corrected.

Both graphs run layer by layer, all samples through one layer before the next: only so can a layer
be measured with the layers before it corrected. Measured all at once, each shift would hold those
of the layers before, and correcting all would count them twice (on `mswin_nano` that loses 11 dB
where this gains 1.5). Memory holds the tensors between two layers, of all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeattn.calibration.session import open_session, refused
from edgeattn.calibration.sources import Array
from edgeattn.errors import GraphError
from edgeattn.graph.constants import subgraphs, used_names
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.placement import Placement

Visit = Callable[[str, NDArray[np.float64]], "NDArray[np.float32] | None"]


def measure_mean_errors(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    placement: Placement,
    batches: Sequence[Mapping[str, Array]],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Find what to add to each INT8 layer's output so that its mean is that of the float layer.

    Args:
        model: The float graph.
        quantized: The same with Q/DQ.
        placement: Which of the float graph's nodes are INT8 layers.
        batches: Inputs by name, samples along axis 0; the mean is over all of them.
        progress: Called after each layer with the number done, and that of all.

    Returns:
        `[C]` by the layer's output, in the graph's order.

    Raises:
        GraphError: If ONNX Runtime does not run a graph, or a mean is NaN or infinite.
    """
    layers = [model.graph.node[index].output[0] for index in sorted(placement.linears)]
    expected: dict[str, NDArray[np.float64]] = {}
    shifts: dict[str, NDArray[np.float32]] = {}
    total = 2 * len(layers)

    def note(layer: str, mean: NDArray[np.float64]) -> None:
        expected[layer] = mean
        if progress:
            progress(len(expected), total)

    def correct(layer: str, mean: NDArray[np.float64]) -> NDArray[np.float32]:
        shifts[layer] = (expected[layer] - mean).astype(np.float32)
        if not np.isfinite(shifts[layer]).all():
            raise GraphError(
                f"the mean of {layer} is NaN or infinite on this data",
                "look at the weights before it and at the inputs' preprocessing",
            )
        if progress:
            progress(len(layers) + len(shifts), total)
        return shifts[layer]

    _walk(decompose(model), layers, batches, note)
    _walk(decompose(quantized), layers, batches, correct)
    return shifts


@dataclass(frozen=True)
class _Part:
    """The piece of a graph that ends in one layer.

    Attributes:
        layer: The layer's output.
        channel_axis: Axis of the channels there.
        model: Reads tensors of earlier pieces, writes those that later ones read, and `layer`.
        read_later: Tensors that later pieces read.
    """

    layer: str
    channel_axis: int
    model: onnx.ModelProto
    read_later: frozenset[str]


def _walk(
    model: onnx.ModelProto,
    layers: Collection[str],
    batches: Iterable[Mapping[str, Array]],
    visit: Visit,
) -> None:
    """Run a graph up to each layer in turn, showing the mean of its output to `visit`.

    What `visit` returns is added to the output before the graph runs on.
    """
    held = [dict(batch) for batch in batches]
    for part in _parts(model, layers):
        session = _open(part.model, held[0])
        reads = [value.name for value in session.get_inputs()]
        writes = [value.name for value in session.get_outputs()]
        for tensors in held:
            feeds = {name: tensors[name] for name in reads}
            tensors.update(zip(writes, _run(session, writes, feeds), strict=True))
        outputs = [np.moveaxis(tensors[part.layer], part.channel_axis, -1) for tensors in held]
        shift = visit(part.layer, _channel_means(outputs))
        for tensors, output in zip(held, outputs, strict=True):
            if shift is not None:
                output += shift  # a view: the tensor itself moves
            for name in tensors.keys() - part.read_later:
                del tensors[name]


def _channel_means(outputs: list[Array]) -> NDArray[np.float64]:
    """Average over all but the last axis, and over all arrays."""
    rows = [output.reshape(-1, output.shape[-1]) for output in outputs]
    total: NDArray[np.float64] = np.sum([r.sum(axis=0, dtype=np.float64) for r in rows], axis=0)
    return total / sum(len(r) for r in rows)


def _parts(model: onnx.ModelProto, layers: Collection[str]) -> list[_Part]:
    """Cut a graph behind each layer; what follows the last one is left out."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outer = {name for node in graph.node for name in node.output} | constants.keys()
    outer |= {value.name for value in graph.input}
    pieces: list[list[onnx.NodeProto]] = [[]]
    for node in graph.node:
        pieces[-1].append(node)
        if node.output[0] in layers:
            pieces.append([])
    parts: list[_Part] = []
    read_later: frozenset[str] = frozenset()
    for piece in reversed(pieces[:-1]):
        last, reads = piece[-1], _reads(piece) & outer
        made = {name for node in piece for name in node.output}
        body = helper.make_graph(
            piece,
            "part",
            [onnx.ValueInfoProto(name=name) for name in sorted(reads - made - constants.keys())],
            [onnx.ValueInfoProto(name=n) for n in sorted(made & read_later | {last.output[0]})],
            [constants[name] for name in sorted(reads & constants.keys())],
        )
        part = helper.make_model(
            body,
            functions=model.functions,
            opset_imports=model.opset_import,
            ir_version=model.ir_version,
        )
        channel_axis = 1 if is_standard(last, "Conv") else -1
        parts.append(_Part(last.output[0], channel_axis, part, read_later))
        read_later = frozenset((read_later | reads) - made)
    return parts[::-1]


def _reads(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Collect what nodes read, and all that nodes inside control flow read."""
    read = {name for node in nodes for name in node.input if name}
    return read.union(*(used_names(body) for node in nodes for body in subgraphs(node)))


def _open(part: onnx.ModelProto, tensors: Mapping[str, Array]) -> Any:
    for value in part.graph.input:
        value.CopyFrom(_described(value.name, tensors[value.name]))
    return open_session(part)


def _described(name: str, value: Array | list[Array]) -> onnx.ValueInfoProto:
    """Describe what goes from part to part: a tensor, or a sequence of them."""
    if isinstance(value, list):
        element = helper.np_dtype_to_tensor_dtype(np.dtype(value[0].dtype if value else "f"))
        return helper.make_tensor_sequence_value_info(name, element, None)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)


def _run(session: Any, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
    try:
        results: list[Array] = session.run(outputs, dict(feeds))
    except Exception as err:  # onnxruntime's errors share no class
        raise refused("run", err) from err
    return results
