"""A second opinion on the oracle: attention over windows in the way that model code spells it.

Blocks by pad, roll, partition, mask and reverse, as Swin implementations do it; grids by the two
reshapes of MaxViT; neighborhoods by a dense attention over the whole map under a boolean mask.
Whole arrays in float64, no index rule.

References:
    Swin (arXiv:2103.14030), MaxViT (arXiv:2204.01697), NAT (arXiv:2204.07143).
"""

from __future__ import annotations

import numpy as np

from edgeattn.spec import AttentionSpec, HeadGroup


def attention(
    spec: AttentionSpec,
    qkv: np.ndarray,
    *,
    bias_table: np.ndarray | None = None,
    pad_kv: np.ndarray | None = None,
    logit_scale: np.ndarray | None = None,
) -> np.ndarray:
    """Evaluate the operator group by group; arguments and result as `oracle.attention`."""
    batch, height, width, _ = qkv.shape
    heads, dim = spec.qkv_heads, spec.head_dim
    if spec.qkv_layout == "3HD":
        packed = qkv.reshape(batch, height, width, 3, heads, dim)
    else:
        packed = np.swapaxes(qkv.reshape(batch, height, width, heads, 3, dim), 3, 4)
    pad = np.zeros((3, heads, dim))
    if pad_kv is not None:
        pad[1:] = pad_kv.reshape(2, heads, dim)
    scale = np.full(heads, spec.softmax_scale or 1 / np.sqrt(dim))
    if spec.qk_mode == "cosine":
        scale = logit_scale
        packed, pad = packed.copy(), pad.copy()
        packed[:, :, :, :2] /= np.linalg.norm(packed[:, :, :, :2], axis=-1, keepdims=True)
        pad[1] /= np.linalg.norm(pad[1], axis=-1, keepdims=True) if pad_kv is not None else 1.0
    outputs, offset = [], 0
    for group in spec.head_groups:
        chosen = slice(group.head_offset, group.head_offset + group.num_heads)
        table = None
        if spec.has_bias:
            table = bias_table[offset : offset + group.bias_entries].reshape(group.num_heads, -1)
            offset += group.bias_entries
        of_mode = {"block": _blocks, "grid": _grid, "neighborhood": _neighborhood}[group.mode]
        outputs.append(
            of_mode(packed[..., chosen, :], pad[:, chosen], table, scale[chosen], group, spec)
        )
    return np.concatenate(outputs, axis=3).reshape(batch, height, width, -1)


def _attend(packed: np.ndarray, scale: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Attend over `[..., N, 3, heads, D]` with a mask that broadcasts to `[..., heads, N, N]`."""
    query, key, value = np.moveaxis(packed, (-3, -2), (0, -3))  # [..., heads, N, D] each
    logits = query @ np.swapaxes(key, -1, -2) * scale[:, None, None] + mask
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.moveaxis(weights @ value / weights.sum(axis=-1, keepdims=True), -3, -2)


def _partition(x: np.ndarray, rows: int, cols: int) -> np.ndarray:
    batch, height, width, *rest = x.shape
    x = x.reshape(batch, height // rows, rows, width // cols, cols, *rest)
    return np.swapaxes(x, 2, 3).reshape(batch, -1, rows * cols, *rest)


def _reverse(windows: np.ndarray, rows: int, cols: int, height: int, width: int) -> np.ndarray:
    batch, _, _, *rest = windows.shape
    x = windows.reshape(batch, height // rows, width // cols, rows, cols, *rest)
    return np.swapaxes(x, 2, 3).reshape(batch, height, width, *rest)


def _relative_position_bias(table: np.ndarray | None, rows: int, cols: int) -> np.ndarray | float:
    if table is None:
        return 0.0
    coordinates = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"))
    coordinates = coordinates.reshape(2, -1)
    relative = coordinates[:, :, None] - coordinates[:, None, :]
    relative = relative + np.array([rows - 1, cols - 1])[:, None, None]
    return table[:, relative[0] * (2 * cols - 1) + relative[1]]


def _padded(packed: np.ndarray, pad: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Pad a map at its bottom and right with the padded token."""
    batch, height, width, *_ = packed.shape
    full = (batch, height + -height % rows, width + -width % cols, *pad.shape)
    x = np.broadcast_to(pad, full).copy()
    x[:, :height, :width] = packed
    return x


def _padding_mask(real: np.ndarray) -> np.ndarray:
    """Hide padded keys, from all queries but the padded ones, whose output nobody reads."""
    hidden = (real[..., None, :] == 0) & (real[..., :, None] != 0)
    return np.where(hidden, -np.inf, 0.0)


def _blocks(
    packed: np.ndarray,
    pad: np.ndarray,
    table: np.ndarray | None,
    scale: np.ndarray,
    group: HeadGroup,
    spec: AttentionSpec,
) -> np.ndarray:
    _, height, width, *_ = packed.shape
    rows, cols = group.window_size[0] or height, group.window_size[1] or width
    row_shift = group.shift_size[0] if height > rows else 0
    col_shift = group.shift_size[1] if width > cols else 0
    real = np.ones((1, height, width, 1, 1, 1))
    nothing = np.zeros((1, 1, 1))

    def roll(x: np.ndarray, sign: int) -> np.ndarray:
        return np.roll(x, (-sign * row_shift, -sign * col_shift), (1, 2))

    if spec.shift_pad_order == "pad_then_roll":
        x, real = (roll(_padded(t, p, rows, cols), 1) for t, p in ((packed, pad), (real, nothing)))
    else:
        x, real = (_padded(roll(t, 1), p, rows, cols) for t, p in ((packed, pad), (real, nothing)))
    full_height, full_width = x.shape[1:3]
    region = np.zeros((1, full_height, full_width))
    count = 0
    for row_slice in _regions(rows, row_shift):
        for col_slice in _regions(cols, col_shift):
            region[:, row_slice, col_slice] = count
            count += 1
    region = _partition(region, rows, cols)
    mask = np.where(region[..., :, None] == region[..., None, :], 0.0, spec.mask_value)
    real = _partition(real, rows, cols)[..., 0, 0, 0]
    if spec.pad_mode == "mask":
        mask = mask + _padding_mask(real)
        # Every row must keep a finite logit; that of a padded query is never read.
        mask[real == 0] = 0.0
    mask = mask[:, :, None] + _relative_position_bias(table, rows, cols)
    out = _attend(_partition(x, rows, cols), scale, mask)
    out = _reverse(out, rows, cols, full_height, full_width)
    if spec.shift_pad_order == "pad_then_roll":
        return roll(out, -1)[:, :height, :width]
    return roll(out[:, :height, :width], -1)


def _regions(window: int, shift: int) -> list[slice]:
    if shift == 0:
        return [slice(None)]
    return [slice(0, -window), slice(-window, -shift), slice(-shift, None)]


def _grid(
    packed: np.ndarray,
    pad: np.ndarray,
    table: np.ndarray | None,
    scale: np.ndarray,
    group: HeadGroup,
    spec: AttentionSpec,
) -> np.ndarray:
    batch, height, width, *_ = packed.shape
    rows, cols = group.window_size[0] or height, group.window_size[1] or width
    x = _padded(packed, pad, rows, cols)
    real = _padded(np.ones((1, height, width, 1, 1, 1)), np.zeros((1, 1, 1)), rows, cols)
    full_height, full_width = x.shape[1:3]
    row_stride, col_stride = full_height // rows, full_width // cols

    def grid(t: np.ndarray) -> np.ndarray:
        t = t.reshape(t.shape[0], rows, row_stride, cols, col_stride, *t.shape[3:])
        t = np.moveaxis(t, (2, 4), (1, 2))
        return t.reshape(t.shape[0], row_stride * col_stride, rows * cols, *t.shape[5:])

    mask = np.zeros(())
    if spec.pad_mode == "mask":
        mask = _padding_mask(grid(real)[..., 0, 0, 0])[:, :, None]
    out = _attend(grid(x), scale, mask + _relative_position_bias(table, rows, cols))
    out = out.reshape(batch, row_stride, col_stride, rows, cols, *out.shape[3:])
    out = np.moveaxis(out, (1, 2), (2, 4)).reshape(batch, full_height, full_width, *out.shape[5:])
    return out[:, :height, :width]


def _neighborhood(
    packed: np.ndarray,
    pad: np.ndarray,
    table: np.ndarray | None,
    scale: np.ndarray,
    group: HeadGroup,
    spec: AttentionSpec,
) -> np.ndarray:
    batch, height, width, *_ = packed.shape
    rows, cols = group.window_size[0] or height, group.window_size[1] or width
    seen_rows, dy = _nearest(height, rows, group.dilation[0], group.causal)
    seen_cols, dx = _nearest(width, cols, group.dilation[1], group.causal)
    seen = seen_rows[:, None, :, None] & seen_cols[None, :, None, :]
    seen = seen.reshape(height * width, height * width)
    mask = np.where(seen, 0.0, -np.inf)
    if table is not None:
        index = (dy + rows - 1)[:, None, :, None] * (2 * cols - 1)
        index = (index + (dx + cols - 1)[None, :, None, :]).reshape(seen.shape)
        mask = mask + table[:, np.where(seen, index, 0)]
    out = _attend(packed.reshape(batch, height * width, *packed.shape[3:]), scale, mask)
    return out.reshape(batch, height, width, *out.shape[2:])


def _nearest(
    length: int, window: int, dilation: int, causal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mark the `window` nearest tokens `dilation` apart, the left one first where two are as near.

    Returns:
        `[length, length]` bool, by query and key, and the signed distance in dilated steps.
    """
    token = np.arange(length)
    apart = token[:, None] - token
    steps = apart // dilation
    reachable = apart % dilation == 0
    if causal:
        return reachable & (apart >= 0) & (steps < window), steps
    preference = np.where(reachable, 2 * np.abs(steps) + (steps < 0), 2 * length + 2)
    rank = preference.argsort(axis=1, kind="stable").argsort(axis=1)
    return reachable & (rank < window), steps
