"""Which module of the model a node comes from: read off the names that exporters give to nodes.

    stages.2.blocks.1.attention/MultiScaleWindowAttention/MatMul_26   edgeattn's export
    /layers.0/blocks.1/attn/qkv/MatMul                                torch's first exporter
    layer_norm_quantized_QuantizeLinear                               no module: its input's

A layer that computes nodes of several modules belongs to the module that holds them all.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import onnx

from edgeattn.graph.head_group_notes import (
    describe_windows,
    noted_group,
    noted_windows,
)
from edgeattn.graph.nodes import MOVING_OPS, is_standard, node_label
from edgeattn.graph.op import is_attention, spec_of_node
from edgeattn.profiling.layers.rows import MODEL, OTHER

Path = tuple[str, ...]

_CONVERSIONS = ("Cast", "DequantizeLinear", "QuantizeLinear")
# TensorRT's Myelin turns dots into underscores in the names that it makes of nodes' names.
_MANGLED = re.compile(r"_myl[0-9]")
_OPERATOR = re.compile(r"[A-Z][A-Za-z0-9]*(_[0-9]+)?$")


class ModuleMap:
    """The modules that the nodes of a graph come from.

    Args:
        model: A graph, lowered or not. Where no node's name has a path, nothing is known. Without
            one, names alone tell.

    Attributes:
        notes: Words on some modules, by path: the windows of attentions and head groups.
    """

    def __init__(self, model: onnx.ModelProto | None) -> None:
        self.notes: dict[Path, str] = {}
        self._paths: dict[str, Path | None] = {}
        self._carriers: set[str] = set()
        nodes = () if model is None else model.graph.node
        has_paths = any("/" in node.name for node in nodes)
        made: dict[str, Path | None] = {}
        for node in nodes:
            label = node_label(node)
            path = module_path(label) if has_paths else None
            if has_paths and path is None:
                is_added = is_standard(node, *_CONVERSIONS)
                path = made.get(node.input[0], MODEL) if is_added else MODEL
            self._paths[label] = self._with_group(node, path)
            made.update(dict.fromkeys(node.output, path))
            if is_standard(node, *MOVING_OPS, *_CONVERSIONS):
                self._carriers.add(label)

    def path_of(self, nodes: Collection[str]) -> Path:
        """Find the module that holds all nodes of a layer.

        Nodes that only move or convert values have no say beside others: they are fused into
        whatever is next to them.

        Args:
            nodes: Names of nodes.

        Returns:
            Its path; `MODEL` if only the model does, `OTHER` if a node is not known or none given.
        """
        computing = [name for name in nodes if name not in self._carriers] or list(nodes)
        paths = [self._path(name) for name in computing]
        known = [path for path in paths if path is not None]
        if not paths or len(known) < len(paths):
            return OTHER
        return _common(known) or MODEL

    def _path(self, name: str) -> Path | None:
        """Find the module of a node; of one that a later lowering wrote, by its name alone."""
        if name in self._paths:
            return self._paths[name]
        return None if _MANGLED.search(name) else module_path(name)

    def _with_group(self, node: onnx.NodeProto, path: Path | None) -> Path | None:
        """Note the windows of an attention; nodes of one head group lie one level deeper."""
        if path is None or path == MODEL:
            return path
        windows = describe_windows(spec_of_node(node)) if is_attention(node) else ""
        windows = windows or noted_windows(node)
        if windows:
            self.notes[path] = windows
        group = noted_group(node)
        if group is None:
            return path
        number, words = group
        path = (*path, f"group {number}")
        self.notes[path] = words
        return path


def module_path(name: str) -> Path | None:
    """Read the path of a module off the name of a node.

    Args:
        name: Of a node.

    Returns:
        Names of modules from the outermost on, numbers joined to the list that they count in:
        `("stages.2", "blocks.1", "attention")`. `None` if the name has no path.
    """
    scopes = name.removeprefix("/").split("/")[:-1]
    if not scopes:
        return None
    if not name.startswith("/"):  # a path with dots, and perhaps operators written out behind it
        ends = (i for i, scope in enumerate(scopes) if i and _OPERATOR.match(scope))
        scopes = scopes[: next(ends, len(scopes))]
    path: list[str] = []
    for scope in scopes:
        for part in _parts(scope):
            if path and part.startswith(path[-1] + "."):  # /layers/layers.0: the list again
                path.pop()
            path.append(part)
    return tuple(path)


def _parts(scope: str) -> list[str]:
    """Split `stages.2.blocks` into `stages.2` and `blocks`."""
    parts: list[str] = []
    for word in scope.split("."):
        if word.isdigit() and parts and not parts[-1].rpartition(".")[2].isdigit():
            parts[-1] += f".{word}"
        else:
            parts.append(word)
    return parts


def _common(paths: Collection[Path]) -> Path:
    first, *others = paths
    length = len(first)
    for path in others:
        same = (a == b for a, b in zip(first, path, strict=False))
        length = min(length, next((i for i, each in enumerate(same) if not each), len(path)))
    return first[:length]
