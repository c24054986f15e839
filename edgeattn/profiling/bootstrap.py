"""How sure is a median? Its confidence interval, for queries that depend on their neighbours.

Latencies are no independent draws: clocks, caches and neighbours on the machine stay as they are
for many queries in a row. So whole blocks of consecutive queries are drawn, and what a block has in
common counts once. Below `_LEAST_FOR_BLOCKS` queries there are too few blocks to draw from; there
two of the times bound the median, by ranks that hold for any distribution of independent times.

References:
    Künsch (1989), "The jackknife and the bootstrap for general stationary observations": blocks of
    about the cube root of the number of observations.
    Conover, "Practical Nonparametric Statistics", 3.2: ranks that bound a quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

CONFIDENCE_PERCENT = 95.0

_LEAST_FOR_BOUNDS = 6  # the extremes of fewer times hold the median in less than 95 % of all cases
_LEAST_FOR_BLOCKS = 100
_MOST_BLOCKS = 2000
_REPLICATES = 1000
_SEED = 0
_CHUNK = 1 << 19  # entries of a working array


def median_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Bound the median: in 95 of 100 measurements like this one it lies between the two.

    Args:
        samples: `[N]` times in the order in which they were taken.

    Returns:
        Two of the samples, the lower one first; `None` below 6 samples, whose extremes hold the
        median in less than 95 % of all cases.
    """
    values = np.asarray(samples, dtype=np.float64)
    if len(values) < _LEAST_FOR_BLOCKS:
        return _order_statistics(values)
    medians = np.sort(bootstrap_medians(values))
    tail = (1 - CONFIDENCE_PERCENT / 100) / 2
    low = math.floor(tail * len(medians))
    return float(medians[low]), float(medians[-1 - low])


def ratio_interval(
    samples: Sequence[float], reference: Sequence[float]
) -> tuple[float, float] | None:
    """Bound the ratio of two medians with 95 % confidence.

    Args:
        samples: `[N]` times in the order in which they were taken.
        reference: `[M]` times that they are divided by, from another engine.

    Returns:
        The lower bound first; `None` where either median has no bounds.
    """
    if min(len(samples), len(reference)) < _LEAST_FOR_BOUNDS:
        return None
    ratios = np.sort(bootstrap_medians(samples, _SEED) / bootstrap_medians(reference, _SEED + 1))
    low = math.floor((1 - CONFIDENCE_PERCENT / 100) / 2 * len(ratios))
    return float(ratios[low]), float(ratios[-1 - low])


def bootstrap_medians(samples: Sequence[float] | np.ndarray, seed: int = _SEED) -> np.ndarray:
    """Draw the samples again and again, in blocks, and take the median of each draw.

    The medians of two measurements, drawn with two seeds, give the interval of their ratio.

    Args:
        samples: `[N]` times in the order in which they were taken, at least one.
        seed: Of the draws.

    Returns:
        `[1000]` medians: of an even number of times the lower of the two in the middle.
    """
    return bootstrap_percentiles(samples, 50, seed)


def bootstrap_percentiles(
    samples: Sequence[float] | np.ndarray,
    percent: float,
    seed: int = _SEED,
    blocks: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the samples again and again, in blocks, and take a percentile of each draw.

    Args:
        samples: `[N]` times in the order in which they were taken, at least one.
        percent: Above 0, to 100; taken as the decimal number it is written as.
        seed: Of the draws. Two measurements with as many blocks are drawn alike with one seed:
            what a block of the first shares with that of the second cancels in their ratio.
        blocks: `[N]` number of the block that each sample belongs to, from 0 on and none left
            out; by default as many consecutive ones as Künsch advises.

    Returns:
        `[1000]` percentiles by nearest rank.
    """
    values = np.asarray(samples, dtype=np.float64)
    count = len(values)
    block = _blocks(count) if blocks is None else blocks
    sizes = np.bincount(block)
    num_blocks = len(sizes)
    rng = np.random.default_rng(seed)
    # How often each block is drawn: [replicates, blocks].
    chances = np.full(num_blocks, 1 / num_blocks)
    drawn = rng.multinomial(num_blocks, chances, size=_REPLICATES).astype(np.int32)
    order = np.argsort(values, kind="stable")
    ordered, block = values[order], block[order]
    # Blocks may differ in size, so that draws do.
    share = Fraction(str(percent)) / 100
    totals = (drawn @ sizes).astype(np.int64)
    ranks = -(-totals * share.numerator // share.denominator)
    # A draw moves the percentile by few ranks; six standard deviations of the worst case, blocks
    # of equal times, are looked at, and all below them is counted block by block.
    deviation = math.sqrt(share * (1 - share) * int(np.sum(sizes**2)))
    reach = math.ceil(6 * deviation) + int(sizes.max())
    middle = int(share * count)
    first, last = max(middle - reach, 0), min(middle + reach, count)
    below = drawn @ np.bincount(block[:first], minlength=num_blocks)
    window, near = ordered[first:last], block[first:last]
    percentiles = np.empty(_REPLICATES)
    rows = max(_CHUNK // len(window), 1)
    for start in range(0, _REPLICATES, rows):
        part = slice(start, start + rows)
        reached = np.cumsum(drawn[part][:, near], axis=1, dtype=np.int32)
        enough = reached >= (ranks - below)[part, None]
        percentiles[part] = window[np.argmax(enough, axis=1)]
    return percentiles


def _blocks(count: int) -> np.ndarray:
    length = max(math.ceil(count ** (1 / 3)), math.ceil(count / _MOST_BLOCKS))
    return np.arange(count) // length


def _order_statistics(values: np.ndarray) -> tuple[float, float] | None:
    """Bound the median by the innermost ranks whose binomial probability suffices."""
    count = len(values)
    tail = (1 - CONFIDENCE_PERCENT / 100) / 2
    outside, rank = 0.5**count, 0  # that at most `rank` of the times lie below the median
    while outside <= tail:
        rank += 1
        outside += math.comb(count, rank) * 0.5**count
    if rank == 0:
        return None
    ordered = np.sort(values)
    return float(ordered[rank - 1]), float(ordered[count - rank])
