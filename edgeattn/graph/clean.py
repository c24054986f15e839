"""Make an exported graph fit to be handed on: names of the model's modules, no traces.

The exporter notes the Python stack, with paths of the exporting machine, in every node; and it
numbers nodes instead of naming them. Names travel into engines and their layer reports.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

import onnx

from edgeattn.graph.constants import subgraphs

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
# What the exporter notes for nodes of no module, of its own decompositions.
_NO_MODULE = "_empty_nn_module_stack"
_KEPT_KEYS = ("namespace", _SCOPES_KEY, "pkg.torch.onnx.class_hierarchy")


def name_nodes_after_modules(model: onnx.ModelProto, keep: Collection[str] = ()) -> None:
    """Name each node `path.of.module/OpType`, numbered where that is taken.

    A node of which the exporter noted no module, for it or a simplifier made it, is named after
    the module of what it reads.

    Args:
        model: Changed in place.
        keep: Names that stay, each with the first node that has it.
    """
    taken, free = set(keep), set(keep)
    path_of: dict[str, str] = {}
    for node in _nodes(model.graph):
        if node.name in free:
            free.remove(node.name)
            path = node.name.rpartition("/")[0]
        else:
            noted = _module_path(node)
            inherited = next((path_of[name] for name in node.input if name in path_of), "")
            path = inherited if noted is None else noted
            node.name = _untaken(f"{path}/{node.op_type}" if path else node.op_type, taken)
            taken.add(node.name)
        path_of.update(dict.fromkeys(node.output, path))


def strip_traces(model: onnx.ModelProto) -> None:
    """Drop metadata that speaks of the exporting machine or of the tracer's inner life."""
    nodes = list(_nodes(model.graph))
    graphs = [model.graph, *(body for node in nodes for body in subgraphs(node))]
    described = [v for g in graphs for v in (*g.value_info, *g.input, *g.output, *g.initializer)]
    for entry in (model, *graphs, *nodes, *described):
        kept = [prop for prop in entry.metadata_props if prop.key in _KEPT_KEYS]
        del entry.metadata_props[:]
        entry.metadata_props.extend(kept)
        entry.doc_string = ""


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """List the nodes of a graph and of its control flow."""
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from _nodes(body)


def _untaken(name: str, taken: Collection[str]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _module_path(node: onnx.NodeProto) -> str | None:
    """Read the innermost module that the exporter noted; `None` if it noted none."""
    for prop in node.metadata_props:
        if prop.key == _SCOPES_KEY:
            scopes = ast.literal_eval(prop.value)
            path = str(scopes[-2]) if len(scopes) > 1 else ""
            return None if path.startswith(_NO_MODULE) else path
    return None
