"""MSSeq: sliding windows of several sizes over a signal.

A sequence is a map of one row, so the attention operator serves it unchanged: each head group has
its own neighborhood `(1, length)`, short ones for detail and long ones for context. Cost grows
linearly with the signal.

References:
    NAT (arXiv:2204.07143) for neighborhoods, Longformer (arXiv:2004.05150) for sliding windows of
    different sizes on sequences, PatchTST (arXiv:2211.14730) for patches of signals as tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeattn.errors import SpecError
from edgeattn.models.attention import MultiScaleWindowAttention
from edgeattn.models.blocks import TransformerBlock, drop_path_schedule
from edgeattn.spec import head_groups_from_windows


class MSSeq(nn.Module):
    """Transformer on sliding windows of several sizes, with a classifier on the mean token.

    Args:
        in_channels: Channels of the signal.
        num_classes: Logits.
        dim: Channels of the tokens.
        depth: Blocks.
        num_heads: Heads, dealt out over the windows.
        windows: Sliding window of each head group, in tokens.
        patch_size: Samples that become one token; the last patch is filled up with the mean.
        causal: A token sees itself and earlier ones only, for signals that still go on.
        mlp_ratio: Hidden channels of the MLPs per channel.
        drop_path: Share of the samples that skip a branch of the last block while training; less
            for earlier ones.
        input_mean: Mean of each channel, in its units; one value stands for all channels.
        input_std: Standard deviation of each channel, in its units; positive.

    Attributes:
        input_mean: `[in_channels, 1]` buffer; with `input_std` it is saved with the weights, so
            that the model takes signals in their own units.
        input_std: `[in_channels, 1]` buffer.

    Raises:
        SpecError: If the heads, windows or statistics do not fit.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dim: int = 96,
        depth: int = 4,
        num_heads: int = 3,
        windows: Sequence[int] = (5, 9, 17),
        patch_size: int = 4,
        causal: bool = False,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        input_mean: Sequence[float] = (0.0,),
        input_std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        for name, values in (("input_mean", input_mean), ("input_std", input_std)):
            if len(values) not in (1, in_channels):
                raise SpecError(f"{name} has {len(values)} values; expected 1 or {in_channels}")
            channels = torch.tensor(values, dtype=torch.float32).expand(in_channels)
            self.register_buffer(name, channels.clone()[:, None])
        if min(input_std) <= 0:
            raise SpecError(f"input_std is {tuple(input_std)}; expected positive values")
        self.stem = nn.Conv1d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.stem_norm = nn.LayerNorm(dim)
        sizes = [(1, window) for window in windows]
        groups = [
            replace(group, causal=causal)
            for group in head_groups_from_windows(num_heads, sizes, mode="neighborhood")
        ]
        rates = drop_path_schedule(drop_path, depth)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(
                    dim,
                    MultiScaleWindowAttention(dim, groups, pad_mode="mask"),
                    mlp_ratio,
                    drop_path=rate,
                )
                for rate in rates
            )
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, signals: Tensor) -> Tensor:
        """Map signals `[B, in_channels, length]` of any length to logits `[B, num_classes]`."""
        logits: Tensor = self.head(self.tokens(signals).mean(dim=(1, 2)))
        return logits

    def tokens(self, signals: Tensor) -> Tensor:
        """Describe each patch of `[B, in_channels, length]` in its surroundings.

        Returns:
            `[B, 1, ceil(length / patch_size), dim]`; with `causal`, token t depends on the first
            `(t + 1) * patch_size` samples only.
        """
        normalised = (signals - self.input_mean) / self.input_std
        normalised = F.pad(normalised, (0, -signals.shape[2] % self.patch_size))
        patches = self.stem_norm(self.stem(normalised).transpose(1, 2))  # [B, length/patch, dim]
        tokens: Tensor = self.norm(self.blocks(patches.unsqueeze(1)))
        return tokens


def msseq_nano(**keywords: Any) -> MSSeq:
    """MSSeq for 6 channels of 100 samples (a watch's accelerometer and gyroscope), 4 classes."""
    return MSSeq(**{"in_channels": 6, "num_classes": 4, **keywords})


def msseq_tiny(**keywords: Any) -> MSSeq:
    """MSSeq for long signals: 6 channels of 1000 samples, 10 classes."""
    defaults = {
        "in_channels": 6,
        "num_classes": 10,
        "dim": 192,
        "depth": 8,
        "num_heads": 6,
        "windows": (9, 33, 129),
    }
    return MSSeq(**{**defaults, **keywords})
