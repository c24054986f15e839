"""Blocks of a network: runs of nodes between tensors that everything passes through.

Where a single activation is all that later nodes still need, the graph can be cut in two. A branch
beside a residual path lies between two such cuts, whatever its nodes are called and however the
graph is written.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from edgeattn.graph.constants import Constants, subgraphs, used_names
from edgeattn.graph.nodes import node_label
from edgeattn.graph.shapes import infer_types

_NO_ACTIVATIONS = (
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.UINT8,
    TensorProto.INT8,
)


@dataclass(frozen=True)
class Block:
    """Layers between two cuts of a graph.

    Attributes:
        name: What their names have in common, as far as that tells them from others.
        nodes: Their names, in the graph's order.
    """

    name: str
    nodes: tuple[str, ...]


def blocks_of(model: onnx.ModelProto, nodes: Collection[str]) -> list[Block]:
    """Sort nodes into the blocks they lie in.

    Args:
        model: A graph.
        nodes: Names of nodes, as `node_label` gives them; the others make no block.

    Returns:
        The blocks in the graph's order; each node in one.
    """
    blocks: list[list[str]] = [[]]
    cuts = _cuts(model)
    for index, node in enumerate(model.graph.node):
        label = node_label(node)
        if label in nodes:
            blocks[-1].append(label)
        if index in cuts and blocks[-1]:
            blocks.append([])
    names: dict[str, int] = {}
    found = []
    for members in filter(None, blocks):
        name = _common_name(members)
        names[name] = names.get(name, 0) + 1
        found.append(Block(name if names[name] == 1 else f"{name} ({names[name]})", tuple(members)))
    return found


def _cuts(model: onnx.ModelProto) -> set[int]:
    """Find the nodes after which one activation alone is still needed."""
    graph = model.graph
    types = infer_types(model)
    constants = Constants(model)

    def is_activation(name: str) -> bool:
        known = types.get(name)
        return (
            bool(name)
            and name not in constants
            and not (known is not None and known.element in _NO_ACTIVATIONS)
        )

    last_use = {value.name: len(graph.node) for value in graph.output}
    for index, node in enumerate(graph.node):
        inner = (name for body in subgraphs(node) for name in used_names(body))
        for name in (*node.input, *inner):
            last_use.setdefault(name, index)
            last_use[name] = max(last_use[name], index)
    alive = {value.name for value in graph.input if is_activation(value.name)}
    cuts = set()
    for index, node in enumerate(graph.node):
        alive.update(name for name in node.output if is_activation(name) and name in last_use)
        alive = {name for name in alive if last_use.get(name, -1) > index}
        if len(alive) <= 1:
            cuts.add(index)
    return cuts


def _common_name(members: list[str]) -> str:
    """Name a block: one layer by itself, several by the path that they share."""
    if len(members) == 1:
        return members[0]
    paths = [label.replace("/", ".").split(".") for label in members]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common) or f"{members[0]} … {members[-1]}"
