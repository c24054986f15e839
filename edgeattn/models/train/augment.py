"""Random changes of training inputs that keep their class.

All draw from torch's global generator, so that one seed fixes a training run.

References:
    Simard, Steinkraus and Platt, "Best practices for convolutional neural networks applied to
    visual document analysis" (ICDAR 2003), for affine and elastic distortions of digits.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def warp_images(
    images: Tensor,
    *,
    degrees: float = 10.0,
    scale: float = 0.1,
    shear: float = 0.15,
    shift_px: float = 2.0,
    elastic_px: float = 0.6,
    elastic_cells: int = 5,
) -> Tensor:
    """Rotate, scale, shear, shift and bend images, each by its own random amount.

    Args:
        images: `[B, C, H, W]` floating point, background 0.
        degrees: Largest rotation, in degrees.
        scale: Largest relative change of width and of height.
        shear: Largest horizontal shift per row, in columns.
        shift_px: Largest shift, in pixels.
        elastic_px: Standard deviation of the local displacements, in pixels.
        elastic_cells: Displacements are drawn on a grid of this side and interpolated.

    Returns:
        The shape of `images`.
    """
    batch, _, height, width = images.shape

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(batch) - 1) * limit

    angle = uniform(math.radians(degrees))
    zoom_x, zoom_y = 1 + uniform(scale), 1 + uniform(scale)
    shift_x, shift_y = uniform(2 * shift_px / width), uniform(2 * shift_px / height)
    slant = uniform(shear)
    cos, sin = angle.cos(), angle.sin()
    rows = [zoom_x * cos, slant - sin, shift_x, sin, zoom_y * cos, shift_y]
    affine = torch.stack(rows, dim=1).view(batch, 2, 3)
    grid = F.affine_grid(
        affine, list(images.shape), align_corners=False
    )  # [B, H, W, 2], in [-1, 1]
    coarse = torch.randn(batch, 2, elastic_cells, elastic_cells) * elastic_px
    bend = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    bend = bend.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height])
    return F.grid_sample(images, (grid + bend).to(images.dtype), align_corners=False)


def warp_signals(
    signals: Tensor,
    *,
    stretch: float = 0.2,
    shift: float = 0.5,
    scale: float = 0.15,
    noise: float = 0.05,
) -> Tensor:
    """Stretch and shift signals in time, scale each channel and add noise.

    What leaves the recording at one end is mirrored in.

    Args:
        signals: `[B, channels, length]` floating point.
        stretch: Largest relative change of tempo.
        shift: Largest shift, as a part of the length.
        scale: Standard deviation of each channel's relative change.
        noise: Standard deviation of the noise, relative to that of the channel.

    Returns:
        The shape of `signals`.
    """
    batch, channels, length = signals.shape
    time = torch.linspace(-1, 1, length)
    tempo = 1 + (2 * torch.rand(batch, 1) - 1) * stretch
    time = time * tempo + (2 * torch.rand(batch, 1) - 1) * 2 * shift
    grid = torch.stack([time, torch.zeros_like(time)], dim=-1)[:, None]  # [B, 1, length, 2]
    warped = F.grid_sample(
        signals[:, :, None], grid.to(signals.dtype), padding_mode="reflection", align_corners=True
    )[:, :, 0]
    factor = 1 + scale * torch.randn(batch, channels, 1)
    spread = signals.std(dim=(0, 2), keepdim=True)
    return warped * factor + noise * spread * torch.randn(batch, channels, length)
