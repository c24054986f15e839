"""The index rule of multi-scale windowed attention, per axis, for torch.

Which token of the map stands at each place of each window, which tokens of a window may see each
other, and which keys a query of a sliding window has. No roll, no padding and no mask tensor: an
axis is described by a few integers, so that any map size works at run time.

References:
    Swin (arXiv:2103.14030) for shifted windows, MaxViT (arXiv:2204.01697) for the grid, NAT and
    DiNAT (arXiv:2204.07143, 2209.15001) for neighborhoods.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgeattn.errors import SpecError
from edgeattn.spec import HeadGroup, ShiftPadOrder

PAD = -1


@dataclass(frozen=True)
class AxisWindows:
    """Windows along one axis.

    Attributes:
        source: `[num_windows, window]` int64: token at each place, or `PAD`.
        label: `[num_windows, window]` int64: two places see each other iff their labels agree.
    """

    source: torch.Tensor
    label: torch.Tensor


def axis_windows(length: int, window: int, shift: int, order: ShiftPadOrder) -> AxisWindows:
    """Cut an axis into consecutive windows, cyclically shifted (block mode).

    Args:
        length: Tokens on the axis.
        window: Tokens per window; 0 for all of them.
        shift: Tokens by which the windows are shifted; ignored where one window covers the axis.
        order: Whether the map is padded before or after it is rolled.
    """
    window = window or length
    num_windows = -(-length // window)
    padded = num_windows * window
    place = torch.arange(padded)
    if num_windows == 1:
        shift = 0
    if order == "pad_then_roll":
        rolled = (place + shift) % padded
        source = torch.where(rolled < length, rolled, PAD)
    else:
        source = torch.where(place < length, (place + shift) % length, PAD)
    label = torch.zeros_like(place)
    if shift:
        label += (place >= padded - window).long() + (place >= padded - shift).long()
    return AxisWindows(source.view(num_windows, window), label.view(num_windows, window))


def axis_grid(length: int, window: int) -> AxisWindows:
    """Spread each window over the axis at a constant stride (grid mode).

    Args:
        length: Tokens on the axis.
        window: Tokens per window; 0 for all of them.
    """
    window = window or length
    num_windows = -(-length // window)
    place = torch.arange(window)[None, :] * num_windows + torch.arange(num_windows)[:, None]
    return AxisWindows(torch.where(place < length, place, PAD), torch.zeros_like(place))


@dataclass(frozen=True)
class AxisNeighbors:
    """Keys of each query along one axis.

    Attributes:
        source: `[length, num_keys]` int64: token of each key, or `PAD` where there are fewer.
        offset: `[length, num_keys]` int64: query minus key, counted in dilated steps.
    """

    source: torch.Tensor
    offset: torch.Tensor


def axis_neighbors(length: int, window: int, dilation: int, causal: bool) -> AxisNeighbors:
    """Find the nearest tokens of each token (neighborhood mode).

    Tokens fall into `dilation` residue classes; within its class a query has the `window` nearest
    tokens, clamped at the borders, or with `causal` those that end at itself.

    Args:
        length: Tokens on the axis.
        window: Keys per query; 0 for all tokens of the class.
        dilation: Distance of neighbours in tokens.
        causal: Keys end at the query.
    """
    token = torch.arange(length)
    residue, place = token % dilation, token // dilation
    class_size = (length - residue + dilation - 1) // dilation
    num_keys = min(window or length, int(class_size.max()))
    key = torch.arange(num_keys)[None, :]
    if causal:
        key = key + (place - num_keys + 1)[:, None]
        present = key >= 0
    else:
        keys_here = class_size.clamp(max=num_keys)
        start = torch.minimum((place - num_keys // 2).clamp(min=0), class_size - keys_here)
        present = key < keys_here[:, None]
        key = key + start[:, None]
    source = torch.where(present, key * dilation + residue[:, None], PAD)
    return AxisNeighbors(source, torch.where(present, place[:, None] - key, 0))


@dataclass(frozen=True)
class MapWindows:
    """Windows of a map.

    Attributes:
        source: `[num_windows, N]` int64: token `row * width + col` at each place, or `PAD`.
        label: `[num_windows, N]` int64: two places see each other iff their labels agree.
        place: `[height * width]` int64: where each token stands in the flattened windows.
        bias_index: `[N, N]` int64: entry of a head's bias table for each query and key.
    """

    source: torch.Tensor
    label: torch.Tensor
    place: torch.Tensor
    bias_index: torch.Tensor


def map_windows(height: int, width: int, group: HeadGroup, order: ShiftPadOrder) -> MapWindows:
    """Cut a map into the windows of a head group in block or grid mode."""
    if group.mode == "grid":
        rows = axis_grid(height, group.window_size[0])
        cols = axis_grid(width, group.window_size[1])
    else:
        rows = axis_windows(height, group.window_size[0], group.shift_size[0], order)
        cols = axis_windows(width, group.window_size[1], group.shift_size[1], order)
    (_, window_rows), (_, window_cols) = rows.source.shape, cols.source.shape
    tokens = window_rows * window_cols
    row = rows.source[:, None, :, None]
    col = cols.source[None, :, None, :]
    source = torch.where((row == PAD) | (col == PAD), PAD, row * width + col).reshape(-1, tokens)
    label = (rows.label[:, None, :, None] * 3 + cols.label[None, :, None, :]).reshape(-1, tokens)
    flat = source.flatten()
    real = torch.nonzero(flat != PAD).squeeze(1)
    place = torch.empty(height * width, dtype=torch.long)
    place[flat[real]] = real
    dy = torch.arange(window_rows)[:, None] - torch.arange(window_rows) + window_rows - 1
    dx = torch.arange(window_cols)[:, None] - torch.arange(window_cols) + window_cols - 1
    bias_index = dy[:, None, :, None] * (2 * window_cols - 1) + dx[None, :, None, :]
    return MapWindows(source, label, place, bias_index.reshape(tokens, tokens))


@dataclass(frozen=True)
class MapNeighbors:
    """Keys of each token of a map.

    Attributes:
        source: `[height * width, K]` int64: token of each key, or `PAD`.
        bias_index: `[height * width, K]` int64: entry of a head's bias table.
    """

    source: torch.Tensor
    bias_index: torch.Tensor


def map_neighbors(height: int, width: int, group: HeadGroup) -> MapNeighbors:
    """Find the keys of every token for a head group in neighborhood mode.

    Raises:
        SpecError: If a causal group meets a map of more than one row.
    """
    if group.causal and height != 1:
        raise SpecError(f"a causal head group works on sequences (H = 1), got H = {height}")
    rows = axis_neighbors(height, group.window_size[0], group.dilation[0], causal=False)
    cols = axis_neighbors(width, group.window_size[1], group.dilation[1], group.causal)
    row, col = rows.source[:, None, :, None], cols.source[None, :, None, :]
    source = torch.where((row == PAD) | (col == PAD), PAD, row * width + col)
    table_rows = group.window_size[0] or height
    table_cols = group.window_size[1] or width
    dy = rows.offset[:, None, :, None] + table_rows - 1
    dx = cols.offset[None, :, None, :] + table_cols - 1
    bias_index = dy * (2 * table_cols - 1) + dx
    tokens = height * width
    return MapNeighbors(source.reshape(tokens, -1), bias_index.reshape(tokens, -1))
