"""Windows folded into heads or batch: attention on the four axes that fused kernels take.

TensorRT fuses attention over `[B, heads, tokens, channels]`. Windows are one axis too many; folding
them into another one moves nothing in memory. They become heads where masks tell them apart: bias
and mask are then one constant, which all batches share. Where they are all alike, or the map's
size is not known, they become batch, and a mask is repeated for each map.

References:
    NVIDIA, "Fused Attention" in TensorRT's documentation: shapes of Q, K, V; one additive mask,
    broadcast along batch and heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeattn.graph.tape import Value

# Above this a sum of constant bias and mask is not stored; it is added at run time.
MAX_CONSTANT_LOGITS = 4 << 20


@dataclass(frozen=True)
class WindowFactors:
    """What attention within windows is made of, with a name for each axis there is.

    Attributes:
        query: `[B, nW, heads, N, D]`, scaled; `[B * nW, heads, N, D]` or `[B, nW * heads, N, D]`
            when folded.
        key: Likewise.
        value: Likewise.
        terms: What is added to the logits, each of a shape that broadcasts to theirs.
        in_batch: Whether the windows are folded into the batch.
    """

    query: Value
    key: Value
    value: Value
    terms: tuple[Value, ...]
    in_batch: bool = False


def sum_constants(bias: Value | None, mask: Value | None) -> tuple[Value, ...]:
    """List what is added to logits: one sum where both are constant, and not too large.

    Args:
        bias: `[heads, N, N]`, if there is one.
        mask: `[nW, 1, N, N]`, likewise.
    """
    if bias is None or mask is None:
        return tuple(term for term in (bias, mask) if term is not None)
    return (bias + mask,) if _fits_as_constant(bias, mask) else (bias, mask)


def fold_windows(
    factors: tuple[Value, Value, Value],
    bias: Value | None,
    mask: Value | None,
    windows: Value,
    sizes: tuple[int, Value, int],
) -> WindowFactors:
    """Fold windows into another axis.

    Args:
        factors: Query, key and value, each `[B, nW, heads, N, D]`.
        bias: `[heads, N, N]`, if there is one.
        mask: `[nW, 1, N, N]`, likewise.
        windows: nW.
        sizes: Number of heads, N, and D.
    """
    heads, tokens, head_dim = sizes
    tape = windows.tape
    count = mask.known.shape[0] if mask is not None and mask.known is not None else 0
    if mask is not None and count > 1 and _fits_as_constant(bias, mask, heads):
        shape = (0, count * heads, tokens, head_dim)
        if bias is None:
            bias = tape.value(np.zeros((heads, 1, 1), np.float32))
        term = (bias + mask).reshape(1, count * heads, tokens, tokens)
        query, key, value = (factor.reshape(*shape) for factor in factors)
        return WindowFactors(query, key, value, (term,))
    query, key, value = (factor.reshape(-1, heads, tokens, head_dim) for factor in factors)
    if mask is not None and count != 1:
        batch = tape.op("Shape", factors[0]).gather(0, axis=0)
        every = tape.shape((batch, windows, 1, tokens, tokens))
        mask = tape.op("Expand", mask.unsqueeze(0), every).reshape(-1, 1, tokens, tokens)
    if bias is not None:
        bias = bias.unsqueeze(0)
    return WindowFactors(query, key, value, sum_constants(bias, mask), in_batch=True)


def _fits_as_constant(bias: Value | None, mask: Value, heads: int = 1) -> bool:
    """Tell whether the sum of a bias and a mask is constant and small enough to be stored."""
    if mask.known is None or (bias is not None and bias.known is None):
        return False
    heads = heads if bias is None or bias.known is None else bias.known.shape[-3]
    return math.prod(mask.known.shape) * heads <= MAX_CONSTANT_LOGITS
