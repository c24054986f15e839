"""From the nodes that ONNX Runtime runs back to the nodes of the graph that it was given.

Its optimizer fuses, renames and drops nodes, and lays tensors out anew, and notes none of it. What
survives are tensors: whoever makes a tensor of the given graph computes everything between it and
the tensors of the given graph that others make. Where a node makes a tensor that the given graph
does not have, two habits of the optimizer tell which one it stands for: a node that keeps its name
keeps its outputs, and a convolution in blocked layout is named `TENSOR_nchwc`. Any other such node
works for the one that reads it: a linear layer can become Reshape, Gemm and Reshape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import onnx

from edgeattn.graph.constants import Constants
from edgeattn.graph.nodes import MOVING_OPS, node_label

_BLOCKED = re.compile(r"(.+)_nchwc(?:_[0-9]+)?$")
# They compute nothing; the last two are ONNX Runtime's own.
_MOVES = {*MOVING_OPS, "ReorderInput", "ReorderOutput"}


class Origin(NamedTuple):
    """Where a node that runs comes from.

    Attributes:
        nodes: Labels of the given graph's nodes that it computes, in their order; none for a node
            that only serves others, or where several could.
        serves: Labels of the nodes that it computes a part of, or moves tensors for.
    """

    nodes: tuple[str, ...]
    serves: tuple[str, ...]


def origins(given: onnx.ModelProto, optimized: onnx.ModelProto) -> dict[str, Origin]:
    """Find the nodes of a graph that each node of its optimized form computes.

    Args:
        given: The graph that ONNX Runtime was given.
        optimized: What it made of it.

    Returns:
        By name of the optimized graph's nodes.
    """
    regions = _Regions(given, optimized)
    found = {name: Origin(region, region) for name, region in regions.of.items() if region}
    helpers: dict[str, list[onnx.NodeProto]] = {}
    readers = {name: node for node in optimized.graph.node for name in node.input}
    for node in reversed(optimized.graph.node):
        if regions.of[_name(node)]:
            continue
        anchor = next((readers[name] for name in node.output if name in readers), None)
        while anchor is not None and not regions.of[_name(anchor)]:
            anchor = next((readers[name] for name in anchor.output if name in readers), None)
        if anchor is None:
            found[_name(node)] = Origin((), ())
        else:
            found[_name(node)] = Origin((), regions.of[_name(anchor)])
            helpers.setdefault(_name(anchor), []).append(node)
    by_name = {_name(node): node for node in optimized.graph.node}
    ends = [name for name, node in by_name.items() if node.op_type not in _MOVES]
    computed = {regions.of[name] for name in ends} - {()}
    for name, region in regions.of.items():
        if region in computed and by_name[name].op_type in _MOVES:
            found[name] = Origin((), region)  # the layout changed back
    for name, members in helpers.items():
        region = regions.of[name]
        computing = [node for node in members if node.op_type not in _MOVES]
        if by_name[name].op_type in _MOVES and computing and not regions.only_moves(region):
            found[name] = Origin((), region)
            if len(computing) == 1:
                found[_name(computing[0])] = Origin(region, region)
    return found


class _Regions:
    """What lies between the tensors that two graphs have in common.

    Attributes:
        of: By name of a node of the optimized graph, the given graph's nodes that end in it; none
            where it makes no tensor of the given graph.
    """

    def __init__(self, given: onnx.ModelProto, optimized: onnx.ModelProto) -> None:
        constants = Constants(given)
        self._makers = {
            name: node
            for node in given.graph.node
            for name in filter(None, node.output)
            if name not in constants
        }
        self._by_label = {node_label(node): node for node in given.graph.node}
        tensors = {_name(node): self._tensors(node) for node in optimized.graph.node}
        cuts = {name for names in tensors.values() for name in names}
        order = {label: index for index, label in enumerate(self._by_label)}
        self.of: Mapping[str, tuple[str, ...]] = {
            name: tuple(sorted(self._between(made, cuts), key=order.__getitem__))
            for name, made in tensors.items()
        }

    def only_moves(self, labels: tuple[str, ...]) -> bool:
        """Tell whether nodes of the given graph only move values."""
        return all(self._by_label[label].op_type in _MOVES for label in labels)

    def _between(self, made: list[str], cuts: set[str]) -> set[str]:
        labels: set[str] = set()
        todo = [self._makers[tensor] for tensor in made]
        while todo:
            node = todo.pop()
            if node_label(node) in labels:
                continue
            labels.add(node_label(node))
            todo += [self._makers[x] for x in node.input if x in self._makers and x not in cuts]
        return labels

    def _tensors(self, node: onnx.NodeProto) -> list[str]:
        """Name the tensors of the given graph that a node of the optimized graph makes."""
        same = [name for name in node.output if name in self._makers]
        if same:
            return same
        if node.name in self._by_label:
            return [name for name in self._by_label[node.name].output if name in self._makers]
        blocked = _BLOCKED.match(node.name)
        return [blocked[1]] if blocked and blocked[1] in self._makers else []


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or node.output[0])
