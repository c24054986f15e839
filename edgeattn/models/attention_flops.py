"""The products of the attention operator, counted. Imports no framework.

A multiply-accumulate is two operations. Only the products q·k and p·v count, those of padded
queries included, since every kernel computes whole windows.
"""

from __future__ import annotations

from edgeattn.spec import AttentionSpec, HeadGroup


def attention_products(spec: AttentionSpec, batch: int, height: int, width: int) -> int:
    """Count the operations in the two products of an attention.

    Args:
        spec: What it computes.
        batch: Maps.
        height: Tokens along the map's first axis.
        width: Tokens along its second.
    """
    pairs = sum(
        group.num_heads * query_key_pairs(height, width, group) for group in spec.head_groups
    )
    return batch * pairs * spec.head_dim * 2 * 2  # two products of multiply and add


def query_key_pairs(height: int, width: int, group: HeadGroup) -> int:
    """Count the pairs of a query and a key that one head of a group computes on a map."""
    rows = _axis_pairs(height, group.window_size[0], group, 0)
    cols = _axis_pairs(width, group.window_size[1], group, 1)
    return rows * cols


def _axis_pairs(length: int, window: int, group: HeadGroup, axis: int) -> int:
    window = window or length
    if group.mode != "neighborhood":
        return -(-length // window) * window**2
    if group.causal and axis == 1:
        return sum(min(token // group.dilation[axis] + 1, window) for token in range(length))
    class_sizes = [
        len(range(residue, length, group.dilation[axis])) for residue in range(group.dilation[axis])
    ]
    return sum(size * min(window, size) for size in class_sizes)
