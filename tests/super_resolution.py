"""A small super resolution network in the style of SwinIR, whose masks belong to the image.

Windows of tokens in a list, blocks around a convolution, the mask drawn in the forward pass for
the size at hand: the habits of that family of code, written anew.

References:
    Liang et al., SwinIR (arXiv:2108.10257).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def to_windows(x: Tensor, window: int) -> Tensor:
    """Cut `[B, H, W, C]` into `[B·nW, window, window, C]`."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window, window, c)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Put windows `[B·nW, window, window, C]` together to `[B, H, W, C]`."""
    window = windows.shape[1]
    x = windows.view(-1, height // window, width // window, window, window, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, windows.shape[-1])


def shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Draw the mask `[nW, N, N]` by painting nine regions of an image."""
    regions = torch.zeros(1, height, width, 1)
    bands = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    number = 0
    for rows in bands:
        for cols in bands:
            regions[:, rows, cols, :] = number
            number += 1
    labels = to_windows(regions, window).view(-1, window * window)
    return (labels[:, None, :] - labels[:, :, None]).ne(0).float() * -100.0


class WindowAttention(nn.Module):
    """Attention within windows, with a bias by relative position."""

    def __init__(self, channels: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        place = torch.arange(window)
        rows, cols = (p.flatten() for p in torch.meshgrid(place, place, indexing="ij"))
        step = (rows[:, None] - rows + window - 1) * (2 * window - 1)
        self.register_buffer("index", step + cols[:, None] - cols + window - 1)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map `[B·nW, N, C]` to the same shape."""
        rows, n, c = x.shape
        q, k, v = self.qkv(x).view(rows, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        logits = (q * self.scale) @ k.transpose(-2, -1)
        logits = logits + self.bias_table[self.index.flatten()].view(n, n, -1).permute(2, 0, 1)
        if mask is not None:
            count = mask.shape[0]
            logits = logits.view(rows // count, count, self.num_heads, n, n) + mask[:, None]
            logits = logits.view(-1, self.num_heads, n, n)
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(rows, n, c))


class Block(nn.Module):
    """Windowed attention and an MLP on tokens `[B, H·W, C]`, each with its residual."""

    def __init__(self, channels: int, num_heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, num_heads, window)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map `[B, H·W, C]` to the same shape."""
        b, _, c = x.shape
        tokens, mask = self.norm1(x).view(b, height, width, c), None
        if self.shift:
            tokens = torch.roll(tokens, (-self.shift, -self.shift), (1, 2))
            mask = shift_mask(height, width, self.window, self.shift)
        windows = to_windows(tokens, self.window).view(-1, self.window**2, c)
        windows = self.attention(windows, mask).view(-1, self.window, self.window, c)
        tokens = from_windows(windows, height, width)
        if self.shift:
            tokens = torch.roll(tokens, (self.shift, self.shift), (1, 2))
        x = x + tokens.view(b, height * width, c)
        return x + self.mlp(self.norm2(x))


class Group(nn.Module):
    """Blocks, a convolution, and the residual around both."""

    def __init__(self, channels: int, depth: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(channels, num_heads, window, window // 2 * (i % 2)) for i in range(depth)
        )
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        _, c, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return x + self.conv(tokens.transpose(1, 2).reshape(-1, c, height, width))


class SuperResolution(nn.Module):
    """Twice the size: shallow features, groups of blocks, and pixels shuffled out of channels."""

    def __init__(
        self, channels: int, depths: Sequence[int], num_heads: Sequence[int], window_size: int
    ) -> None:
        super().__init__()
        self.window = window_size
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.groups = nn.Sequential(
            *(Group(channels, d, n, window_size) for d, n in zip(depths, num_heads, strict=True))
        )
        self.last = nn.Conv2d(channels, 12, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, H, W]` to `[B, 3, 2H, 2W]`."""
        height, width = images.shape[2:]
        below, right = -height % self.window, -width % self.window
        x = self.first(F.pad(images, (0, right, 0, below), mode="reflect"))
        x = F.pixel_shuffle(self.last(x + self.groups(x)), 2)
        return x[:, :, : 2 * height, : 2 * width]
