"""Streaming observers of activations: what they keep does not grow with the number of images.

An observer sees a tensor chunk by chunk and answers with the magnitude `amax` to quantize at.
The answer depends on the values alone: any batch size, chunking or order, and shards observed
apart and merged, give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import SpecError

Method = Literal["minmax", "percentile"]
METHODS = get_args(Method)

Floats = NDArray[np.float32]


class NonFiniteError(ValueError):
    """An observed tensor holds NaN or infinity."""


class Observer(Protocol):
    """What the collector needs of an observer."""

    needs_values: bool  # False: the extremes of each chunk are enough

    def update(self, values: Floats) -> None:
        """Take in values of any shape."""
        ...

    def merge(self, other: Any) -> None:
        """Take in all that another observer of the same kind saw."""
        ...

    def amax(self) -> float:
        """Magnitude that becomes the largest integer; 0 if nothing but zeros was seen."""
        ...


def observer_factory(method: str, percentile: float) -> Callable[[], Observer]:
    """Choose how tensors are observed.

    Args:
        method: `minmax` or `percentile`.
        percentile: For the method of that name: percent of magnitudes not clipped.

    Raises:
        SpecError: If the method is unknown or the percentile is out of range.
    """
    if method == "minmax":
        return MinMaxObserver
    if method == "percentile":
        PercentileObserver(percentile)
        return lambda: PercentileObserver(percentile)
    raise SpecError(f"the method is {method!r}", f"use {' or '.join(METHODS)}")


class MinMaxObserver:
    """The exact largest magnitude."""

    needs_values = False

    def __init__(self) -> None:
        self._amax = np.float32(0)

    def update(self, values: Floats) -> None:
        """Take in values, or the smallest and largest of them.

        Raises:
            NonFiniteError: If one is NaN or infinite.
        """
        if values.size:
            self._amax = max(self._amax, _finite(np.maximum(-values.min(), values.max())))

    def merge(self, other: MinMaxObserver) -> None:
        """Take in all that another observer saw."""
        self._amax = max(self._amax, other._amax)

    def amax(self) -> float:
        """Largest magnitude seen."""
        return float(self._amax)


class PercentileObserver:
    """A percentile of the magnitudes, to one bin of a `MagnitudeHistogram`.

    The percentile is the nearest rank: the smallest magnitude with that share of all values at
    or below it. The answer is the upper edge of its bin, at most the largest magnitude seen.
    Where it falls into the lowest bin (zeros, and what is 24 octaves below the largest), the
    tensor is all but empty and the few values that count would be clipped: then the answer is the
    largest magnitude.

    Args:
        percentile: Above 0, at most 100.

    Raises:
        SpecError: If it is out of range.
    """

    needs_values = True

    def __init__(self, percentile: float) -> None:
        if not 0 < percentile <= 100:
            raise SpecError(
                f"the percentile is {percentile}; expected above 0 and at most 100",
                "99.99 clips one magnitude in 10,000",
            )
        self._percentile = percentile
        self._histogram = MagnitudeHistogram()

    def update(self, values: Floats) -> None:
        """Take in values of any shape.

        Raises:
            NonFiniteError: If one is NaN or infinite.
        """
        self._histogram.update(values)

    def merge(self, other: PercentileObserver) -> None:
        """Take in all that another observer of the same percentile saw.

        Raises:
            ValueError: If the percentiles differ.
        """
        if other._percentile != self._percentile:
            raise ValueError(f"cannot merge {self._percentile=} with {other._percentile=}")
        self._histogram.merge(other._histogram)

    def amax(self) -> float:
        """Percentile of the magnitudes seen."""
        histogram = self._histogram
        cumulative = np.cumsum(histogram.counts)
        # In decimal: 99.9 % of 1000 values are 999, which binary fractions miss.
        share = Decimal(str(self._percentile)) / 100 * int(cumulative[-1])
        rank = int(share.to_integral_value(ROUND_CEILING))
        bin_index = int(np.searchsorted(cumulative, rank))
        if bin_index == 0:
            return histogram.amax
        return min(float(histogram.upper_edges()[bin_index]), histogram.amax)


class MagnitudeHistogram:
    """Counts of magnitudes in bins of constant relative width, 2^-10.

    A bin is a float's exponent and its 10 leading mantissa bits: 1024 bins per octave, found by a
    shift of the bits. The histogram keeps the 24 octaves up to the largest magnitude seen; when a
    larger one comes the ceiling rises by whole octaves and the bins that fall out at the lower
    end are added to bin 0, which counts everything below too. Both steps are exact on integers,
    so the result depends on the values alone. Linear histograms over a power of two, of up to
    2048 bins, are sums of these bins.

    Attributes:
        counts: `[24 * 1024]` int64, by increasing magnitude.
        amax: Largest magnitude seen, exactly.
    """

    _OCTAVES = 24
    _MANTISSA_BITS = 10
    _BINS = _OCTAVES << _MANTISSA_BITS
    _SHIFT = np.uint32(23 - _MANTISSA_BITS)
    _MAGNITUDE = np.uint32(0x7FFFFFFF)  # all bits of a float32 but the sign
    _INFINITY = np.uint32(0x7F800000)  # NaNs are above
    _CHUNK = 1 << 17  # values at a time: the buffers stay in the L2 cache

    def __init__(self) -> None:
        self.counts = np.zeros(self._BINS, np.int64)
        self._first = 0  # index of bin 0 among all bins that float32 has
        self._amax_bits = np.uint32(0)

    @property
    def amax(self) -> float:
        """Largest magnitude seen."""
        return float(self._amax_bits.view(np.float32))

    def update(self, values: Floats) -> None:
        """Count values of any shape.

        Raises:
            NonFiniteError: If one is NaN or infinite.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
        index = np.empty(min(flat.size, self._CHUNK), np.intp)
        for start in range(0, flat.size, self._CHUNK):
            bits = flat[start : start + self._CHUNK] & self._MAGNITUDE
            self._raise_ceiling(bits.max())
            bits >>= self._SHIFT
            np.maximum(bits, np.uint32(self._first), out=bits)
            chunk = index[: bits.size]
            np.subtract(bits, self._first, out=chunk, casting="unsafe")
            self.counts += np.bincount(chunk, minlength=self._BINS)

    def merge(self, other: MagnitudeHistogram) -> None:
        """Add the counts of another histogram."""
        aligned = MagnitudeHistogram()
        aligned.counts, aligned._first = other.counts.copy(), other._first
        aligned._raise_ceiling(self._amax_bits)
        self._raise_ceiling(other._amax_bits)
        self.counts += aligned.counts

    def upper_edges(self) -> Floats:
        """Magnitude at which each bin ends, `[24 * 1024]`; infinite above the largest float."""
        bits = np.arange(self._first + 1, self._first + self._BINS + 1, dtype=np.uint32)
        return (bits << self._SHIFT).view(np.float32)

    def _raise_ceiling(self, bits: np.uint32) -> None:
        if bits >= self._INFINITY:
            raise NonFiniteError("NaN or infinity")
        self._amax_bits = max(self._amax_bits, bits)
        octave = int(bits >> np.uint32(23))
        first = (octave + 1 << self._MANTISSA_BITS) - self._BINS
        if first <= self._first:
            return
        fallen = min(first - self._first, self._BINS)
        counts = np.zeros_like(self.counts)
        counts[: self._BINS - fallen] = self.counts[fallen:]
        counts[0] += self.counts[:fallen].sum()
        self.counts, self._first = counts, first


def _finite(value: np.float32) -> np.float32:
    if not np.isfinite(value):
        raise NonFiniteError("NaN or infinity")
    return value
