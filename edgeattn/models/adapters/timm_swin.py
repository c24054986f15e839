"""timm's Swin and Swin V2, which `swin_s3` and others are built of.

References:
    timm `models/swin_transformer.py`, `models/swin_transformer_v2.py`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from edgeattn.models.adapters.attention import is_trainable, window_attention
from edgeattn.models.adapters.blocks import PostNormBlock, PreNormBlock
from edgeattn.models.foreign import attention_state
from edgeattn.spec import HeadGroup


def adapt_swin_block(block: Any) -> nn.Module:
    """Replace a `SwinTransformerBlock`."""
    return _adapt(block, PreNormBlock)


def adapt_swinv2_block(block: Any) -> nn.Module:
    """Replace a `SwinTransformerV2Block`."""
    return _adapt(block, PostNormBlock)


def _adapt(block: Any, block_class: type[PreNormBlock]) -> nn.Module:
    theirs = block.attn
    attention = window_attention(
        attention_state(theirs.state_dict(), "timm"),
        HeadGroup(theirs.num_heads, tuple(block.window_size), tuple(block.shift_size)),
        when_covered="split",
        offsets=getattr(theirs, "relative_coords_table", None),
        trainable=is_trainable(theirs),
        mask_value=-100.0,
        shift_pad_order="roll_then_pad",
    )
    return block_class(
        norm1=block.norm1,
        attn=attention,
        norm2=block.norm2,
        mlp=block.mlp,
        drop_path1=block.drop_path1,
        drop_path2=block.drop_path2,
    )
