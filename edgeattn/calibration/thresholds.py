"""Where to clip: the magnitude that becomes 127, from a histogram of a tensor's magnitudes.

Pure functions of integer counts: equal counts give equal bits. Each answers with the edge of a
bin, or with the largest magnitude seen where nothing is clipped; 0 if there were only zeros.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.calibration.histogram import BINS, BINS_PER_OCTAVE, OCTAVES, MagnitudeHistogram

ENTROPY_BINS = 2048
ENTROPY_LEVELS = 128
MSE_OCTAVES = 8
MSE_STRIDE = 16  # bins from one candidate to the next

_INT8_MAX = 127
# Below it bins come near the subnormal numbers, where their relative width is not constant.
_LEAST_AMAX = 2.0**-100

# Logarithms of the number of bins in a level; no level has more.
_LOGS = np.log(np.maximum(np.arange(ENTROPY_BINS // ENTROPY_LEVELS + 2), 1))

Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]


def magnitude_at(histogram: MagnitudeHistogram, percent: float) -> float:
    """Find the magnitude that so many percent of the values do not exceed, to one bin.

    The percentile is the nearest rank: the smallest magnitude with that share of all values at or
    below it. The answer is the upper end of its bin, at most the largest magnitude seen.
    """
    cumulative = np.cumsum(histogram.counts)
    # In decimal: 99.9 % of 1000 values are 999, which binary fractions miss.
    share = Decimal(str(percent)) / 100 * int(cumulative[-1])
    rank = int(share.to_integral_value(ROUND_CEILING))
    bin_index = int(np.searchsorted(cumulative, rank))
    return min(float(histogram.upper_edges()[bin_index]), histogram.amax)


def clipped_percent(histogram: MagnitudeHistogram, amax: float) -> float:
    """Tell how many percent of the values are above a threshold, to one bin."""
    total = histogram.total
    if amax >= histogram.amax or not total:
        return 0.0
    return 100 * int(histogram.counts[histogram.lower_edges() >= amax].sum()) / total


def percentile_amax(histogram: MagnitudeHistogram, percentile: float) -> float:
    """Clip all but a percentile of the magnitudes.

    Where it falls into the lowest bin (zeros, and what is 24 octaves below the largest), the
    tensor is all but empty and the few values that count would be clipped: then the answer is the
    largest magnitude.
    """
    found = magnitude_at(histogram, percentile)
    return histogram.amax if found <= histogram.upper_edges()[0] else found


def entropy_amax(histogram: MagnitudeHistogram) -> float:
    """Clip where the quantized distribution tells least apart from the real one.

    The magnitudes, in 2048 linear bins up to the next power of two, are cut after `i` bins, for
    every `i` from 128 to the bin of the largest. `P` has what is cut off in its last bin. `Q` has
    the bins before the cut, merged into 128 levels, each spread evenly over those of its bins
    that are not empty. The cut with the least Kullback-Leibler divergence `sum P log(P / Q)`, of
    either's share of its own total, wins; the larger of equals. Bin 0 is made to count what bin 1
    does: zeros are exact at any scale.

    References:
        S. Migacz, 8-bit inference with TensorRT, GTC 2017: how TensorRT's entropy calibrator is
        described; its source is closed.
    """
    if histogram.amax < _LEAST_AMAX:
        return histogram.amax
    counts = np.bincount(_linear_bins(), weights=histogram.counts, minlength=ENTROPY_BINS)
    counts[0] = counts[1]
    width = 2.0 ** int(np.frexp(histogram.amax)[1]) / ENTROPY_BINS
    used = int(histogram.amax / width) + 1  # bins up to that of the largest magnitude
    starts = _level_starts()[: used - ENTROPY_LEVELS + 1]

    kept, filled = _cumulative(counts), _cumulative((counts > 0).astype(np.int64))
    by_level = np.diff(kept[starts])
    bins_of_level = np.diff(filled.astype(np.int64)[starts])
    cuts = np.arange(ENTROPY_LEVELS, used + 1)
    total, cut_off = kept[used], kept[used] - kept[cuts]
    last = counts[cuts - 1]
    # sum p log p, and sum p log q level by level, where q is constant; log 1 for empty levels.
    of_p = _cumulative(_x_log_x(counts))[cuts - 1] + _x_log_x(last + cut_off)
    log_q = np.log(np.maximum(by_level, 1)) - _LOGS[bins_of_level]
    of_q = (by_level * log_q).sum(axis=1) + cut_off * log_q[:, -1]
    divergence = (of_p - of_q) / max(total, 1) + np.log(np.maximum(kept[cuts], 1))
    divergence[(last == 0) & (cut_off > 0)] = np.inf  # P is there what Q is not

    best = int(cuts[::-1][np.argmin(divergence[::-1])])
    return min(best * width, histogram.amax)


def mse_amax(histogram: MagnitudeHistogram) -> float:
    """Clip where the mean squared error of rounding to INT8 and clipping is least.

    Each value stands at the centre of its bin. With the step `s = amax / 127`, a value within half
    a step of `k s` becomes `k s`, and all above the last becomes `127 s`. Candidates are the
    largest magnitude, and every 16th bin edge of the 8 octaves below; the larger of equals wins.
    """
    if histogram.amax < _LEAST_AMAX:
        return histogram.amax
    top = 2.0 ** int(np.frexp(histogram.amax)[1])  # where the last bin ends; all below is in it
    centres = _centres()
    largest = histogram.amax / top
    last = int(np.searchsorted(_edges(), largest, side="right")) - 1  # its bin
    bins = np.arange(last // MSE_STRIDE * MSE_STRIDE, last - MSE_OCTAVES * BINS_PER_OCTAVE, -16)
    thresholds = np.append(largest, _edges()[bins])
    below = np.concatenate([_below_midpoints(np.array([largest])), _below_of_bins(bins)])

    number = _cumulative(histogram.counts)
    first_moment = _cumulative(histogram.counts * centres)
    second_moment = float((histogram.counts * centres**2).sum())
    # sum (x - k s)^2, with the sums over the levels k written by parts: level 0 ends at the first
    # midpoint, level 127 holds all above the last.
    step = thresholds / _INT8_MAX
    odd = 2.0 * np.arange(_INT8_MAX) + 1
    crossed = _INT8_MAX * first_moment[-1] - first_moment[below].sum(axis=1)
    squares = _INT8_MAX**2 * number[-1] - number[below] @ odd
    error = second_moment - 2 * step * crossed + step**2 * squares
    return float(thresholds[np.argmin(error)]) * top


def _cumulative(values: NDArray[Any]) -> Doubles:
    """Sum what stands before each place, `[N] -> [N + 1]`."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: NDArray[Any]) -> Doubles:
    return values * np.log(np.maximum(values, 1))  # counts: whole numbers


# The bins of a histogram lie alike below its top, whatever that is: the tables are relative to it.


@lru_cache(maxsize=1)
def _edges() -> Doubles:
    """Lower edge of each bin, and of none at the top."""
    octave, mantissa = np.divmod(np.arange(BINS + 1), BINS_PER_OCTAVE)
    edges = np.ldexp(1 + mantissa / BINS_PER_OCTAVE, octave - OCTAVES)
    edges[0] = 0
    return edges


@lru_cache(maxsize=1)
def _centres() -> Doubles:
    """Centre of each bin; 0 for bin 0, which holds the zeros."""
    edges = _edges()
    centres = (edges[:-1] + edges[1:]) / 2
    centres[0] = 0
    return centres


@lru_cache(maxsize=1)
def _linear_bins() -> Indices:
    """Linear bin that each bin lies in: edges of linear bins are edges of bins."""
    return (_edges()[:-1] * ENTROPY_BINS).astype(np.int64)


@lru_cache(maxsize=1)
def _level_starts() -> Indices:
    """First bin of each level, and the end, `[cuts, 128 + 1]`: bin `j` is in `128 j // cut`."""
    cuts = np.arange(ENTROPY_LEVELS, ENTROPY_BINS + 1)[:, None]
    return -(-np.arange(ENTROPY_LEVELS + 1) * cuts // ENTROPY_LEVELS)


def _below_midpoints(thresholds: Doubles) -> Indices:
    """Count the bins whose centres are below each midpoint of two levels, `[T] -> [T, 127]`."""
    midpoints = thresholds[:, None] * (np.arange(_INT8_MAX) + 0.5) / _INT8_MAX
    return np.searchsorted(_centres(), midpoints)


@lru_cache(maxsize=1)
def _below_in_top_octave() -> Indices:
    top = np.arange(BINS - BINS_PER_OCTAVE, BINS, MSE_STRIDE)
    return _below_midpoints(_edges()[top])


def _below_of_bins(bins: Indices) -> Indices:
    """Do the same for thresholds at bin edges: an octave further down is 1024 bins further down."""
    octave, within = np.divmod(bins, BINS_PER_OCTAVE)
    down = (OCTAVES - 1 - octave)[:, None] * BINS_PER_OCTAVE
    return np.maximum(_below_in_top_octave()[within // MSE_STRIDE] - down, 1)
