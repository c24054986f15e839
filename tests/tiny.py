"""A module small enough to be exported in a second, with the nodes that matter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeattn.inputs import InputSpec
from edgeattn.models.attention import MultiScaleWindowAttention
from edgeattn.spec import HeadGroup

INPUT = InputSpec((1, 3, 11, 9))
GROUPS = (HeadGroup(1, (4, 3), (2, 1)), HeadGroup(1, 3, head_offset=1, mode="neighborhood"))


class Block(nn.Module):
    """Norm, attention in two kinds of windows, GELU; the residual around them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = MultiScaleWindowAttention(8, GROUPS)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, 8]` to the same shape."""
        return x + self.activation(self.attention(self.norm(x)))


class Tiny(nn.Module):
    """Images of any size to five logits, by two blocks and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.Sequential(Block(), Block())
        self.drop = nn.Dropout()
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, H, W]` to `[B, 5]`."""
        x = self.blocks(self.stem(images).permute(0, 2, 3, 1))
        return self.head(self.drop(x).mean((1, 2)))


def tiny() -> Tiny:
    """Build the module with weights drawn from a fixed seed, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tiny().eval()
