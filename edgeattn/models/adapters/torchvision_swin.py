"""torchvision's Swin and Swin V2: their attention takes the whole map, ours stands in for it.

References:
    torchvision `models/swin_transformer.py`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from edgeattn.models.adapters.attention import is_trainable, window_attention
from edgeattn.models.foreign import attention_state
from edgeattn.spec import HeadGroup


def adapt_attention(theirs: Any) -> nn.Module:
    """Replace a `ShiftedWindowAttention` or `ShiftedWindowAttentionV2`."""
    group = HeadGroup(theirs.num_heads, tuple(theirs.window_size), tuple(theirs.shift_size))
    return window_attention(
        attention_state(theirs.state_dict(), "torchvision"),
        group,
        offsets=getattr(theirs, "relative_coords_table", None),
        trainable=is_trainable(theirs),
        mask_value=-100.0,
    )
