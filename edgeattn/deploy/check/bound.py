"""The least time of a query on a board, layer by layer: a bound, no forecast.

A layer is a node with matrix products and what can be fused onto it: the Q/DQ before and after it,
and the chain of element by element operators that reads it alone. It can be no faster than its
bytes at the memory's bandwidth, nor than its products at the peak rate of the tensor cores.
Everything else is taken to be fused into layers, and to cost nothing.

Two sums are told. `floor_ms` holds for any engine that reads its weights from memory once a query:
the products at their peak rates, or the weights at the bandwidth, whichever takes longer.
`layers_ms` adds up the layers: it holds where each of them is a kernel of its own and
no tensor stays in the L2 cache from one to the next.

References:
    The roofline model, as `edgeattn.profiling.layers.roofline` applies it to measured layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx

from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.deploy.check.subject import Subject
from edgeattn.engine.tensorrt.operator_support import TYPE_NAMES
from edgeattn.engine.tensorrt.precision import asked_precisions
from edgeattn.graph.constants import Constants
from edgeattn.graph.nodes import MOVING_OPS, is_standard, node_label
from edgeattn.profiling.layers.cost import Cost, GraphCosts
from edgeattn.profiling.layers.roofline import Ceiling, gpu_ceiling, with_rates
from edgeattn.profiling.layers.rows import OTHER, Bound, LayerRow
from edgeattn.targets import Gpu

_FUSED_OPS = (
    *("Add", "BatchNormalization", "Cast", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid"),
    *("HardSwish", "LeakyRelu", "Mul", "QuantizeLinear", "Relu", "Sigmoid", "Sub", "Tanh"),
    *MOVING_OPS,
)
# Products in float32 run in TF32, at no more than the rate of FP16; the bound holds for them too.
_RATES = {"float32": "float16"}


@dataclass(frozen=True)
class LayerBound:
    """The least time of a layer.

    Attributes:
        node: Label of the node with the products.
        nodes: Labels of all nodes in the layer.
        precision: numpy's name of the type that the graph has the products in.
        bytes: What it reads and writes at least.
        products: Operations in its matrix products.
        least_ms: The least time; `None` if a figure of the board is not known.
        bound: Which limit is the nearer one; empty if a figure is not known.
    """

    node: str
    nodes: tuple[str, ...]
    precision: str
    bytes: int
    products: int
    least_ms: float | None
    bound: Bound


@dataclass(frozen=True)
class LatencyBound:
    """The least time of a query.

    Attributes:
        device: The GPU, and where its figures are from.
        layers: In the order of the graph.
        floor_ms: No engine is faster that reads its weights from memory; `None` if not known.
        layers_ms: The sum over the layers; `None` if not known.
        unknown: Labels of products whose size is not known; they count nothing.
        unrated: Types of products whose rate on this GPU is not known; their bytes alone count.
    """

    device: str
    layers: tuple[LayerBound, ...]
    floor_ms: float | None
    layers_ms: float | None
    unknown: tuple[str, ...]
    unrated: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Turn the bound into JSON values."""
        return asdict(self)


def latency_bound(subject: Subject, gpu: Gpu | None) -> LatencyBound | None:
    """Work out the least time of a query at the shapes that the engine is tuned for.

    Args:
        subject: The graph.
        gpu: The board's.

    Returns:
        The bound; `None` if the shapes or the GPU are not known.
    """
    costs = subject.tuned_costs
    if costs is None or gpu is None:
        return None
    ceiling = _ceiling(subject, gpu)
    asked = asked_precisions(subject.lowered)
    layers, unknown = [], []
    for label, nodes in layers_of(subject.lowered.model, asked, _attention_cores(subject)).items():
        cost = costs.of(nodes)
        if cost.bytes is None:
            unknown.append(label)
            continue
        least, bound = least_ms(cost, asked[label], ceiling)
        layers.append(
            LayerBound(label, nodes, asked[label], cost.bytes, cost.products, least, bound)
        )
    times = [layer.least_ms for layer in layers if layer.least_ms is not None]
    return LatencyBound(
        ceiling.device,
        tuple(layers),
        _floor_ms(costs, layers, ceiling),
        sum(times) if times else None,
        tuple(unknown),
        tuple(sorted({layer.precision for layer in layers if not _rate(layer, ceiling)})),
    )


def _ceiling(subject: Subject, gpu: Gpu) -> Ceiling:
    """Give the GPU's ceiling; products of FP8 and FP4 stand in the graph as those of halves."""
    ceiling = gpu_ceiling(gpu)
    found = {TYPE_NAMES.get(known.element) for known in subject.types.values()}
    tera = gpu.fp4_tflops if "FP4" in found else gpu.fp8_tflops
    if found.isdisjoint(("FP4", "FP8")):
        return ceiling
    rates = {name: rate for name, rate in ceiling.gflop_s.items() if name == "int8"}
    if tera is not None:
        rates |= dict.fromkeys(("float16", "bfloat16"), tera * 1e3)
    return replace(ceiling, gflop_s=rates)


def check_bound(bound: LatencyBound | None, subject: Subject) -> Iterator[GraphFinding]:
    """Say what the bound leaves out, and why there is none where there is none."""
    if bound is None or not bound.layers:
        return
    title = subject.where.title
    if bound.layers_ms is None:
        reason = f"no bound: bandwidth and rates of {title} are not known"
        yield GraphFinding("note", "latency", "", reason)
    elif bound.unrated:
        reason = (
            f"the rate of {', '.join(bound.unrated)} on {title} is not known: its products are "
            "bounded by their bytes alone"
        )
        yield GraphFinding("note", "latency", "", reason)
    for label in bound.unknown:
        yield GraphFinding(
            "note", "latency", label, "it counts nothing in the bound: a size is not known"
        )


def least_ms(cost: Cost, precision: str, ceiling: Ceiling) -> tuple[float | None, Bound]:
    """Work out the least time of a layer.

    Args:
        cost: What it moves and computes.
        precision: numpy's name of the type that it computes in.
        ceiling: What the device can do. Where the rate of the type is not known, the bytes alone
            make the bound.

    Returns:
        Milliseconds and the nearer limit; `None` and nothing if the bandwidth is not known.
    """
    rate = _RATES.get(precision, precision)
    if rate not in ceiling.gflop_s:
        cost = Cost(cost.bytes, cost.flops, 0)
    # The share of the ceiling that a layer of one millisecond reaches is its least time in those.
    row = LayerRow("", "", OTHER, 1.0, 1.0, 1.0, 1.0, precision=rate)
    # Operations that are no products bound nothing; not to know them changes nothing.
    cost = Cost(cost.bytes, cost.flops or cost.products, cost.products)
    rated = with_rates(row, cost, ceiling)
    return rated.ceiling_share, rated.bound


def layers_of(
    model: onnx.ModelProto, products: Mapping[str, str], cores: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Put a graph's nodes with products together with what can be fused onto each.

    Args:
        model: The graph.
        products: Its nodes with products, by label.
        cores: Attentions that may be one kernel: all nodes of each, by the label of its first
            product.

    Returns:
        Labels of the nodes of each layer, by that of its product, in the graph's order.
    """
    fuser = _Fuser(model)
    within = {label: core for core in cores.values() for label in core}
    layers: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        label = node_label(node)
        if label in cores:
            layers[label] = fuser.around(cores[label])
        elif label in products and label not in within:
            layers[label] = fuser.around((label,))
    return layers


class _Fuser:
    """Follows tensors to what can share a kernel with the node that makes or reads them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = {node_label(node): node for node in model.graph.node}
        self._producer = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._outputs = {value.name for value in model.graph.output}
        self._taken: set[str] = set()
        self._constants = Constants(model)

    def around(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """List nodes with what can be fused onto them; an epilogue goes to the first that asks."""
        found = dict.fromkeys(labels)
        for label in labels:
            for name in self._nodes[label].input:
                found.update(dict.fromkeys(self._dequantizers(name)))
        epilogue = list(self._epilogue(self._nodes[labels[-1]]))
        self._taken.update(epilogue)
        return tuple(found | dict.fromkeys(epilogue))

    def _dequantizers(self, tensor: str) -> list[str]:
        """List what makes a tensor of INT8 values, weights aside: those stay as they are stored."""
        labels: list[str] = []
        node = self._producer.get(tensor)
        while node is not None and tensor not in self._constants:
            if not is_standard(node, "DequantizeLinear", *MOVING_OPS):
                return []
            labels.append(node_label(node))
            if is_standard(node, "DequantizeLinear"):
                return labels
            node = self._producer.get(node.input[0])
        return []

    def _epilogue(self, node: onnx.NodeProto) -> Iterator[str]:
        """List the chain of operators that reads a node's output alone."""
        while len(node.output) == 1:
            readers = self._readers[node.output[0]]
            is_alone = len(readers) == 1 and node.output[0] not in self._outputs
            if not is_alone or not is_standard(readers[0], *_FUSED_OPS):
                return
            node = readers[0]
            if node_label(node) in self._taken:
                return
            yield node_label(node)
            if is_standard(node, "QuantizeLinear"):
                return


def _attention_cores(subject: Subject) -> dict[str, tuple[str, ...]]:
    """List the attentions in standard operators, each of which may become one kernel.

    What stands before the first product and after the last (windows being cut and put together) is
    left out: several head groups may share it.
    """
    place = {node_label(n): i for i, n in enumerate(subject.lowered.model.graph.node)}
    cores = {}
    for each in subject.lowered.attention:
        if each.way == "native":
            order = sorted(place[label] for label in each.core)
            span = range(order[0], order[-1] + 1)
            nodes = [label for label in {*each.nodes, *each.core} if place[label] in span]
            first = min(each.core, key=place.__getitem__)
            cores[first] = tuple(sorted(nodes, key=place.__getitem__))
    return cores


def _rate(layer: LayerBound, ceiling: Ceiling) -> float | None:
    return ceiling.gflop_s.get(_RATES.get(layer.precision, layer.precision))


def _floor_ms(costs: GraphCosts, layers: list[LayerBound], ceiling: Ceiling) -> float | None:
    """Take the longer of all products, and of all their weights."""
    compute_ms = sum(
        layer.products / (rate * 1e6) for layer in layers if (rate := _rate(layer, ceiling))
    )
    if ceiling.gb_s is None:
        return compute_ms or None
    weights = costs.weight_bytes([layer.node for layer in layers]) or 0
    return max(compute_ms, weights / (ceiling.gb_s * 1e6)) or None
