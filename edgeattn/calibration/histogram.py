"""A histogram of magnitudes that is exact whatever the order in which values come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]
State = dict[str, NDArray[Any]]

OCTAVES = 24
MANTISSA_BITS = 10
BINS_PER_OCTAVE = 1 << MANTISSA_BITS
BINS = OCTAVES * BINS_PER_OCTAVE

_SHIFT = np.uint32(23 - MANTISSA_BITS)
_MAGNITUDE = np.uint32(0x7FFFFFFF)  # all bits of a float32 but the sign
_INFINITY = np.uint32(0x7F800000)  # NaNs are above
_CHUNK = 1 << 17  # values at a time: the buffers stay in the L2 cache


class NonFiniteError(ValueError):
    """An observed tensor holds NaN or infinity."""


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

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, np.int64)
        self._first = 0  # index of bin 0 among all bins that float32 has
        self._amax_bits = np.uint32(0)

    @property
    def amax(self) -> float:
        """Largest magnitude seen."""
        return float(self._amax_bits.view(np.float32))

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum())

    def update(self, values: Floats) -> None:
        """Count values of any shape.

        Raises:
            NonFiniteError: If one is NaN or infinite.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
        index = np.empty(min(flat.size, _CHUNK), np.intp)
        for start in range(0, flat.size, _CHUNK):
            bits = flat[start : start + _CHUNK] & _MAGNITUDE
            self._raise_ceiling(bits.max())
            bits >>= _SHIFT
            if bits.min() < self._first:  # rare, and several times the cost of looking
                np.maximum(bits, np.uint32(self._first), out=bits)
            chunk = index[: bits.size]
            np.subtract(bits, self._first, out=chunk, casting="unsafe")
            self.counts += np.bincount(chunk, minlength=BINS)

    def reach(self, magnitude: float) -> None:
        """Take note of a magnitude without counting it: of values that are counted in part.

        Raises:
            NonFiniteError: If it is NaN or infinite.
        """
        self._raise_ceiling(np.float32(magnitude).view(np.uint32) & _MAGNITUDE)

    def merge(self, other: MagnitudeHistogram) -> None:
        """Add the counts of another histogram."""
        aligned = MagnitudeHistogram()
        aligned.counts, aligned._first = other.counts.copy(), other._first
        aligned._raise_ceiling(self._amax_bits)
        self._raise_ceiling(other._amax_bits)
        self.counts += aligned.counts

    def upper_edges(self) -> Floats:
        """Magnitude at which each bin ends, `[24 * 1024]`; infinite above the largest float."""
        bits = np.arange(self._first + 1, self._first + BINS + 1, dtype=np.uint32)
        return (bits << _SHIFT).view(np.float32)

    def lower_edges(self) -> Floats:
        """Magnitude at which each bin begins, `[24 * 1024]`; that of bin 0 is 0."""
        bits = np.arange(self._first, self._first + BINS, dtype=np.uint32)
        edges = (bits << _SHIFT).view(np.float32)
        edges[0] = 0
        return edges

    def state(self) -> State:
        """Give all that was seen as arrays."""
        return {
            "counts": self.counts,
            "first": np.array(self._first, np.int64),
            "amax": np.array(self.amax, np.float32),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` gave.

        Raises:
            KeyError: If an array is missing.
            ValueError: If an array is not what it gives.
        """
        counts, first = state["counts"], int(state["first"])
        if counts.shape != (BINS,) or counts.dtype != np.int64 or counts.min() < 0:
            raise ValueError("counts are not those of a histogram")
        restored = MagnitudeHistogram()
        restored.reach(float(state["amax"]))
        if restored._first != first:
            raise ValueError("the bins do not end at the largest magnitude")
        self.counts, self._first = counts.copy(), first
        self._amax_bits = restored._amax_bits

    def _raise_ceiling(self, bits: np.uint32) -> None:
        if bits >= _INFINITY:
            raise NonFiniteError("NaN or infinity")
        self._amax_bits = max(self._amax_bits, bits)
        octave = int(bits >> np.uint32(23))
        first = (octave + 1 << MANTISSA_BITS) - BINS
        if first <= self._first:
            return
        fallen = min(first - self._first, BINS)
        counts = np.zeros_like(self.counts)
        counts[: BINS - fallen] = self.counts[fallen:]
        counts[0] += self.counts[:fallen].sum()
        self.counts, self._first = counts, first
