"""Symmetric INT8: scales from magnitudes, weights as integers with one scale per channel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT8_MAX = 127

# Of what a softmax gives: it is between 0 and 1 whatever the data.
PROBABILITY_QUANT_SCALE = 1 / INT8_MAX


def quant_scale_from_amax(amax: ArrayLike) -> NDArray[np.float32]:
    """Turn absolute maxima into symmetric quantization scales.

    The step is `amax / 127`: `amax` maps to 127, real zero to integer zero.

    Args:
        amax: `[C]` or `[]`, in the units of the observed tensor.

    Returns:
        Same shape, float32: real value of one integer step; 1.0 where `amax` is 0, since TensorRT
        wants strictly positive scales, and never below the smallest normal number, since GPUs may
        flush smaller ones to zero.

    Raises:
        ValueError: If an entry is negative, NaN or infinite.

    References:
        NvInfer.h, IQuantizeLayer: round(input / scale), zero point 0. Wu et al.
        (arXiv:2004.09602, 3.1) call the inverse "scale".
    """
    amax = np.asarray(amax, np.float32)
    if not (np.isfinite(amax).all() and (amax >= 0).all()):
        raise ValueError(f"an absolute maximum is negative or not finite: {amax}")
    scale = np.maximum(amax / np.float32(INT8_MAX), np.finfo(np.float32).tiny)
    return np.where(amax == 0, np.float32(1), scale)


def is_quant_scale(value: float) -> bool:
    """Tell whether a number is a scale: finite and above zero in float32 too. NaN is none."""
    limits = np.finfo(np.float32)
    return float(limits.smallest_subnormal) <= value <= float(limits.max)


def quantize_per_channel(
    weight: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize a weight with one scale per channel: `round(weight / scale)`, half to even.

    Args:
        weight: Finite, in float32.
        axis: Its channel axis, of size C.

    Returns:
        The integers, in the weight's shape, and the scales `[C]`.

    Raises:
        ValueError: If the weight holds NaN or infinity.
    """
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    scales = quant_scale_from_amax(np.abs(weight).max(axis=others))
    steps = np.rint(weight / np.expand_dims(scales, others))
    return np.clip(steps, -INT8_MAX, INT8_MAX).astype(np.int8), scales


def rounding_sqnr_db(
    weight: NDArray[np.float32], integers: NDArray[np.int8], scales: NDArray[np.float32], axis: int
) -> float | None:
    """Compare a weight with what `quantize_per_channel` made of it.

    Returns:
        `10 log10(sum(w^2) / sum((w - scale * integer)^2))` in dB; `None` if nothing was rounded.
    """
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    error = weight - integers * np.expand_dims(scales, others)
    noise = float(np.sum(np.square(error, dtype=np.float64)))
    signal = float(np.sum(np.square(weight, dtype=np.float64)))
    return 10 * math.log10(signal / noise) if noise else None
