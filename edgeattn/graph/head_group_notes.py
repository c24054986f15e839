"""Notes on the nodes that attention was written out in: its windows, and the head group of each.

Once an attention node is standard operators, nothing in them tells of windows and head groups. The
notes stand in the nodes' `metadata_props`, which runtimes ignore and reports read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx

from edgeattn.graph.standard_attention import DecomposedGroup
from edgeattn.spec import AttentionSpec, HeadGroup

_WINDOWS_KEY = "edgeattn.windows"
_GROUP_KEY = "edgeattn.head_group"


def note_head_groups(model: onnx.ModelProto, groups: Sequence[DecomposedGroup]) -> None:
    """Note in each node that computes an attention what it is part of.

    Args:
        model: Changed in place.
        groups: The head groups that its nodes were written for.
    """
    nodes = {node.name: node for node in model.graph.node}
    members = Counter((group.node, name) for group in groups for name in group.nodes)
    for group in groups:
        for name in group.nodes:
            if name not in nodes:
                continue
            props = {prop.key: prop.value for prop in nodes[name].metadata_props}
            props[_WINDOWS_KEY] = describe_windows(group.spec)
            # What serves all groups is in each of them.
            if group.groups > 1 and members[group.node, name] == 1:
                props[_GROUP_KEY] = f"{group.number} {describe_group(group.head_group)}"
            del nodes[name].metadata_props[:]
            nodes[name].metadata_props.extend(
                onnx.StringStringEntryProto(key=key, value=value) for key, value in props.items()
            )


def noted_windows(node: onnx.NodeProto) -> str:
    """Read the windows of the attention that a node is part of; empty if it is of none."""
    return _note(node, _WINDOWS_KEY)


def noted_group(node: onnx.NodeProto) -> tuple[str, str] | None:
    """Read the number of the head group that a node is part of, and its window in words."""
    number, _, words = _note(node, _GROUP_KEY).partition(" ")
    return (number, words) if number else None


def describe_windows(spec: AttentionSpec) -> str:
    """Name the windows of an attention: `window 7`, `windows 4, 8`."""
    sizes = [_size(group) for group in spec.head_groups]
    return f"window{'s' if len(sizes) > 1 else ''} {', '.join(sizes)}"


def describe_group(group: HeadGroup) -> str:
    """Name the window of a head group: `window 8, shift 4`."""
    shift = f", shift {_pair(*group.shift_size)}" if any(group.shift_size) else ""
    return f"window {_size(group)}{shift}"


def _size(group: HeadGroup) -> str:
    mode = "" if group.mode == "block" else f"{group.mode} "
    return mode + _pair(*(size or "all" for size in group.window_size))


def _pair(rows: int | str, cols: int | str) -> str:
    return str(rows) if rows == cols else f"{rows}×{cols}"


def _note(node: onnx.NodeProto, key: str) -> str:
    return next((str(prop.value) for prop in node.metadata_props if prop.key == key), "")
