"""Names that a graph does not have yet."""

from __future__ import annotations

import onnx

from edgeattn.graph.constants import subgraphs, used_names


class FreshNames:
    """Makes names for the tensors and nodes that a rewrite adds.

    Args:
        graph: Whose names are taken, those inside control flow too.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = _all_names(graph)

    def new(self, name: str) -> str:
        """Take a name, numbered if it is taken already."""
        number, candidate = 1, name
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.initializer)} | used_names(graph)
    for node in graph.node:
        names.update((node.name, *node.output))
        for body in subgraphs(node):
            names |= _all_names(body)
    return names


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own; those that have one already keep it.

    Args:
        graph: Changed in place; not inside control flow.
    """
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for node in graph.node:
        if not node.name or node.name in seen:
            label = node.name or next(filter(None, node.output), node.op_type)
            number, node.name = 1, label
            while node.name in taken:
                number += 1
                node.name = f"{label}_{number}"
            taken.add(node.name)
        seen.add(node.name)
