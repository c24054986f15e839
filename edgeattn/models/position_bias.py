"""Relative position bias from a continuous function of the offset, as in Swin V2.

In place of a learned table, a small network maps each offset of query and key to a bias, so that
weights trained with one window size serve another. Nothing but parameters and buffers goes in:
at export the table is a constant.

References:
    Swin V2 (arXiv:2111.09883, 3.3): log-spaced coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from edgeattn.errors import SpecError
from edgeattn.spec import HeadGroup

# Offsets are scaled to [-8, 8] before the logarithm, and the bias is 16 * sigmoid(...).
_COORDINATE_RANGE = 8.0
_BIAS_RANGE = 16.0


class ContinuousPositionBias(nn.Module):
    """The bias table of some head groups, computed from the offsets by one network per group.

    Args:
        head_groups: The groups; their windows are fixed.
        hidden_dim: Hidden units of each network.
        pretrained_windows: Per group, the window (rows and cols) that scales the offsets: the one
            the weights were trained with. 0 stands for the group's own.

    Raises:
        SpecError: If a window spans the whole axis, or there is not one pretrained window per
            group.
    """

    def __init__(
        self,
        head_groups: Iterable[HeadGroup],
        hidden_dim: int = 512,
        pretrained_windows: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        groups = tuple(head_groups)
        if pretrained_windows is None:
            pretrained_windows = [0] * len(groups)
        if len(pretrained_windows) != len(groups):
            raise SpecError(
                f"{len(pretrained_windows)} pretrained windows for {len(groups)} head groups"
            )
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2, hidden_dim),
                nn.ReLU(),
                nn.Linear(hidden_dim, group.num_heads, bias=False),
            )
            for group in groups
        )
        for g, (group, pretrained) in enumerate(zip(groups, pretrained_windows, strict=True)):
            self.register_buffer(f"offsets_{g}", _offsets(group, pretrained), persistent=False)

    def forward(self) -> Tensor:
        """Give the flat table, `[sum of num_heads * (2*rows - 1) * (2*cols - 1)]`."""
        tables = []
        for g, mlp in enumerate(self.mlps):
            bias = _BIAS_RANGE * torch.sigmoid(mlp(self.get_buffer(f"offsets_{g}")))
            tables.append(bias.transpose(0, 1).flatten())  # [entries, nH] to head by head
        return torch.cat(tables)


def _offsets(group: HeadGroup, pretrained_window: int) -> Tensor:
    """Log-spaced offsets (rows, cols) of every table entry, `[(2*rows - 1) * (2*cols - 1), 2]`."""
    if 0 in group.window_size:
        raise SpecError(
            f"a position bias needs a fixed window, got {group.window_size}",
            "give the window in tokens",
        )
    axes = []
    for window in group.window_size:
        offset = torch.arange(1 - window, window, dtype=torch.float64)
        farthest = max((pretrained_window or window) - 1, 1)
        axes.append(offset / farthest * _COORDINATE_RANGE)
    linear = torch.cartesian_prod(*axes)
    spaced = linear.sign() * (linear.abs() + 1).log2() / math.log2(_COORDINATE_RANGE)
    return spaced.to(torch.get_default_dtype())
