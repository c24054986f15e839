"""Self-attention layers: the multi-head baseline and attention in windows of several sizes.

Both take and give channels-last tokens, so that no transpose stands between blocks.

References:
    Attention Is All You Need (arXiv:1706.03762) for the baseline; Swin (arXiv:2103.14030), Swin V2
    (arXiv:2111.09883) and DW-ViT (arXiv:2203.12856, window sizes per head group) for the windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgeattn.errors import SpecError
from edgeattn.models.operator import multi_scale_window_attention
from edgeattn.spec import AttentionSpec, HeadGroup, PadMode, QkMode, QkvLayout, ShiftPadOrder

# Swin V2 bounds the temperature of cosine attention: the factor of the cosine stays below 100.
_MAX_LOGIT_SCALE = 100.0


class MultiHeadSelfAttention(nn.Module):
    """Attention of every token to every token, heads side by side: the baseline.

    Per head: `softmax(q·k / sqrt(head_dim)) · v`. Written with plain products, so that it exports
    to MatMul and Softmax.

    Args:
        dim: Channels, C.
        num_heads: Heads; divides `dim`.
        qkv_bias: The projection to query, key and value has a bias.

    Raises:
        SpecError: If `num_heads` does not divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = _head_dim(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over all tokens.

        Args:
            x: `[B, N, C]` or `[B, H, W, C]`.

        Returns:
            The shape of `x`.
        """
        tokens = x.flatten(1, -2)
        packed = self.qkv(tokens).unflatten(2, (3, self.num_heads, self.head_dim))
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)  # [B, nH, N, D] each
        logits = (query * self.head_dim**-0.5) @ key.transpose(-2, -1)
        out = logits.softmax(dim=-1) @ value
        out = self.proj(out.transpose(1, 2).flatten(2))
        return out.reshape(x.shape)


class MultiScaleWindowAttention(nn.Module):
    """Attention in windows of several sizes, one per head group, then one projection.

    A linear layer packs query, key and value, the operator attends within the windows of each
    group, and the groups' heads, side by side, are projected back to `dim` channels.

    Args:
        dim: Channels of input and output, C.
        head_groups: The groups and their windows; their head ranges may be disjoint or overlap.
        num_heads: Heads in the packed projection; divides `dim`. By default the groups' last head
            is the last one.
        qkv_bias: The packed projection has a bias.
        relative_position_bias: `True` for a learned table, `False` for none, or a module that
            takes no input and gives the table, such as `ContinuousPositionBias`.
        pad_mode: Padded keys are left out (`mask`), or attend with the key and value that the
            projection gives to a token of zeros (`bias_kv`, as Swin implementations have it).
        shift_pad_order: `pad_then_roll` (torchvision, Hugging Face) or `roll_then_pad` (timm).
        mask_value: Added to the logits of tokens that a shift brought together.
        qk_mode: `dot`, or `cosine` with a learned factor per head (Swin V2).
        qkv_layout: Order of the packed channels: `3HD` (Swin) or `H3D` (MaxViT).
        softmax_scale: Factor of q·k; 0 stands for `head_dim ** -0.5`.
        proj_bias: The output projection has a bias.

    Attributes:
        spec: What the operator computes.
        relative_position_bias_table: `[spec.bias_entries]`: per group
            `[num_heads, (2*rows - 1) * (2*cols - 1)]`, flat, indexed by query minus key; `None`
            unless learned.
        logit_scale: `[num_heads]`: logarithm of the cosine's factor; `None` for `dot`.

    Raises:
        SpecError: If `num_heads` does not divide `dim`, or the values contradict each other.
    """

    def __init__(
        self,
        dim: int,
        head_groups: Iterable[HeadGroup],
        *,
        num_heads: int | None = None,
        qkv_bias: bool = True,
        relative_position_bias: bool | nn.Module = True,
        pad_mode: PadMode = "bias_kv",
        shift_pad_order: ShiftPadOrder = "pad_then_roll",
        mask_value: float = -math.inf,
        qk_mode: QkMode = "dot",
        qkv_layout: QkvLayout = "3HD",
        softmax_scale: float = 0.0,
        proj_bias: bool = True,
    ) -> None:
        super().__init__()
        groups = tuple(head_groups)
        if num_heads is None:
            num_heads = max((group.head_offset + group.num_heads for group in groups), default=1)
        self.spec = AttentionSpec(
            head_dim=_head_dim(dim, num_heads),
            qkv_heads=num_heads,
            head_groups=groups,
            softmax_scale=softmax_scale,
            qkv_layout=qkv_layout,
            has_bias=relative_position_bias is not False,
            pad_mode=pad_mode,
            shift_pad_order=shift_pad_order,
            mask_value=mask_value,
            qk_mode=qk_mode,
        )
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(self.spec.out_channels, dim, bias=proj_bias)
        self.position_bias = (
            relative_position_bias if isinstance(relative_position_bias, nn.Module) else None
        )
        self.relative_position_bias_table: nn.Parameter | None = None
        if relative_position_bias is True:
            self.relative_position_bias_table = nn.Parameter(torch.empty(self.spec.bias_entries))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.logit_scale: nn.Parameter | None = None
        if qk_mode == "cosine":
            self.logit_scale = nn.Parameter(torch.full((num_heads,), math.log(10.0)))

    def forward(self, x: Tensor) -> Tensor:
        """Attend within the windows of a map of any size.

        Args:
            x: `[B, H, W, C]`; a sequence has H = 1.

        Returns:
            `[B, H, W, C]`.
        """
        attended = multi_scale_window_attention(
            self.qkv(x), self.spec, self._bias_table(), self._pad_kv(), self._cosine_factor()
        )
        projected: Tensor = self.proj(attended)
        return projected

    def _bias_table(self) -> Tensor | None:
        if self.position_bias is None:
            return self.relative_position_bias_table
        table: Tensor = self.position_bias()
        return table

    def _pad_kv(self) -> Tensor | None:
        """Key and value of a token of zeros, `[2 * num_heads * head_dim]`: the qkv bias's part."""
        if self.spec.pad_mode == "mask":
            return None
        channels = self.spec.qkv_heads * self.spec.head_dim
        bias: Tensor | None = self.qkv.bias
        if bias is None:
            return self.qkv.weight.new_zeros(2 * channels)
        if self.spec.qkv_layout == "H3D":
            bias = bias.view(self.spec.qkv_heads, 3, self.spec.head_dim).transpose(0, 1).flatten()
        return bias[channels:]

    def _cosine_factor(self) -> Tensor | None:
        if self.logit_scale is None:
            return None
        return self.logit_scale.clamp(max=math.log(_MAX_LOGIT_SCALE)).exp()


def _head_dim(dim: int, num_heads: int) -> int:
    if num_heads < 1 or dim % num_heads:
        raise SpecError(
            f"{num_heads} heads do not divide {dim} channels",
            "choose num_heads among the divisors of dim",
        )
    return dim // num_heads
