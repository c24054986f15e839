"""The judge of the attention operator: float64 loops written from the rule text alone.

Nothing here is fast and nothing is shared with the code under test but the `AttentionSpec` that
describes a case. For one query the rule is a list of keys; that list is what this file builds,
axis by axis, and a softmax over it is all the arithmetic there is.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from edgeattn.spec import AttentionSpec, HeadGroup

NORM_EPS = 1e-12  # smallest norm that cosine attention divides by


class AxisKey(NamedTuple):
    """A key as one axis sees it."""

    source: int | None  # position in the map; None for a padded token
    delta: int  # query - key, in window coordinates
    agrees: bool  # both carry the same label: the shift did not bring them together


class Key(NamedTuple):
    """A key of one query."""

    source: tuple[int, int] | None  # (row, col) in the map; None for a padded token
    delta: tuple[int, int]
    agrees: bool


class Place(NamedTuple):
    """A window coordinate of one axis, for block and grid mode."""

    window: int
    coordinate: int
    source: int | None
    label: int


@cache
def axis_places(length: int, window: int, shift: int, mode: str, order: str) -> tuple[Place, ...]:
    """List every window coordinate of an axis with the token that stands there."""
    window = window or length
    padded = -(-length // window) * window
    if padded == window:
        shift = 0
    places = []
    if mode == "grid":
        num_windows = padded // window
        for a, g in product(range(num_windows), range(window)):
            source = g * num_windows + a
            places.append(Place(a, g, source if source < length else None, 0))
        return tuple(places)
    for i in range(padded):
        source: int | None
        if order == "pad_then_roll":
            source = (i + shift) % padded
            source = source if source < length else None
        else:
            source = (i + shift) % length if i < length else None
        label = 0
        if shift > 0 and i >= padded - window:
            label = 1 if i < padded - shift else 2
        places.append(Place(i // window, i, source, label))
    return tuple(places)


def neighbours(query: int, length: int, window: int, dilation: int, causal: bool) -> list[AxisKey]:
    """List the keys of a sliding window on one axis."""
    window = window or length
    residue_class = [t for t in range(length) if t % dilation == query % dilation]
    count, j = len(residue_class), residue_class.index(query)
    if causal:
        indices = [i for i in range(j - window + 1, j + 1) if i >= 0]
    else:
        size = min(window, count)
        start = min(max(j - window // 2, 0), count - size)
        indices = list(range(start, start + size))
    return [AxisKey(residue_class[i], j - i, True) for i in indices]


def axis_keys(
    group: HeadGroup, axis: int, query: int, length: int, order: str = "pad_then_roll"
) -> list[AxisKey]:
    """List the keys that the token at `query` of an axis meets there."""
    window = group.window_size[axis]
    if group.mode == "neighborhood":
        return neighbours(query, length, window, group.dilation[axis], group.causal)
    places = axis_places(length, window, group.shift_size[axis], group.mode, order)
    (here,) = [place for place in places if place.source == query]
    return [
        AxisKey(key.source, here.coordinate - key.coordinate, here.label == key.label)
        for key in places
        if key.window == here.window
    ]


def keys_of(
    group: HeadGroup, query: tuple[int, int], size: tuple[int, int], order: str = "pad_then_roll"
) -> list[Key]:
    """List the keys of the query token at `(row, col)` of a map of `size`, padded ones too."""
    rows, cols = (axis_keys(group, axis, query[axis], size[axis], order) for axis in (0, 1))
    keys = []
    for row, col in product(rows, cols):
        inside = row.source is not None and col.source is not None
        source = (row.source, col.source) if inside else None
        keys.append(Key(source, (row.delta, col.delta), row.agrees and col.agrees))
    return keys


def unpack(spec: AttentionSpec, qkv: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split the packed projection into query, key and value, each `[B, H, W, Hd, D]`."""
    heads, dim = spec.qkv_heads, spec.head_dim
    if spec.qkv_layout == "3HD":
        packed = qkv.reshape(*qkv.shape[:3], 3, heads, dim)
        return packed[:, :, :, 0], packed[:, :, :, 1], packed[:, :, :, 2]
    packed = qkv.reshape(*qkv.shape[:3], heads, 3, dim)
    return packed[..., 0, :], packed[..., 1, :], packed[..., 2, :]


def bias_tables(spec: AttentionSpec, bias_table: np.ndarray | None) -> list[np.ndarray | None]:
    """Cut the flat table into one `[num_heads, (2wh-1)*(2ww-1)]` table per head group."""
    if not spec.has_bias:
        return [None] * len(spec.head_groups)
    assert bias_table is not None
    tables, offset = [], 0
    for group in spec.head_groups:
        wh, ww = group.window_size
        entries = (2 * wh - 1) * (2 * ww - 1)
        end = offset + group.num_heads * entries
        tables.append(bias_table[offset:end].reshape(group.num_heads, entries))
        offset = end
    assert offset == bias_table.size
    return tables


def normalised(vector: np.ndarray) -> np.ndarray:
    """Divide a vector by its length."""
    return vector / max(float(np.sqrt((vector * vector).sum())), NORM_EPS)


def attention(
    spec: AttentionSpec,
    qkv: np.ndarray,
    *,
    bias_table: np.ndarray | None = None,
    pad_kv: np.ndarray | None = None,
    logit_scale: np.ndarray | None = None,
) -> np.ndarray:
    """Evaluate the operator in float64.

    Args:
        spec: What to compute.
        qkv: `[B, H, W, 3*Hd*D]`.
        bias_table: `[total]`, if the spec has a bias.
        pad_kv: `[2*Hd*D]`, keys of all heads, then values, if padded tokens attend.
        logit_scale: `[Hd]`, if the attention is by cosine.

    Returns:
        `[B, H, W, out_channels]`, float64.
    """
    batch, height, width, _ = qkv.shape
    dim = spec.head_dim
    query, key, value = unpack(spec, qkv.astype(np.float64))
    tables = bias_tables(spec, None if bias_table is None else bias_table.astype(np.float64))
    cosine = spec.qk_mode == "cosine"
    if spec.pad_mode == "bias_kv":
        assert pad_kv is not None
        pad_key, pad_value = pad_kv.astype(np.float64).reshape(2, spec.qkv_heads, dim)
    out = np.zeros((batch, height, width, sum(g.num_heads for g in spec.head_groups), dim))

    first = 0  # first output head of the group
    for group, table in zip(spec.head_groups, tables, strict=True):
        for y, x in product(range(height), range(width)):
            keys = keys_of(group, (y, x), (height, width), spec.shift_pad_order)
            if spec.pad_mode == "mask":
                keys = [one for one in keys if one.source is not None]
            for b, h in product(range(batch), range(group.num_heads)):
                head = group.head_offset + h
                if cosine:
                    assert logit_scale is not None
                    scale = float(logit_scale[head])
                    q = normalised(query[b, y, x, head])
                else:
                    scale = spec.softmax_scale if spec.softmax_scale != 0 else dim**-0.5
                    q = query[b, y, x, head]
                logits, values = [], []
                for one in keys:
                    if one.source is None:
                        k, v = pad_key[head], pad_value[head]
                    else:
                        place = (b, *one.source, head)
                        k, v = key[place], value[place]
                    logit = float(q @ (normalised(k) if cosine else k)) * scale
                    if table is not None:
                        (dy, dx), (wh, ww) = one.delta, group.window_size
                        logit += table[h, (dy + wh - 1) * (2 * ww - 1) + (dx + ww - 1)]
                    if not one.agrees:
                        logit += spec.mask_value
                    logits.append(logit)
                    values.append(v)
                weights = np.exp(np.array(logits) - max(logits))
                out[b, y, x, first + h] = weights @ np.array(values) / weights.sum()
        first += group.num_heads
    return out.reshape(batch, height, width, spec.out_channels)
