"""Pad heads with zeros to the sizes that our kernels take: 30 channels to 32.

    linear -> attention -> linear     becomes     the same, with columns of zeros in the weights of
                                                  the first, and rows of zeros in the second's

Zero channels of queries and keys add nothing to their products, nor to the lengths that cosine
attention divides by; zero channels of values give zeros, which the rows of zeros take out. The
factor of the products is written down, as its default would follow the padded size.

Where another node stands before the attention, or others read the same tensor, zeros are added by
Reshape, Pad, Reshape; likewise taken out by Reshape, Slice, Reshape. Both hold for free sizes, and
each is a copy. Around the INT8 form they stand where numbers are in float, before the
QuantizeLinear and behind the DequantizeLinear: TensorRT pads and slices no INT8.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeattn.graph.constants import drop_orphans, used_names
from edgeattn.graph.kernel_heads import fits_every_type, kernel_head_dim, kernel_head_obstacle
from edgeattn.graph.linear_paths import LinearPath, LinearPaths, weight_axis
from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import is_standard, node_label
from edgeattn.graph.op import attention_nodes, make_attention_node, spec_of_node
from edgeattn.graph.padded_constants import PaddedConstants, pad_runs
from edgeattn.graph.shapes import TensorType, infer_types
from edgeattn.spec import AttentionSpec

Side = Literal["input", "output"]

_UNTYPED = TensorType(TensorProto.UNDEFINED, None)


@dataclass(frozen=True)
class PaddedHeads:
    """Heads of an attention node that were padded.

    Attributes:
        node: Label of the node.
        head_dim: Channels of a head in the graph.
        padded_head_dim: Channels of a head in the kernel.
        copied: Where a copy adds the zeros or takes them out; elsewhere weights do.
    """

    node: str
    head_dim: int
    padded_head_dim: int
    copied: tuple[Side, ...]

    def __str__(self) -> str:
        """Say what was padded, and what that costs."""
        more = 100 * (self.padded_head_dim / self.head_dim - 1)
        text = (
            f"heads of {self.head_dim} channels are padded to {self.padded_head_dim} with zeros: "
            f"{more:.0f} % more bytes and products in the kernel"
        )
        if not self.copied:
            return f"{text} and in the linear layers around it"
        return f"{text}, and a copy of its {' and one of its '.join(self.copied)}"


@dataclass(frozen=True)
class UnfitHeads:
    """Heads of an attention node that our kernels do not take, and that stayed as they are.

    Attributes:
        node: Label of the node.
        reason: Why.
    """

    node: str
    reason: str


@dataclass(frozen=True)
class PaddedGraph:
    """A graph whose heads our kernels take.

    Attributes:
        model: The graph.
        padded: Heads that were padded, by their node's label.
        unfit: Heads that are still none for our kernels.
    """

    model: onnx.ModelProto
    padded: Mapping[str, PaddedHeads]
    unfit: tuple[UnfitHeads, ...]


def pad_heads(model: onnx.ModelProto) -> PaddedGraph:
    """Pad the heads of attention nodes to what our kernels take in each node's type.

    Args:
        model: A graph lowered for the plugin, Q/DQ folded into its nodes; not changed.

    Returns:
        A new graph, or the same where nothing was padded.

    Raises:
        GraphError: If an attention node is malformed.
    """
    specs = map(spec_of_node, attention_nodes(model))
    if all(fits_every_type(spec.head_dim) for spec in specs):
        return PaddedGraph(model, {}, ())
    types = infer_types(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    padder = _Padder(result, types)
    outcomes = [padder.pad(node) for node in attention_nodes(result)]
    padded = {each.node: each for each in outcomes if isinstance(each, PaddedHeads)}
    unfit = tuple(each for each in outcomes if isinstance(each, UnfitHeads))
    if not padded:
        return PaddedGraph(model, {}, unfit)
    padder.finish()
    return PaddedGraph(result, padded, unfit)


class _Runs(NamedTuple):
    """Channels of a head, without and with zeros.

    Attributes:
        length: Without.
        padded: With them.
    """

    length: int
    padded: int

    @property
    def zeros(self) -> int:
        """Zeros behind each head."""
        return self.padded - self.length

    def of(self, channels: int) -> int:
        """Give the channels of all heads, with zeros."""
        return channels // self.length * self.padded


class _Padder:
    """Pads the attention nodes of a graph, one after the other.

    Args:
        model: Changed in place.
        types: Of its tensors.
    """

    def __init__(self, model: onnx.ModelProto, types: Mapping[str, TensorType]) -> None:
        self._model = model
        self._used_before = used_names(model.graph)
        self._types = types
        self._names = FreshNames(model.graph)
        self._constants = PaddedConstants(model, self._names)
        self._paths = LinearPaths(model, types, self._constants)
        # New nodes, by the first output of the node that they stand before, or behind.
        self._before: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._behind: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._grown: set[str] = set()

    def pad(self, node: onnx.NodeProto) -> PaddedHeads | UnfitHeads | None:
        """Pad the heads of one node; `None` if our kernels take them as they are."""
        spec, label = spec_of_node(node), node_label(node)
        element = self._types.get(node.input[0], _UNTYPED).element
        obstacle = kernel_head_obstacle(spec.head_dim, element)
        if obstacle:
            return UnfitHeads(label, obstacle)
        padded = kernel_head_dim(spec.head_dim, element)
        if padded == spec.head_dim:
            return None
        before = self._path_before(node, spec)
        behind = self._path_behind(node, spec)
        if before is None or behind is None:
            where = "output is not turned into float in one place"
            if before is None:
                where = "input is not rounded for it alone"
            reason = (
                f"its heads have {spec.head_dim} channels; our kernel takes multiples of 8 in "
                f"INT8, and they cannot be padded, as its {where}"
            )
            return UnfitHeads(label, reason)
        runs = _Runs(spec.head_dim, padded)
        self._grow_behind(node, behind, spec, runs)  # may rename what the node writes
        self._grow_before(node, before, spec, runs)
        self._grow_node(node, spec, runs)
        sides: tuple[tuple[Side, LinearPath], ...] = (("input", before), ("output", behind))
        copied = tuple(side for side, path in sides if path.linear is None)
        return PaddedHeads(label, spec.head_dim, padded, copied)

    def finish(self) -> None:
        """Put the new nodes where they belong, and forget the shapes of what has grown."""
        graph, nodes = self._model.graph, []
        for node in graph.node:
            name = node.output[0]
            # Weights that a node behind them repeats may have been repeated themselves.
            copies = list(self._constants.nodes[name])
            nodes += [*self._before[name], node, *self._behind[name]]
            while copies:
                nodes.append(copies.pop())
                copies += self._constants.nodes[nodes[-1].output[0]]
        del graph.node[:]
        graph.node.extend(nodes)
        for index in reversed(range(len(graph.value_info))):
            if graph.value_info[index].name in self._grown:
                del graph.value_info[index]
        drop_orphans(self._model, self._used_before | self._constants.added)

    def _path_before(self, node: onnx.NodeProto, spec: AttentionSpec) -> LinearPath | None:
        """Find where zeros are added: in a linear layer, or at the end of a path without one."""
        path = self._paths.before(node.input[0], spec.qkv_channels)
        if path.linear is not None:
            return path
        if not spec.qkv_quant_scale:
            return LinearPath((), None)
        cut = path.up_to("QuantizeLinear")
        return cut if cut and self._rank(cut.nodes[-1].input[0]) else None

    def _path_behind(self, node: onnx.NodeProto, spec: AttentionSpec) -> LinearPath | None:
        """Find where zeros are taken out, likewise."""
        path = self._paths.behind(node.output[0], spec.out_channels)
        if path.linear is not None:
            return path
        if not spec.out_quant_scale:
            return LinearPath((), None)
        cut = path.up_to("DequantizeLinear")
        return cut if cut and self._rank(cut.nodes[-1].output[0]) else None

    def _rank(self, tensor: str) -> int:
        """Tell the rank of a tensor; 0 if it is not known."""
        return len(self._types.get(tensor, _UNTYPED).shape or ())

    def _grow_before(
        self, node: onnx.NodeProto, path: LinearPath, spec: AttentionSpec, runs: _Runs
    ) -> None:
        for passed in path.nodes:
            self._grow_passed(passed, runs.of(spec.qkv_channels), runs)
        if path.linear is not None:
            self._grow_weight(path.linear, runs, output=True)
            return
        reader = path.nodes[-1] if path.nodes else node
        tensor = reader.input[0]
        outer = self._rank(tensor) - 1 if path.nodes else 3
        heads = 3 * spec.qkv_heads
        split = self._reshape(tensor, [0] * outer + [heads, runs.length])
        pads = self._constants.add("pads", np.array([0] * (2 * outer + 3) + [runs.zeros], np.int64))
        longer = self._node("Pad", [split.output[0], pads], tensor)
        joined = self._reshape(longer.output[0], [0] * outer + [heads * runs.padded])
        self._before[reader.output[0]] += [split, longer, joined]
        reader.input[0] = joined.output[0]

    def _grow_behind(
        self, node: onnx.NodeProto, path: LinearPath, spec: AttentionSpec, runs: _Runs
    ) -> None:
        for passed in path.nodes:
            self._grow_passed(passed, runs.of(spec.out_channels), runs)
        self._grown.add(node.output[0])
        if path.linear is not None:
            self._grow_weight(path.linear, runs, output=False)
            return
        writer = path.nodes[-1] if path.nodes else node
        tensor = writer.output[0]
        outer = self._rank(tensor) - 1 if path.nodes else 3
        heads = spec.out_channels // spec.head_dim
        writer.output[0] = self._names.new(f"{tensor}_padded")
        split = self._reshape(writer.output[0], [0] * outer + [heads, runs.padded])
        cut = [
            self._constants.add(name, np.array([value], np.int64))
            for name, value in (("starts", 0), ("ends", runs.length), ("axes", outer + 1))
        ]
        shorter = self._node("Slice", [split.output[0], *cut], tensor)
        joined = self._reshape(shorter.output[0], [0] * outer + [heads * runs.length])
        joined.output[0] = tensor
        self._behind[writer.output[0]] += [split, shorter, joined]

    def _grow_node(self, node: onnx.NodeProto, spec: AttentionSpec, runs: _Runs) -> None:
        inputs = list(node.input)
        if spec.pad_mode == "bias_kv":
            index = spec.input_names.index("pad_kv")
            inputs[index] = self._grow_pad_kv(node, inputs[index], runs)
        is_dot = spec.qk_mode == "dot"
        grown = make_attention_node(
            replace(
                spec,
                head_dim=runs.padded,
                softmax_scale=spec.effective_softmax_scale if is_dot else spec.softmax_scale,
            ),
            inputs,
            node.output[0],
            node.name,
        )
        del node.input[:], node.attribute[:]
        node.input.extend(grown.input)
        node.attribute.extend(grown.attribute)

    def _grow_pad_kv(self, node: onnx.NodeProto, tensor: str, runs: _Runs) -> str:
        if self._constants.can_pad(tensor):
            return self._constants.padded(tensor, 0, *runs)
        split = self._reshape(tensor, [-1, runs.length])
        pads = self._constants.add("pads", np.array([0, 0, 0, runs.zeros], np.int64))
        longer = self._node("Pad", [split.output[0], pads], tensor)
        joined = self._reshape(longer.output[0], [-1])
        self._before[node.output[0]] += [split, longer, joined]
        return joined.output[0]

    def _grow_weight(self, linear: onnx.NodeProto, runs: _Runs, *, output: bool) -> None:
        weight, axis = linear.input[1], weight_axis(linear, output=output)
        channels = self._constants.value(weight).shape[axis]
        linear.input[1] = self._constants.padded(weight, axis, *runs)
        if output:
            self._grown.add(linear.output[0])
            if len(linear.input) > 2 and linear.input[2]:
                linear.input[2] = self._grow_addend(linear.input[2], channels, runs)

    def _grow_passed(self, node: onnx.NodeProto, channels: int, runs: _Runs) -> None:
        """Let a node between attention and linear layer take the longer heads."""
        self._grown.add(node.output[0])
        if is_standard(node, "Add"):
            index = 0 if node.input[0] in self._constants else 1
            length = channels // runs.padded * runs.length
            node.input[index] = self._grow_addend(node.input[index], length, runs)
        if is_standard(node, "Reshape"):
            node.input[1] = self._grow_shape(node, channels)

    def _grow_addend(self, name: str, channels: int, runs: _Runs) -> str:
        """Pad what is added: nothing to the new channels."""
        values = self._constants.value(name)
        values = np.broadcast_to(values, (*values.shape[:-1], channels))
        longer = pad_runs(values, values.ndim - 1, *runs)
        return self._constants.add(f"{name}_padded", longer)

    def _grow_shape(self, reshape: onnx.NodeProto, channels: int) -> str:
        """Give a Reshape the new channels; its other sizes may be the graph's to compute."""
        shape = reshape.input[1]
        if shape in self._constants:
            sizes = [*self._constants.value(shape)[:-1], channels]
            return self._constants.add(f"{shape}_padded", np.array(sizes, np.int64))
        start, end, last = (
            self._constants.add(name, np.array([value], np.int64))
            for name, value in (("starts", 0), ("ends", -1), ("channels", channels))
        )
        outer = self._node("Slice", [shape, start, end], shape)
        whole = self._node("Concat", [outer.output[0], last], shape, axis=0)
        self._before[reshape.output[0]] += [outer, whole]
        return whole.output[0]

    def _reshape(self, tensor: str, shape: Sequence[int]) -> onnx.NodeProto:
        sizes = self._constants.add("shape", np.array(shape, np.int64))
        return self._node("Reshape", [tensor, sizes], tensor)

    def _node(
        self, op_type: str, inputs: Sequence[str], like: str, **attributes: Any
    ) -> onnx.NodeProto:
        output = self._names.new(f"{like}_{op_type}")
        name = self._names.new(f"{output}_of_heads")
        return helper.make_node(op_type, inputs, [output], name=name, **attributes)
