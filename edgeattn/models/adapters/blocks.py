"""Transformer blocks that keep every part of another library's block but its attention."""

from __future__ import annotations

from torch import Tensor, nn


class PreNormBlock(nn.Module):
    """`x + attn(norm1(x))`, then `x + mlp(norm2(x))`, as in Swin and MaxViT.

    Args:
        norm1: Before the attention.
        attn: Of a map, to a map of its shape.
        norm2: Before the MLP.
        mlp: Applied to each token.
        drop_path1: On the attention's branch; scales of layers go in here too.
        drop_path2: On the MLP's branch.
    """

    def __init__(
        self,
        norm1: nn.Module,
        attn: nn.Module,
        norm2: nn.Module,
        mlp: nn.Module,
        drop_path1: nn.Module,
        drop_path2: nn.Module,
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.drop_path1 = norm1, attn, drop_path1
        self.norm2, self.mlp, self.drop_path2 = norm2, mlp, drop_path2

    def forward(self, x: Tensor, **options: object) -> Tensor:
        """Transform a map; `options` are the attention's."""
        x = x + self.drop_path1(self.attn(self.norm1(x), **options))
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out


class PostNormBlock(PreNormBlock):
    """`x + norm1(attn(x))`, then `x + norm2(mlp(x))`, as in Swin V2."""

    def forward(self, x: Tensor, **options: object) -> Tensor:
        """Transform a map; `options` are the attention's."""
        x = x + self.drop_path1(self.norm1(self.attn(x, **options)))
        out: Tensor = x + self.drop_path2(self.norm2(self.mlp(x)))
        return out


class ChannelsFirst(nn.Module):
    """A module of channels-last maps amid `[B, C, H, W]`.

    Args:
        inner: Takes and gives `[B, H, W, C]`.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to its own shape."""
        out: Tensor = self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out
