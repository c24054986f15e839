"""The parts of a transformer backbone around its attention: all on channels-last maps.

References:
    Swin (arXiv:2103.14030) for patch embedding and merging and the pre-norm block, Swin V2
    (arXiv:2111.09883) for the norm after each branch, arXiv:1603.09382 for stochastic depth,
    arXiv:2106.14881 for the convolution stem.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from edgeattn.errors import ModelError

NormPlacement = Literal["pre", "res_post"]


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, `[..., C]` to `[..., C]`.

    Args:
        dim: Channels, C.
        hidden_dim: Channels between the two layers.
        gelu_approximation: `none` or `tanh`.
    """

    def __init__(self, dim: int, hidden_dim: int, gelu_approximation: str = "none") -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU(approximate=gelu_approximation)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of each token."""
        mixed: Tensor = self.fc2(self.act(self.fc1(x)))
        return mixed


class DropPath(nn.Module):
    """Leave out a residual branch for some samples while training (stochastic depth).

    Args:
        drop_probability: Share of the samples that skip the branch; 0 to below 1.
    """

    def __init__(self, drop_probability: float) -> None:
        super().__init__()
        if not 0.0 <= drop_probability < 1.0:
            raise ModelError(f"drop_probability is {drop_probability}; expected 0 to below 1")
        self.drop_probability = drop_probability

    def forward(self, x: Tensor) -> Tensor:
        """Zero whole samples of `[B, ...]` and scale up the others; nothing in eval mode."""
        if not self.training or self.drop_probability == 0.0:
            return x
        keep = 1.0 - self.drop_probability
        kept = x.new_empty(x.shape[:1] + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (kept / keep)

    def extra_repr(self) -> str:
        """Show the probability in the module's text form."""
        return f"drop_probability={self.drop_probability}"


def drop_path_schedule(last: float, num_blocks: int) -> list[float]:
    """Let the share of dropped samples rise linearly from 0 at the first block to `last`."""
    return [last * block / max(num_blocks - 1, 1) for block in range(num_blocks)]


class TransformerBlock(nn.Module):
    """Attention, then an MLP, each in a residual branch with a layer norm.

    `pre`: `x + attention(norm1(x))`, then `x + mlp(norm2(x))`. `res_post` (Swin V2): the norm
    stands at the end of the branch, `x + norm1(attention(x))`.

    Args:
        dim: Channels, C.
        attention: Module from `[..., C]` to the same shape.
        mlp_ratio: Hidden channels of the MLP per channel.
        norm_placement: `pre` or `res_post`.
        drop_path: Share of the samples that skip a branch while training.
        norm_eps: Added to the variance in the norms.
        gelu_approximation: `none` or `tanh` (models that come from TensorFlow).

    Raises:
        ModelError: If `norm_placement` is unknown or `drop_path` is out of range.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        mlp_ratio: float = 4.0,
        norm_placement: NormPlacement = "pre",
        drop_path: float = 0.0,
        *,
        norm_eps: float = 1e-5,
        gelu_approximation: str = "none",
    ) -> None:
        super().__init__()
        choices = get_args(NormPlacement)
        if norm_placement not in choices:
            raise ModelError(
                f"norm_placement is {norm_placement!r}; expected {' or '.join(choices)}"
            )
        self.norm_placement = norm_placement
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, round(dim * mlp_ratio), gelu_approximation)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens `[..., C]`."""
        if self.norm_placement == "pre":
            x = x + self.drop_path(self.attention(self.norm1(x)))
            return x + self.drop_path(self.mlp(self.norm2(x)))
        x = x + self.drop_path(self.norm1(self.attention(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class PatchEmbed(nn.Module):
    """Cut images into square patches and project each to a token.

    Args:
        in_channels: Channels of the images.
        dim: Channels of the tokens.
        patch_size: Side of a patch in pixels.
        pad: Zero-pad images on the right and at the bottom to whole patches (Hugging Face, timm);
            otherwise what is left over is cut off (torchvision).
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int, *, pad: bool = True) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.pad = pad
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images `[B, in_channels, H, W]` into a map `[B, H/patch, W/patch, dim]`."""
        if self.pad:
            images = _pad_to_multiple(images, self.patch_size)
        tokens: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return tokens


class ConvStem(nn.Module):
    """Two overlapping 3x3 convolutions in place of a patch embedding: trains well on little data.

    Args:
        in_channels: Channels of the images.
        dim: Channels of the tokens; even.
        patch_size: Reduction of height and width: 2 or 4.

    Raises:
        ModelError: If `patch_size` is neither 2 nor 4.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        if patch_size not in (2, 4):
            raise ModelError(f"patch_size of a convolution stem is {patch_size}; expected 2 or 4")
        first_stride = patch_size // 2
        self.conv1 = nn.Conv2d(in_channels, dim // 2, 3, stride=first_stride, padding=1)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images `[B, in_channels, H, W]` into `[B, ceil(H/patch), ceil(W/patch), dim]`."""
        features = self.conv2(self.act(self.conv1(images)))
        tokens: Tensor = self.norm(features.permute(0, 2, 3, 1))
        return tokens


class PatchMerging(nn.Module):
    """Halve height and width: each 2x2 tokens become one with `out_dim` channels.

    Odd maps are padded with a row or column of zeros. The four neighbours are concatenated column
    by column (top left, bottom left, top right, bottom right), as every Swin implementation does.

    Args:
        dim: Channels, C.
        out_dim: Channels after it; `2 * dim` by default.
        norm_first: Normalise the concatenated `4 * dim` channels (Swin), or the reduced ones
            (Swin V2).
    """

    def __init__(self, dim: int, out_dim: int | None = None, *, norm_first: bool = True) -> None:
        super().__init__()
        out_dim = out_dim or 2 * dim
        self.norm_first = norm_first
        self.norm = nn.LayerNorm(4 * dim if norm_first else out_dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge `[B, H, W, C]` to `[B, ceil(H/2), ceil(W/2), out_dim]`."""
        batch, height, width, channels = x.shape
        rows, cols = (height + 1) // 2, (width + 1) // 2
        x = F.pad(x, (0, 0, 0, 2 * cols - width, 0, 2 * rows - height))
        x = x.reshape(batch, rows, 2, cols, 2, channels)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # [B, rows, cols, 4 * C]
        merged: Tensor = (
            self.reduction(self.norm(x)) if self.norm_first else self.norm(self.reduction(x))
        )
        return merged


def _pad_to_multiple(images: Tensor, size: int) -> Tensor:
    # Rounded up, not `-height % size`: torch.export can then prove the padded sizes equal.
    height, width = images.shape[-2:]
    rows, cols = (height + size - 1) // size, (width + size - 1) // size
    return F.pad(images, (0, size * cols - width, 0, size * rows - height))
