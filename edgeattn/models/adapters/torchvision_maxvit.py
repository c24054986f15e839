"""torchvision's MaxViT: attention in windows and on grids, amid maps with channels first.

References:
    MaxViT (arXiv:2204.01697); torchvision `models/maxvit.py`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from edgeattn.models.adapters.attention import is_trainable, window_attention
from edgeattn.models.adapters.blocks import ChannelsFirst, PreNormBlock
from edgeattn.spec import HeadGroup


def adapt_partition_layer(layer: Any) -> nn.Module:
    """Replace a `PartitionAttentionLayer`."""
    norm, theirs, dropout = layer.attn_layer
    renames = {"to_qkv.": "qkv.", "merge.": "proj."}
    tensors = {name: tensor.detach() for name, tensor in theirs.state_dict().items()}
    state = {
        new + name.removeprefix(old): tensor
        for old, new in renames.items()
        for name, tensor in tensors.items()
        if name.startswith(old)
    }
    state["relative_position_bias_table"] = tensors["relative_position_bias_table"].T.flatten()
    attention = window_attention(
        state,
        HeadGroup(
            theirs.n_heads,
            (theirs.size, theirs.size),
            mode="grid" if layer.partition_type == "grid" else "block",
        ),
        trainable=is_trainable(theirs),
        softmax_scale=theirs.scale_factor,  # by the channels of all heads
        pad_mode="mask",  # the original takes whole windows alone: nothing is padded
    )
    mlp_norm, *mlp = layer.mlp_layer
    block = PreNormBlock(
        norm1=norm,
        attn=nn.Sequential(attention, dropout),
        norm2=mlp_norm,
        mlp=nn.Sequential(*mlp),
        drop_path1=layer.stochastic_dropout,
        drop_path2=layer.stochastic_dropout,
    )
    return ChannelsFirst(block)
