"""The cost of the attention operator, for torch's FLOP counter.

Importing this module registers the formula. A multiply-accumulate is two operations, as in the
counter's other formulas; only the products q·k and p·v count, those of padded queries included,
since every kernel computes whole windows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from edgeattn.models import operator as _operator  # noqa: F401  # defines the operator
from edgeattn.spec import ATTRIBUTE_KINDS, AttentionSpec, HeadGroup


@register_flop_formula(torch.ops.edgeattn.multi_scale_window_attention)
def attention_flops(qkv_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Count the operations of one call of the operator.

    Args:
        qkv_shape: `[B, H, W, 3 * qkv_heads * head_dim]`.
        *args: The operator's other arguments by position: three tensors, then attributes.
        out_shape: Shape of the output; follows from the others.
        **kwargs: The operator's arguments by name.
    """
    attributes = dict(zip(ATTRIBUTE_KINDS, args[3:], strict=False))
    attributes |= {name: value for name, value in kwargs.items() if name in ATTRIBUTE_KINDS}
    spec = AttentionSpec.from_attributes(attributes)
    batch, height, width, _ = qkv_shape
    pairs = sum(
        group.num_heads * _query_key_pairs(height, width, group) for group in spec.head_groups
    )
    return int(batch * pairs * spec.head_dim * 2 * 2)  # two products of multiply and add


def _query_key_pairs(height: int, width: int, group: HeadGroup) -> int:
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
