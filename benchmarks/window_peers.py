"""PyTorch's ways to compute windowed attention from the packed projection, copies included.

Each way pads, rolls and partitions the map, splits it into query, key and value, attends, and puts
the windows back, as implementations of Swin do. What does not depend on the tensors is made
beforehand: the bias of every pair of a window, the mask of the shift, the block mask.

References:
    Swin (arXiv:2103.14030) for partition and mask; FlexAttention (arXiv:2412.05496).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from edgeattn.errors import SpecError
from edgeattn.models.window import PAD, map_windows
from edgeattn.spec import AttentionSpec, HeadGroup

# Memory-efficient attention reads its mask by rows that are aligned to this many elements.
_MASK_ALIGNMENT = 16
# Rows of queries and of keys that a block mask decides on.
_FLEX_BLOCK = 128

Attend = Callable[[Tensor, "WindowGroup"], Tensor]
Way = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class WindowGroup:
    """The windows of one head group on one map, and the tensors made beforehand.

    Attributes:
        heads: Which of the projection's heads.
        rows: Windows along the height, and tokens of a window along it.
        cols: The same along the width.
        padding: Rows and columns to add.
        shift: Rows and columns to roll by.
        scale: Factor of q·k.
        bias: `[heads, N, N]` in the type of the projection, or `None`.
        mask: `[nW, N, N]` likewise: 0 or -inf; `None` if all see each other.
        label: `[nW, N]` int32: tokens of a window see each other if these agree; -1 is padding,
            whose own output is cropped away.
    """

    heads: slice
    rows: tuple[int, int]
    cols: tuple[int, int]
    padding: tuple[int, int]
    shift: tuple[int, int]
    scale: float
    bias: Tensor | None
    mask: Tensor | None
    label: Tensor

    @property
    def num_windows(self) -> int:
        """Windows of a map, nW."""
        return self.rows[0] * self.cols[0]

    @property
    def tokens(self) -> int:
        """Tokens of a window, N."""
        return self.rows[1] * self.cols[1]


def ways(
    spec: AttentionSpec,
    size: tuple[int, int],
    bias_table: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
    *,
    compiled: bool = True,
) -> dict[str, Way]:
    """Make PyTorch's ways to compute an attention.

    Args:
        spec: Block windows, dot product, padded keys masked.
        size: Height and width of the map.
        bias_table: `[spec.bias_entries]`, if the spec has a bias.
        dtype: Type of the projection.
        device: Where it lies.
        compiled: Compile the ways that gain by it, for fixed sizes.

    Returns:
        By name, functions of `[B, H, W, qkv_channels]` to `[B, H, W, out_channels]`.

    Raises:
        SpecError: If the spec asks for more than these ways know.
    """
    if (
        any(group.mode != "block" for group in spec.head_groups)
        or spec.qk_mode != "dot"
        or spec.pad_mode != "mask"
        or spec.shift_pad_order != "pad_then_roll"
        or spec.qkv_layout != "3HD"
        or spec.mask_value != -torch.inf
    ):
        raise SpecError("PyTorch's ways here know block windows, masked padding and dot products")
    groups, offset = [], 0
    for group in spec.head_groups:
        table = None
        if bias_table is not None:
            table = bias_table[offset : offset + group.bias_entries].view(group.num_heads, -1)
            offset += group.bias_entries
        groups.append(_window_group(spec, group, size, table, dtype, device))

    def way(attend_with: Callable[[WindowGroup], Callable[[Tensor], Tensor]]) -> Way:
        attends = [(group, attend_with(group)) for group in groups]

        def attention(qkv: Tensor) -> Tensor:
            packed = qkv.unflatten(3, (3, spec.qkv_heads, spec.head_dim))
            out = [merge(attend(partition(packed, g)), g, size) for g, attend in attends]
            return out[0] if len(out) == 1 else torch.cat(out, dim=3)

        return attention

    plain, windows, sequence = way(_plain), way(_flex_windows), way(_flex_sequence)
    sdpa = way(_sdpa)
    made = {"sdpa": sdpa}
    for name, function in (
        ("sdpa-compiled", sdpa),
        ("plain-compiled", plain),
        ("flex-windows", windows),
        ("flex-sequence", sequence),
    ):
        made[name] = (
            torch.compile(function, dynamic=False, fullgraph=True) if compiled else function
        )
    return made


def _window_group(
    spec: AttentionSpec,
    group: HeadGroup,
    size: tuple[int, int],
    table: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> WindowGroup:
    windows = map_windows(*size, group, spec.shift_pad_order)
    axes = [
        (-(-length // (window or length)), window or length)
        for length, window in zip(size, group.window_size, strict=True)
    ]
    pad = windows.source == PAD
    differ = windows.label[:, :, None] != windows.label[:, None, :]
    # A padded query would see nothing; what it sees is cropped away.
    hidden = differ | (pad[:, None, :] & ~pad[:, :, None])
    mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf) if hidden.any() else None
    bias = None if table is None else table[:, windows.bias_index.to(table.device)]
    shift = [s if count > 1 else 0 for s, (count, _) in zip(group.shift_size, axes, strict=True)]
    return WindowGroup(
        heads=slice(group.head_offset, group.head_offset + group.num_heads),
        rows=axes[0],
        cols=axes[1],
        padding=(axes[0][0] * axes[0][1] - size[0], axes[1][0] * axes[1][1] - size[1]),
        shift=(shift[0], shift[1]),
        scale=spec.effective_softmax_scale,
        bias=None if bias is None else bias.to(device, dtype),
        mask=None if mask is None else mask.to(device, dtype),
        # One number says both: what a token's label is, and that it is none.
        label=torch.where(pad, -1, windows.label).to(device, torch.int32),
    )


def partition(packed: Tensor, group: WindowGroup) -> Tensor:
    """Cut `[B, H, W, 3, Hd, D]` into the windows of a group: `[3, B, nW, heads, N, D]`."""
    x = packed[:, :, :, :, group.heads]
    if any(group.padding):
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, group.padding[1], 0, group.padding[0]))
    if any(group.shift):
        x = torch.roll(x, (-group.shift[0], -group.shift[1]), (1, 2))
    x = x.unflatten(2, group.cols).unflatten(1, group.rows)  # [B, nR, wh, nC, ww, 3, heads, D]
    x = x.permute(5, 0, 1, 3, 6, 2, 4, 7)
    return x.reshape(3, x.shape[1], group.num_windows, x.shape[4], group.tokens, x.shape[7])


def merge(windows: Tensor, group: WindowGroup, size: tuple[int, int]) -> Tensor:
    """Put `[B, nW, heads, N, D]` back together: `[B, H, W, heads * D]`."""
    x = windows.unflatten(3, (group.rows[1], group.cols[1]))
    x = x.unflatten(1, (group.rows[0], group.cols[0]))  # [B, nR, nC, heads, wh, ww, D]
    x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    if any(group.shift):
        x = torch.roll(x, group.shift, (1, 2))
    return x[:, : size[0], : size[1]] if any(group.padding) else x


def _plain(group: WindowGroup) -> Callable[[Tensor], Tensor]:
    """Two matrix products and a softmax, the scores in the type of the projection."""

    def attend(packed: Tensor) -> Tensor:
        query, key, value = packed.unbind(0)
        scores = (query * group.scale) @ key.transpose(-2, -1)  # [B, nW, heads, N, N]
        if group.bias is not None:
            scores = scores + group.bias
        if group.mask is not None:
            scores = scores + group.mask[:, None]
        return scores.softmax(dim=-1) @ value

    return attend


def _sdpa(group: WindowGroup) -> Callable[[Tensor], Tensor]:
    """`scaled_dot_product_attention` with bias and mask added up beforehand."""
    added: Tensor | None
    if group.mask is not None:
        # One mask per window: windows and heads are one axis, over which images share the mask.
        added = group.mask[:, None] if group.bias is None else group.mask[:, None] + group.bias
        heads = group.heads.stop - group.heads.start
        added = _aligned_rows(added.expand(-1, heads, -1, -1).flatten(0, 1))[None]
    else:
        added = None if group.bias is None else _aligned_rows(group.bias)[None]

    def attend(packed: Tensor) -> Tensor:
        flat = packed.flatten(2, 3) if group.mask is not None else packed.flatten(1, 2)
        query, key, value = flat.unbind(0)
        mask = None if added is None else added.expand(query.shape[0], -1, -1, -1)
        out = F.scaled_dot_product_attention(query, key, value, mask, scale=group.scale)
        return out.view(packed.shape[1:])

    return attend


def _aligned_rows(mask: Tensor) -> Tensor:
    """Lay the rows of a mask out at aligned addresses, or every call would copy it."""
    columns = mask.shape[-1]
    padded = -(-columns // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
    return F.pad(mask, (0, padded - columns))[..., :columns]


def _flex_windows(group: WindowGroup) -> Callable[[Tensor], Tensor]:
    """FlexAttention with a window as its sequence, and bias and mask as its score function."""
    bias, label, num_windows = group.bias, group.label, group.num_windows
    masked = group.mask is not None

    def score(score: Tensor, image: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        if bias is not None:
            score = score + bias[head, q, k]
        if masked:  # two labels are fewer bytes than an entry of the mask for each pair
            window = image % num_windows
            agree = (label[window, q] == label[window, k]) | (label[window, q] < 0)
            score = torch.where(agree, score, -torch.inf)
        return score

    def attend(packed: Tensor) -> Tensor:
        query, key, value = packed.flatten(1, 2).unbind(0)
        changed = score if bias is not None or masked else None
        out = flex_attention(query, key, value, changed, scale=group.scale)
        return out.view(packed.shape[1:])

    return attend


def _flex_sequence(group: WindowGroup) -> Callable[[Tensor], Tensor]:
    """FlexAttention with all windows of a map as its sequence, and a block mask between them."""
    tokens, bias = group.tokens, group.bias
    block_mask = window_block_mask(group)

    def score(score: Tensor, image: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        assert bias is not None
        return score + bias[head, q % tokens, k % tokens]

    def attend(packed: Tensor) -> Tensor:
        flat = packed.transpose(2, 3).flatten(3, 4)  # [3, B, heads, nW * N, D]
        query, key, value = flat.unbind(0)
        changed = None if bias is None else score
        out = flex_attention(query, key, value, changed, block_mask, scale=group.scale)
        return out.unflatten(2, (group.num_windows, tokens)).transpose(1, 2)

    return attend


def window_block_mask(group: WindowGroup) -> BlockMask:
    """Say which blocks of 128 queries meet which blocks of 128 keys: those of the same window.

    Worked out from the sizes: `create_block_mask` would try every pair of tokens of the map.
    """
    tokens, label = group.tokens, group.label.flatten()
    length = group.num_windows * tokens
    blocks = -(-length // _FLEX_BLOCK)
    first = torch.arange(blocks) * _FLEX_BLOCK
    last = (first + _FLEX_BLOCK).clamp(max=length) - 1
    lowest = first // tokens * tokens // _FLEX_BLOCK  # key blocks that hold the queries' windows
    highest = (last // tokens * tokens + tokens - 1) // _FLEX_BLOCK
    # A block pair needs no mask if it lies within one window in which all see each other.
    if group.mask is None:
        open_window = torch.ones(group.num_windows, dtype=torch.bool)
    else:
        open_window = (group.mask == 0).all(dim=2).all(dim=1).cpu()
    inside = (first // tokens == last // tokens) & (last - first == _FLEX_BLOCK - 1)
    window = first // tokens
    query_block, key_block = torch.arange(blocks)[:, None], torch.arange(blocks)[None, :]
    met = (key_block >= lowest[:, None]) & (key_block <= highest[:, None])
    full = met & (inside & open_window[window])[:, None] & inside[None, :]
    full &= window[query_block] == window[key_block]

    def visible(image: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        # Of a padded query nothing is kept: it may see what it likes, but something.
        agree = (label[q] == label[k]) | (label[q] < 0)
        return (q // tokens == k // tokens) & agree

    device = group.label.device
    partial_count, partial_order = _block_lists(met & ~full)
    full_count, full_order = _block_lists(full)
    return BlockMask.from_kv_blocks(
        partial_count.to(device),
        partial_order.to(device),
        full_count.to(device),
        full_order.to(device),
        BLOCK_SIZE=_FLEX_BLOCK,
        mask_mod=visible,
        seq_lengths=(length, length),
    )


def _block_lists(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Turn `[rows, cols]` booleans into counts `[1, 1, rows]` and the chosen columns, first."""
    order = chosen.int().argsort(dim=1, descending=True, stable=True)
    return chosen.sum(dim=1).int()[None, None], order.int()[None, None]
