"""Energy per query: what the board drew while it ran, over the queries that it ran.

    energy = integral of power over the window, by the trapezoid rule
    mj     = (energy - idle power x window) / queries

Power between two samples is taken to move in a straight line, also to the edges of the window. The
standard error comes from the spread of the mean power between equal parts of the window (batch
means): neighbouring samples of a sensor that averages are not independent, parts are nearly.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from edgeattn.profiling.board.rails import total_mw
from edgeattn.profiling.board.sample import BoardTrace

# Below these a figure would be made of too little: samples within the window, the share of the
# window that lies between two neighbours, the periods by which the trace may miss an edge.
MIN_SAMPLES = 10
_MAX_GAP_SHARE = 0.1
_MAX_EDGE_PERIODS = 2.0

_MAX_PARTS = 10
_SAMPLES_PER_PART = 4

_Points = list[tuple[int, float]]


@dataclass(frozen=True)
class EnergyPerQuery:
    """What one query costs.

    Attributes:
        mj: Millijoules per query: above idle if an idle baseline was measured, else all of it.
        std_error_mj: Standard error of `mj`.
        gross_mj: Millijoules per query with what the board draws anyway.
        idle_mw: Mean power of the board at rest; `None` without a baseline.
        busy_mw: Mean power in the window.
        rail: What was measured: a rail, or a sum of rails.
        method: How, in words.
        samples: Samples within the window.
        window_s: Length of the window.
    """

    mj: float
    std_error_mj: float
    gross_mj: float
    idle_mw: float | None
    busy_mw: float
    rail: str
    method: str
    samples: int
    window_s: float

    def to_dict(self) -> dict[str, Any]:
        """Turn the figures into JSON values."""
        return asdict(self)


def energy_per_query(
    trace: BoardTrace,
    start_ns: int,
    end_ns: int,
    queries: int,
    idle: BoardTrace | None = None,
) -> EnergyPerQuery | None:
    """Find the energy of one query.

    Args:
        trace: Samples from before the window to after it.
        start_ns: When the first query began, of `time.perf_counter_ns`.
        end_ns: When the last one ended.
        queries: How many ran.
        idle: A trace of the same board at rest, the engine loaded: its mean is subtracted.

    Returns:
        The energy; `None` if the trace does not tell: `missing_energy` says why.
    """
    if missing_energy(trace, start_ns, end_ns, queries, idle):
        return None
    points = _points(trace, trace.total_rail)
    window_s = (end_ns - start_ns) / 1e9
    busy_mw, busy_error = _mean_and_error(points, start_ns, end_ns)
    idle_mw, idle_error = None, 0.0
    if idle is not None:
        at_rest = _points(idle, trace.total_rail)
        idle_mw, idle_error = _mean_and_error(at_rest, at_rest[0][0], at_rest[-1][0])
    per_query_s = window_s / queries
    rest = "" if idle is None else ", less the mean power of the board at rest"
    return EnergyPerQuery(
        mj=(busy_mw - (idle_mw or 0.0)) * per_query_s,
        std_error_mj=math.hypot(busy_error, idle_error) * per_query_s,
        gross_mj=busy_mw * per_query_s,
        idle_mw=idle_mw,
        busy_mw=busy_mw,
        rail=trace.total_rail,
        method=f"trapezoid rule over {trace.source} samples of {trace.total_rail}{rest}",
        samples=len(_within(points, start_ns, end_ns)),
        window_s=window_s,
    )


def missing_energy(
    trace: BoardTrace,
    start_ns: int,
    end_ns: int,
    queries: int,
    idle: BoardTrace | None = None,
) -> str:
    """Say why the energy of a query cannot be told; empty if it can.

    Args:
        trace: See `energy_per_query`, as for the other arguments.
        start_ns: See there.
        end_ns: See there.
        queries: See there.
        idle: See there.
    """
    if queries < 1 or end_ns <= start_ns:
        return f"there is no window with queries: {queries} in {(end_ns - start_ns) / 1e9:.3f} s"
    if not trace.samples:
        return trace.problem or "no sensor was read"
    if not trace.total_rail:
        rails = ", ".join(dict.fromkeys(n for s in trace.samples for n in s.power_mw))
        if rails:
            return f"the power rails do not tell the whole: {rails}"
        return trace.problem or "no power rail was read"
    points = _points(trace, trace.total_rail)
    inside = _within(points, start_ns, end_ns)
    if len(inside) < MIN_SAMPLES:
        return (
            f"the window of {(end_ns - start_ns) / 1e9:.3f} s holds {len(inside)} samples of "
            f"{trace.total_rail}; {MIN_SAMPLES} are needed"
        )
    edge_ns = _MAX_EDGE_PERIODS * trace.period_s * 1e9
    if points[0][0] - start_ns > edge_ns or end_ns - points[-1][0] > edge_ns:
        return "the samples do not cover the window"
    times = [start_ns, *(time for time, _ in inside), end_ns]
    gap_ns = max(after - before for before, after in pairwise(times))
    if gap_ns > _MAX_GAP_SHARE * (end_ns - start_ns):
        return f"the samples have a hole of {gap_ns / 1e9:.3f} s"
    if idle is None:
        return ""
    at_rest = _points(idle, trace.total_rail)
    if len(at_rest) < MIN_SAMPLES:
        return (
            f"the idle baseline holds {len(at_rest)} samples of {trace.total_rail}; "
            f"{MIN_SAMPLES} are needed"
        )
    idle_mw, _ = _mean_and_error(at_rest, at_rest[0][0], at_rest[-1][0])
    busy_mw, _ = _mean_and_error(points, start_ns, end_ns)
    if idle_mw >= busy_mw:
        return (
            f"the idle baseline, {idle_mw:.0f} mW, is not below the power of the run, "
            f"{busy_mw:.0f} mW: the board was not at rest"
        )
    return ""


def _points(trace: BoardTrace, rail: str) -> _Points:
    """Pair times with the power of the whole, leaving out samples that lack it."""
    pairs = ((sample.time_ns, total_mw(sample, rail)) for sample in trace.samples)
    return [(time, power) for time, power in pairs if power is not None]


def _within(points: _Points, start_ns: int, end_ns: int) -> _Points:
    return [point for point in points if start_ns <= point[0] <= end_ns]


def _mean_and_error(points: _Points, start_ns: int, end_ns: int) -> tuple[float, float]:
    """Average power over a window, in mW, with its standard error from the spread of its parts."""
    count = len(_within(points, start_ns, end_ns))
    parts = max(2, min(_MAX_PARTS, count // _SAMPLES_PER_PART))
    edges = [start_ns + (end_ns - start_ns) * i // parts for i in range(parts + 1)]
    means = [_mean(points, a, b) for a, b in pairwise(edges)]
    weights = [b - a for a, b in pairwise(edges)]
    mean = math.fsum(m * w for m, w in zip(means, weights, strict=True)) / (end_ns - start_ns)
    variance = math.fsum((part - mean) ** 2 for part in means) / (parts - 1)
    return mean, math.sqrt(variance / parts)


def _mean(points: _Points, start_ns: int, end_ns: int) -> float:
    """Average power from one time to another: the trapezoid rule over the length, in mW."""
    inner = [point for point in points if start_ns < point[0] < end_ns]
    line = [(start_ns, _power_at(points, start_ns)), *inner, (end_ns, _power_at(points, end_ns))]
    areas = ((b - a) * (p + q) / 2 for (a, p), (b, q) in pairwise(line))
    return math.fsum(areas) / (end_ns - start_ns)


def _power_at(points: _Points, time_ns: int) -> float:
    """Interpolate; before the first sample and after the last one their power holds."""
    after = bisect_left(points, time_ns, key=lambda point: point[0])
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (a, p), (b, q) = points[after - 1 : after + 1]
    return p + (q - p) * (time_ns - a) / (b - a)
