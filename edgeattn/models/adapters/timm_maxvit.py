"""timm's MaxViT: attention in windows and on grids, channels last or first.

References:
    MaxViT (arXiv:2204.01697); timm `models/maxxvit.py`, `layers/pos_embed_rel.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgeattn.errors import ModelError
from edgeattn.models.adapters.attention import is_trainable, window_attention
from edgeattn.models.adapters.blocks import ChannelsFirst, PreNormBlock
from edgeattn.models.attention import MultiScaleWindowAttention
from edgeattn.models.foreign import state_dict_from_timm_maxvit
from edgeattn.models.window import map_windows
from edgeattn.spec import HeadGroup


def adapt_channels_last(block: Any) -> nn.Module:
    """Replace a `PartitionAttentionCl`."""
    return _block(block, _attention(block))


def adapt_channels_first(block: Any) -> nn.Module:
    """Replace a `PartitionAttention2d`, whose projections are convolutions of one pixel."""
    return _block(block, ChannelsFirst(_attention(block)))


def _block(block: Any, attention: nn.Module) -> nn.Module:
    return PreNormBlock(
        norm1=block.norm1,
        attn=attention,
        norm2=block.norm2,
        mlp=block.mlp,
        drop_path1=nn.Sequential(block.ls1, block.drop_path1),
        drop_path2=nn.Sequential(block.ls2, block.drop_path2),
    )


def _attention(block: Any) -> MultiScaleWindowAttention:
    theirs = block.attn
    group = HeadGroup(
        theirs.num_heads,
        tuple(block.partition_size),
        mode="block" if block.partition_block else "grid",
    )
    layers = ("qkv.", "proj.")
    known = {
        f"attn.{name}": tensor.flatten(1) if tensor.ndim == 4 else tensor
        for name, tensor in theirs.state_dict().items()
        if name.startswith((*layers, "rel_pos.relative_position_bias_table"))
    }
    state = {
        name.removeprefix("attention."): tensor
        for name, tensor in state_dict_from_timm_maxvit(known).items()
    }
    if theirs.rel_pos is not None and "relative_position_bias_table" not in state:
        state["relative_position_bias_table"] = _table(theirs.rel_pos, group)
    return window_attention(
        state,
        group,
        trainable=is_trainable(theirs),
        qkv_layout="H3D" if theirs.head_first else "3HD",
        pad_mode="mask",  # the original takes whole windows alone: nothing is padded
    )


@torch.no_grad()
def _table(rel_pos: Any, group: HeadGroup) -> Tensor:
    """Read the table off a bias that a network computes, `[1, nH, N, N]`; it is fixed then."""
    bias: Tensor = rel_pos.get_bias().squeeze(0).flatten(1)
    index = map_windows(*group.window_size, group, "pad_then_roll").bias_index.flatten()
    index = index.to(bias.device)
    entries = group.bias_entries // group.num_heads
    table = bias.new_zeros(group.num_heads, entries)
    table[:, index] = bias
    if not torch.equal(table[:, index], bias):
        raise ModelError("its position bias is no function of query minus key")
    return table.flatten()
