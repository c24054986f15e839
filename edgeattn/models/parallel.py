"""PMSA: self-attention at several resolutions in parallel.

Each branch reduces the map by a strided convolution, attends on the reduced map and brings the
result back to full size; the branches are then put together. Reducing the tokens before attention
gives queries *and* keys of that resolution, so a window of the same size spans more of the image
in a coarser branch.

References:
    MUSE (arXiv:1911.09483) for parallel branches in one layer and why they should be projected
    into a shared space; MPViT (arXiv:2112.11010) for parallel paths of several patch sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeattn.errors import SpecError
from edgeattn.models.attention import MultiScaleWindowAttention
from edgeattn.models.blocks import (
    ConvStem,
    PatchEmbed,
    PatchMerging,
    TransformerBlock,
    drop_path_schedule,
)
from edgeattn.spec import head_groups_from_windows

Aggregation = Literal["concat", "sum", "softmax"]
Upsample = Literal["nearest", "bilinear", "pixel_shuffle"]


class Reduction(nn.Module):
    """First half of a branch: convolution of stride `rate`, ReLU, LayerNorm.

    Args:
        dim: Channels, C.
        branch_dim: Channels after it, C_r.
        rate: Reduction of height and width; the convolution's kernel and stride.
    """

    def __init__(self, dim: int, branch_dim: int, rate: int) -> None:
        super().__init__()
        self.rate = rate
        self.conv = nn.Conv2d(dim, branch_dim, kernel_size=rate, stride=rate)
        self.act = nn.ReLU()
        self.norm = nn.LayerNorm(branch_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce `[B, H, W, C]`, zero-padded, to `[B, ceil(H/rate), ceil(W/rate), C_r]`."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.rate, 0, -height % self.rate))
        reduced = self.act(self.conv(x.permute(0, 3, 1, 2)))
        normalised: Tensor = self.norm(reduced.permute(0, 2, 3, 1))
        return normalised


class Expansion(nn.Module):
    """Second half of a branch: back to the rows and columns of the full map.

    Args:
        dim: Channels.
        rate: Enlargement of height and width.
        method: `nearest` repeats tokens, `bilinear` interpolates them, `pixel_shuffle` computes
            the `rate * rate` tokens of each by a linear layer.
    """

    def __init__(self, dim: int, rate: int, method: Upsample) -> None:
        super().__init__()
        self.rate, self.method = rate, method
        self.linear = (
            nn.Linear(dim, rate * rate * dim) if method == "pixel_shuffle" and rate > 1 else None
        )

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Enlarge `[B, ceil(height/rate), ceil(width/rate), C]` to `[B, height, width, C]`."""
        if self.rate == 1:
            return x
        row = torch.arange(height, device=x.device)
        col = torch.arange(width, device=x.device)
        if self.linear is not None:
            x = self.linear(x).unflatten(3, (self.rate, self.rate, -1))  # [B, h, w, r, r, C]
            x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        elif self.method == "bilinear":
            scaled = F.interpolate(
                x.permute(0, 3, 1, 2), scale_factor=float(self.rate), mode="bilinear"
            )
            x = scaled.permute(0, 2, 3, 1)
        else:
            row, col = row // self.rate, col // self.rate
        # Indices, not slices: tracing asks of a slice whether it is the whole map, and the answer
        # would tie a dynamic graph to maps that the rate divides, or does not divide.
        return x.index_select(1, row).index_select(2, col)


class ParallelMultiScaleSelfAttention(nn.Module):
    """Self-attention at several resolutions in parallel, on a map of any size.

    Branch r: `expand(attention(norm(relu(conv_r(x)))))`, cropped to the map; then one linear
    layer over all branches. A residual connection around it is the caller's.

    Args:
        dim: Channels of input and output, C.
        num_heads: Heads of each branch; divides `branch_dim`.
        rates: Reduction of each branch.
        branch_dim: Channels of each branch, C_r; by default `dim`.
        windows: Window size of each branch in its own tokens, or one for all; 0 for the whole
            map, then without a relative position bias.
        shifted: Shift the windows by half of their size.
        share_weights: One attention (its projections and its bias table) for all branches, whose
            windows must then agree; convolution and norm stay with each branch.
        aggregation: `concat` (the linear layer sees the branches side by side), `sum`, or
            `softmax` (a sum weighted by a learned softmax over the branches).
        upsample: `nearest`, `bilinear` or `pixel_shuffle`.
        attention: Further keywords of `MultiScaleWindowAttention`.

    Raises:
        SpecError: If a value is out of range, or shared branches have different windows.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        rates: Sequence[int] = (1, 2, 4),
        branch_dim: int | None = None,
        windows: int | Sequence[int] = 7,
        shifted: bool = False,
        share_weights: bool = False,
        aggregation: Aggregation = "concat",
        upsample: Upsample = "nearest",
        **attention: Any,
    ) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise SpecError(f"rates are {tuple(rates)}; expected one or more, each at least 1")
        per_branch = [windows] * len(rates) if isinstance(windows, int) else list(windows)
        if len(per_branch) != len(rates):
            raise SpecError(f"{len(rates)} branches have {len(per_branch)} windows")
        if share_weights and len(set(per_branch)) > 1:
            raise SpecError(
                f"branches that share their attention have the windows {tuple(per_branch)}",
                "give one window for all, or set share_weights to False",
            )
        _require_choice("aggregation", aggregation, Aggregation)
        _require_choice("upsample", upsample, Upsample)
        branch_dim = branch_dim or dim
        self.reductions = nn.ModuleList(Reduction(dim, branch_dim, rate) for rate in rates)
        self.attentions = nn.ModuleList(
            MultiScaleWindowAttention(
                branch_dim,
                head_groups_from_windows(num_heads, [window], shifted=shifted),
                **{"relative_position_bias": window > 0, **attention},
            )
            for window in (per_branch[:1] if share_weights else per_branch)
        )
        self.expansions = nn.ModuleList(Expansion(branch_dim, rate, upsample) for rate in rates)
        self.aggregation = aggregation
        self.branch_logits = (
            nn.Parameter(torch.zeros(len(rates))) if aggregation == "softmax" else None
        )
        self.proj = nn.Linear(branch_dim * (len(rates) if aggregation == "concat" else 1), dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend at every resolution of `[B, H, W, C]`; the shape stays."""
        height, width = x.shape[1:3]
        branches = []
        for i, reduce in enumerate(self.reductions):
            attended = self.attentions[i % len(self.attentions)](reduce(x))
            branches.append(self.expansions[i](attended, height, width))
        if self.aggregation == "concat":
            mixed = torch.cat(branches, dim=-1)
        else:
            stacked = torch.stack(branches, dim=-1)
            if self.branch_logits is not None:
                stacked = stacked * self.branch_logits.softmax(dim=0)
            mixed = stacked.sum(dim=-1)
        projected: Tensor = self.proj(mixed)
        return projected


class PMSA(nn.Module):
    """Hierarchical backbone of parallel multi-scale attention with a classifier on the mean.

    Args:
        depths: Blocks of each stage.
        dims: Channels of each stage.
        num_heads: Heads of each stage's branches.
        windows: Windows of each stage, as in `ParallelMultiScaleSelfAttention`.
        in_channels: Channels of the image.
        num_classes: Logits.
        patch_size: Side in pixels of what becomes one token; 2 or 4 with `conv_stem`.
        conv_stem: Two convolutions in place of the patch embedding.
        branch_ratio: Channels of a branch per channel of its stage.
        mlp_ratio: Hidden channels of the MLPs per channel.
        drop_path: Share of the samples that skip a branch of the last block while training; less
            for earlier ones.
        attention: Further keywords of `ParallelMultiScaleSelfAttention`.

    Raises:
        SpecError: If the stages are not described alike, or a block cannot be built.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        num_heads: Sequence[int],
        windows: Sequence[int | Sequence[int]],
        *,
        in_channels: int = 3,
        num_classes: int = 1000,
        patch_size: int = 4,
        conv_stem: bool = False,
        branch_ratio: float = 0.5,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        **attention: Any,
    ) -> None:
        super().__init__()
        if len({len(depths), len(dims), len(num_heads), len(windows)}) != 1:
            raise SpecError(
                f"there are {len(depths)} depths, {len(dims)} dims, {len(num_heads)} num_heads "
                f"and {len(windows)} windows; expected one of each per stage"
            )
        stem = ConvStem if conv_stem else PatchEmbed
        self.stem = stem(in_channels, dims[0], patch_size)
        rates = drop_path_schedule(drop_path, sum(depths))
        stages: list[nn.Module] = []
        for stage, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            if stage > 0:
                stages.append(PatchMerging(dims[stage - 1], dim))
            for i in range(depth):
                layer = ParallelMultiScaleSelfAttention(
                    dim,
                    num_heads[stage],
                    branch_dim=int(dim * branch_ratio),
                    windows=windows[stage],
                    shifted=i % 2 == 1 and windows[stage] != 0,
                    **attention,
                )
                stages.append(TransformerBlock(dim, layer, mlp_ratio, drop_path=rates.pop(0)))
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[B, in_channels, H, W]` to logits `[B, num_classes]`."""
        features = self.norm(self.stages(self.stem(images)))
        logits: Tensor = self.head(features.mean(dim=(1, 2)))
        return logits


def pmsa_nano(**keywords: Any) -> PMSA:
    """PMSA for 28x28 grey images of ten classes: windows fit its 14x14 and 7x7 maps exactly."""
    defaults: dict[str, Any] = {
        "in_channels": 1,
        "num_classes": 10,
        "patch_size": 2,
        "conv_stem": True,
        "mlp_ratio": 2.0,
    }
    return PMSA((2, 2), (64, 128), (2, 4), ((7, 7, 4), (7, 4, 2)), **{**defaults, **keywords})


def pmsa_tiny(**keywords: Any) -> PMSA:
    """PMSA for 224x224 colour images of a thousand classes."""
    windows = ((7, 7, 7), (7, 7, 7), (7, 7, 4), (7, 4, 2))
    return PMSA((2, 2, 4, 2), (64, 128, 192, 384), (2, 4, 6, 12), windows, **keywords)


def _require_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise SpecError(f"{name} is {value!r}; expected {' or '.join(get_args(choices))}")
