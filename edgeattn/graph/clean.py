"""Make an exported graph fit to be handed on: names of the model's modules, no traces.

The exporter notes the Python stack, with paths of the exporting machine, in every node; and it
numbers nodes instead of naming them. Names travel into engines and their layer reports.
"""

from __future__ import annotations

import ast

import onnx

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_KEPT_KEYS = ("namespace", _SCOPES_KEY, "pkg.torch.onnx.class_hierarchy")


def name_nodes_after_modules(model: onnx.ModelProto) -> None:
    """Name each node `path.of.module/OpType`, numbered where a module has several of a type."""
    seen: dict[str, int] = {}
    for node in model.graph.node:
        scope = _module_path(node)
        name = f"{scope}/{node.op_type}" if scope else node.op_type
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def strip_traces(model: onnx.ModelProto) -> None:
    """Drop metadata that speaks of the exporting machine or of the tracer's inner life."""
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        kept = [prop for prop in entry.metadata_props if prop.key in _KEPT_KEYS]
        del entry.metadata_props[:]
        entry.metadata_props.extend(kept)
    for node in graph.node:
        node.doc_string = ""


def _module_path(node: onnx.NodeProto) -> str:
    """Read the innermost module that the exporter noted; empty for nodes it made itself."""
    for prop in node.metadata_props:
        if prop.key == _SCOPES_KEY:
            scopes = ast.literal_eval(prop.value)
            return scopes[-2] if len(scopes) > 1 else ""
    return ""
