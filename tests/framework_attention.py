"""What torch itself gives in half precision: gathered keys and its own scaled dot product."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeattn.spec import AttentionSpec, HeadGroup
from tests import oracle


def attention(
    spec: AttentionSpec,
    qkv: Tensor,
    *,
    bias_table: Tensor | None = None,
    pad_kv: Tensor | None = None,
    logit_scale: Tensor | None = None,
) -> Tensor:
    """Evaluate the operator with every product and every softmax in the type of `qkv`."""
    batch, height, width, _ = qkv.shape
    heads, dim = spec.qkv_heads, spec.head_dim
    if spec.qkv_layout == "3HD":
        packed = qkv.reshape(batch, height * width, 3, heads, dim)
    else:
        packed = qkv.reshape(batch, height * width, heads, 3, dim).transpose(2, 3)
    pad = qkv.new_ones(3, heads, dim)  # zeros have no direction, which cosine would make NaN
    if pad_kv is not None:
        pad[1:] = pad_kv.view(2, heads, dim)
    packed = torch.cat([packed, pad.expand(batch, 1, 3, heads, dim)], dim=1)
    query, key, value = packed.unbind(2)
    scale = spec.effective_softmax_scale
    if spec.qk_mode == "cosine":
        scale = 1.0
        query = F.normalize(query, dim=-1) * logit_scale.to(qkv.dtype)[:, None]
        key = F.normalize(key, dim=-1)
    outputs, offset = [], 0
    for group in spec.head_groups:
        source, mask, bias_index = _gather_tables(spec, group, height, width)
        mask = mask.to(qkv.dtype)[:, None, None]  # [T, 1, 1, K]
        if bias_table is not None:
            table = bias_table[offset : offset + group.bias_entries].to(qkv.dtype)
            offset += group.bias_entries
            bias = table.view(group.num_heads, -1)[:, bias_index]  # [heads, T, K]
            mask = mask + bias.transpose(0, 1)[:, :, None]
        chosen = slice(group.head_offset, group.head_offset + group.num_heads)
        keys, values = (t[:, source, chosen].transpose(2, 3) for t in (key, value))
        queries = query[:, :-1, chosen, None]
        out = F.scaled_dot_product_attention(queries, keys, values, mask, scale=scale)
        outputs.append(out.squeeze(3))
    return torch.cat(outputs, dim=2).reshape(batch, height, width, spec.out_channels)


@lru_cache(maxsize=64)
def _gather_tables(
    spec: AttentionSpec, group: HeadGroup, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the oracle's key lists into tensors: `[T, K]` sources, masks and bias entries."""
    of_queries = [
        oracle.keys_of(group, query, (height, width), spec.shift_pad_order)
        for query in product(range(height), range(width))
    ]
    shape = (height * width, max(len(keys) for keys in of_queries))
    source = np.full(shape, height * width)
    mask = np.full(shape, -np.inf, np.float32)
    bias_index = np.zeros(shape, np.int64)
    window_rows, window_cols = group.window_size
    for t, keys in enumerate(of_queries):
        for n, key in enumerate(keys):
            if key.source is None and spec.pad_mode == "mask":
                continue
            if key.source is not None:
                source[t, n] = key.source[0] * width + key.source[1]
            mask[t, n] = 0.0 if key.agrees else spec.mask_value
            if spec.has_bias:
                row, col = key.delta[0] + window_rows - 1, key.delta[1] + window_cols - 1
                bias_index[t, n] = row * (2 * window_cols - 1) + col
    return torch.from_numpy(source), torch.from_numpy(mask), torch.from_numpy(bias_index)
