"""Where the time of a query goes on a TensorRT engine: its profiler's times, its inspector's words.

A layer is tied to the model by the nodes that the engine names for it. Of a black box (a
ForeignNode) the engine tells the first and last node: what lies between them in the graph and in no
other layer is what it may hold. Its time is never split: nothing tells how.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from edgeattn.engine.tensorrt.inspector import EngineInfo, EngineLayer, dtype_of_words
from edgeattn.engine.tensorrt.layer_kinds import (
    COMPUTE_KINDS,
    kind_of_layer,
    precision_of_layer,
)
from edgeattn.engine.tensorrt.layer_times import LayerTime
from edgeattn.graph.nodes import node_label
from edgeattn.profiling.layers.cost import Cost, GraphCosts
from edgeattn.profiling.layers.modules import ModuleMap
from edgeattn.profiling.layers.roofline import Ceiling, with_rates
from edgeattn.profiling.layers.rows import LayerProfile, LayerRow, module_tree, typical_runs

_NOTE = (
    "TensorRT's profiler, in a context of its own without CUDA graphs. Events between the layers "
    "take time themselves, so that the sum is more than a query takes"
)
_SIDE_BY_SIDE = "; layers of {} streams run side by side, and the sum counts both"


def tensorrt_layer_profile(
    times: Sequence[LayerTime],
    info: EngineInfo,
    *,
    whole_ms: float,
    graph: onnx.ModelProto | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    ceiling: Ceiling | None = None,
) -> LayerProfile:
    """Join what TensorRT's profiler and its inspector tell.

    Args:
        times: Of the layers, in the order in which they run.
        info: What the engine tells of them; a layer that it does not know gets its time alone.
        whole_ms: Latency of a query without the profiler.
        graph: What the engine was built from. Without it operations are not counted, and black
            boxes are not looked into.
        shapes: Of the inputs, by name, where the graph leaves them open.
        ceiling: What the GPU can do.

    Raises:
        GraphError: If the graph contradicts itself or the shapes.
    """
    typical = typical_runs([layer.times_ms for layer in times])
    join = _Join(info, graph, shapes or {})
    rows = tuple(join.row(layer, typical, whole_ms, ceiling) for layer in times)
    streams = len({layer.stream for layer in info.layers if layer.stream is not None})
    return LayerProfile(
        rows=rows,
        modules=module_tree(rows, join.modules.notes),
        total_ms=sum(row.ms for row in rows),
        whole_ms=whole_ms,
        runs=len(times[0].times_ms) if times else 0,
        note=_NOTE + (_SIDE_BY_SIDE.format(streams) if streams > 1 else "") + ".",
        ceiling=ceiling.device if ceiling is not None else "",
        roofs=ceiling.roofs() if ceiling is not None else None,
    )


class _Join:
    """Knows what each layer of an engine is."""

    def __init__(
        self,
        info: EngineInfo,
        graph: onnx.ModelProto | None,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.modules = ModuleMap(graph)
        self._layers = {layer.name: layer for layer in info.layers}
        self._costs = None if graph is None else GraphCosts(graph, shapes)
        self._order = [] if graph is None else [node_label(node) for node in graph.graph.node]
        self._info = info
        computing = (layer for layer in info.layers if kind_of_layer(layer) in COMPUTE_KINDS)
        self._holders = Counter(node for layer in computing for node in layer.onnx_nodes)

    def row(
        self, times: LayerTime, typical: Sequence[int], whole_ms: float, ceiling: Ceiling | None
    ) -> LayerRow:
        layer = self._layers.get(times.name, EngineLayer(times.name))
        is_known = times.name in self._layers
        nodes = self._nodes(layer)
        ms = statistics.fmean(times.times_ms[run] for run in typical)
        row = LayerRow(
            name=times.name,
            kind=kind_of_layer(layer) if is_known else "",
            module=self.modules.path_of(nodes),
            ms=ms,
            median_ms=statistics.median(times.times_ms),
            mean_ms=statistics.fmean(times.times_ms),
            share=ms / whole_ms,
            nodes=nodes,
            precision=precision_of_layer(layer),
        )
        cost = self._cost(layer, nodes) if is_known else Cost(None, None, 0)
        return with_rates(row, cost, ceiling)

    def _nodes(self, layer: EngineLayer) -> tuple[str, ...]:
        """Name a layer's nodes; of a black box those that lie between its ends and nowhere else."""
        if layer.onnx_nodes or layer.foreign_range is None:
            return layer.onnx_nodes
        elsewhere = {node for other in self._info.layers for node in other.onnx_nodes}
        return tuple(
            node
            for node in self._order
            if node not in elsewhere and self._info.black_boxes_of((node,), self._order) == (layer,)
        )

    def _cost(self, layer: EngineLayer, nodes: tuple[str, ...]) -> Cost:
        """Count a layer's bytes by what the engine tells, its operations by the graph.

        The engine describes its tensors in the layouts and types that it chose. Operations of a
        node that several layers compute parts of are nobody's.
        """
        kind = kind_of_layer(layer)
        if kind in ("reformat", "move"):
            return Cost(self._moved(layer, 0), 0, 0)
        if self._costs is None or any(self._holders[node] > 1 for node in nodes):
            return Cost(None, None, 0)
        cost = self._costs.of(nodes)
        return Cost(self._moved(layer, self._costs.weight_bytes(nodes)), cost.flops, cost.products)

    def _moved(self, layer: EngineLayer, weights: int | None) -> int | None:
        if not layer.inputs and not layer.outputs:
            return None  # the engine tells names only
        told = layer.raw.get("Weights")
        if isinstance(told, dict) and (dtype := dtype_of_words(str(told.get("Type")))):
            weights = int(told.get("Count", 0)) * np.dtype(dtype).itemsize
        if layer.num_bytes is None or weights is None:
            return None
        return layer.num_bytes + weights
