"""The ratio of two latencies, and how sure it is.

Engines that are measured in one run take turns. What changes from turn to turn (clocks, caches,
neighbours on the machine) is larger than what changes within one, and hits neighbouring turns of
both engines alike. So whole turns are drawn, those of both together: the interval knows how turns
differ, and what both share cancels. Of measurements that were made apart, blocks are drawn as for
their medians, each on its own.

References:
    Künsch (1989), as in `edgeattn.profiling.bootstrap`, for measurements made apart.
    Davison and Hinkley, "Bootstrap Methods and their Application", 3.8: draws of whole clusters.
    Hesterberg (2015), "What teachers should know about the bootstrap": draws of few have too short
    tails, and by how much more to take of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from edgeattn.profiling.bootstrap import (
    CONFIDENCE_PERCENT,
    bootstrap_percentiles,
    median_interval,
)

# Few turns do not tell how turns differ.
LEAST_TURNS = 8
# So many times have to lie on either side of a percentile for draws to bound it: of fewer, the
# truth may lie beyond all of them.
_LEAST_BEYOND = 4
_LEAST_FOR_BLOCKS = 100
_TAIL = (1 - CONFIDENCE_PERCENT / 100) / 2


@dataclass(frozen=True)
class Times:
    """The latencies of one side, in the order in which they were measured.

    Attributes:
        latency_ms: `[N]`.
        starts_ns: `[N]`, when each query began, by the clock of the run.
    """

    latency_ms: tuple[float, ...]
    starts_ns: tuple[int, ...]


@dataclass(frozen=True)
class Ratio:
    """A percentile of the candidate's latency over that of the reference.

    Attributes:
        value: The ratio; below 1 where the candidate is faster.
        interval: Bounds of it with 95 % confidence; `None` if the times do not bound it.
        missing: Why they do not; empty if they do.
    """

    value: float
    interval: tuple[float, float] | None
    missing: str = ""


def percentile_ratio(
    a: Times, b: Times, percent: float, value: float, *, is_one_run: bool
) -> Ratio:
    """Bound the ratio of two percentiles.

    Args:
        a: The reference.
        b: The candidate.
        percent: Which percentile.
        value: The ratio as the two statistics give it.
        is_one_run: Whether both took turns in one run.
    """
    turns = paired_turns(a.starts_ns, b.starts_ns) if is_one_run else None
    num_turns = _count(turns) if turns else 0
    if num_turns < LEAST_TURNS:
        turns = None
    few = min(len(a.latency_ms), len(b.latency_ms))
    if turns is None and few < _LEAST_FOR_BLOCKS and percent == 50:
        return _of_ranks(a, b, value)
    least = least_queries(percent)
    if few < least:
        return Ratio(value, None, f"{few} queries are too few to bound it, it takes {least}")
    if turns is None:
        reference = bootstrap_percentiles(a.latency_ms, percent, seed=0)
        draws = bootstrap_percentiles(b.latency_ms, percent, seed=1) / reference
        tail = _TAIL
    else:
        of_a, of_b = (np.minimum(of, num_turns - 1) for of in turns)
        reference = bootstrap_percentiles(a.latency_ms, percent, blocks=of_a)
        draws = bootstrap_percentiles(b.latency_ms, percent, blocks=of_b) / reference
        tail = _tail_of_few(num_turns)
    ordered = np.sort(draws)
    low = math.floor(tail * len(ordered))
    return Ratio(value, (float(ordered[low]), float(ordered[-1 - low])))


def least_queries(percent: float) -> int:
    """Give the number of queries of which enough lie on either side of a percentile."""
    return math.ceil(round(100 * _LEAST_BEYOND / min(percent, 100 - percent), 6))


def paired_turns(starts_a: Sequence[int], starts_b: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Find the turns of two engines that were measured in one run, by who asked between them.

    Args:
        starts_a: `[N]`, when the queries of one began, in order.
        starts_b: `[M]`, the same of the other, by the same clock.

    Returns:
        `[N]` and `[M]`: the number of the turn that each query belongs to, from 0 on. Turns of one
        number follow one another; the last one may be missing on one side.
    """
    starts = np.concatenate([starts_a, starts_b])
    is_b = np.arange(len(starts)) >= len(starts_a)
    order = np.argsort(starts, kind="stable")
    begun = is_b[order]
    changes = np.cumsum(begun[1:] != begun[:-1])
    turns = np.concatenate([[0], changes]) // 2
    return turns[~begun], turns[begun]


def num_turns_of(a: Times, b: Times) -> int:
    """Count the turns that both sides had in the run that they share."""
    return _count(paired_turns(a.starts_ns, b.starts_ns))


def _count(turns: tuple[np.ndarray, np.ndarray]) -> int:
    return min(int(of[-1]) for of in turns) + 1


def _tail_of_few(num_turns: int) -> float:
    """Give the share of the draws to leave out on either side, less than of many turns."""
    normal = NormalDist()
    z, free = -normal.inv_cdf(_TAIL), num_turns - 1
    # Student's quantile by the first terms of its expansion: 0.4 % too small at 7 degrees.
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return normal.cdf(-t * math.sqrt(num_turns / free))


def _of_ranks(a: Times, b: Times, value: float) -> Ratio:
    """Bound the ratio of the medians of few times by the bounds of both: wider than it needs."""
    bounds_a, bounds_b = (median_interval(side.latency_ms) for side in (a, b))
    if bounds_a is None or bounds_b is None or not bounds_a[0]:
        few = min(len(a.latency_ms), len(b.latency_ms))
        return Ratio(value, None, f"{few} queries are too few to bound it, it takes 6")
    return Ratio(value, (bounds_b[0] / bounds_a[1], bounds_b[1] / bounds_a[0]))
