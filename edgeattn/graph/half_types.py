"""FP16 and BF16 as number formats, and what of float32 fits into them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

HalfType = Literal["float16", "bfloat16"]

HALF_TYPES: dict[HalfType, int] = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}


def as_half(values: NDArray[Any], half: HalfType) -> NDArray[Any]:
    """Round to a half type, to the nearest and halves to even; what is too large is infinite."""
    with np.errstate(over="ignore"):
        return values.astype(helper.tensor_dtype_to_np_dtype(HALF_TYPES[half]))


def smallest_normal(half: HalfType) -> float:
    """Give the smallest number that a half type holds with all its digits."""
    return 2.0**-14 if half == "float16" else 2.0**-126


def scale_misfit(scale: NDArray[Any], half: HalfType) -> str:
    """Say why an INT8 scale cannot be of a half type; nothing if it can.

    A quarter below the smallest normal number of FP16 a scale is still rounded by less than 2^-9,
    which moves the largest integer by a quarter of a step.
    """
    largest, smallest = float(np.max(scale, initial=0)), float(np.min(scale, initial=np.inf))
    if np.isinf(as_half(np.array(128 * largest, np.float32), half)):
        return f"reach {128 * largest:.3g}"
    if smallest < smallest_normal(half) / 4:
        return f"are as small as {smallest:.3g}"
    return ""


def constant_misfit(values: NDArray[Any], half: HalfType) -> str:
    """Say why a float32 constant cannot be of a half type; nothing if it can.

    Infinities stay what they are; and a few values that vanish beside larger ones are not missed.
    """
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max(initial=0.0))
    if np.isinf(as_half(np.array(largest, np.float32), half)):
        return f"holds {largest:.3g}, beyond the range of {half}"
    if 0 < largest < smallest_normal(half):
        return f"holds nothing above {largest:.3g}, too small for {half}"
    return ""
