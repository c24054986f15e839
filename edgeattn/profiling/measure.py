"""The timing loop: the only one of the toolkit, for engines, benchmarks and comparisons.

Definitions follow trtexec: latency = host-to-device copy + compute + device-to-host copy of one
query; enqueue time apart; throughput = queries over wall time after the warm-up. The loop ends
when both the iterations and the duration are reached.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from edgeattn.engine.base import QueryTimes, TimedQuery
from edgeattn.errors import DataError

Query = Callable[[], object]
Clock = Callable[[], int]

# trtexec's defaults.
ITERATIONS = 10
DURATION_S = 3.0
WARM_UP_MS = 200.0

# Turns of the interleaved mode. The predecessor's worker threads may go on spinning for some
# milliseconds and the caches hold its weights: both belong to no one's latency.
_SETTLE_NS = 10_000_000
_TURN_NS = 50_000_000


@dataclass(frozen=True)
class Measurement:
    """The timed queries of one loop, in their order; none is dropped.

    Attributes:
        times: When each query ran.
        wall_ns: Wall time of the loop, from the first enqueue to the last completion.
    """

    times: tuple[QueryTimes, ...]
    wall_ns: int

    @property
    def enqueue_ms(self) -> list[float]:
        """Host time to enqueue each query."""
        return [(t.end_enqueue_ns - t.start_enqueue_ns) / 1e6 for t in self.times]

    @property
    def h2d_ms(self) -> list[float]:
        """Time of each query's copies to the device."""
        return [(t.end_h2d_ns - t.start_h2d_ns) / 1e6 for t in self.times]

    @property
    def compute_ms(self) -> list[float]:
        """Time of each query's computation."""
        return [(t.end_compute_ns - t.start_compute_ns) / 1e6 for t in self.times]

    @property
    def d2h_ms(self) -> list[float]:
        """Time of each query's copies from the device."""
        return [(t.end_d2h_ns - t.start_d2h_ns) / 1e6 for t in self.times]

    @property
    def latency_ms(self) -> list[float]:
        """Copies and computation of each query; what it waited between them does not count."""
        return [_latency_ns(t) / 1e6 for t in self.times]

    @property
    def throughput_qps(self) -> float:
        """Queries per second of wall time."""
        return len(self.times) / (self.wall_ns / 1e9)

    def export_times(self) -> list[dict[str, float]]:
        """Give the queries as trtexec's `--exportTimes` does, from the first enqueue on."""
        origin = self.times[0].start_enqueue_ns
        return [
            {
                "startEnqMs": (t.start_enqueue_ns - origin) / 1e6,
                "endEnqMs": (t.end_enqueue_ns - origin) / 1e6,
                "startH2dMs": (t.start_h2d_ns - origin) / 1e6,
                "endH2dMs": (t.end_h2d_ns - origin) / 1e6,
                "startComputeMs": (t.start_compute_ns - origin) / 1e6,
                "endComputeMs": (t.end_compute_ns - origin) / 1e6,
                "startD2hMs": (t.start_d2h_ns - origin) / 1e6,
                "endD2hMs": (t.end_d2h_ns - origin) / 1e6,
                "h2dMs": (t.end_h2d_ns - t.start_h2d_ns) / 1e6,
                "computeMs": (t.end_compute_ns - t.start_compute_ns) / 1e6,
                "d2hMs": (t.end_d2h_ns - t.start_d2h_ns) / 1e6,
                "latencyMs": _latency_ns(t) / 1e6,
            }
            for t in self.times
        ]


def _latency_ns(t: QueryTimes) -> int:
    copies = t.end_h2d_ns - t.start_h2d_ns + t.end_d2h_ns - t.start_d2h_ns
    return copies + t.end_compute_ns - t.start_compute_ns


def measure(
    query: Query,
    *,
    iterations: int = ITERATIONS,
    duration_s: float = DURATION_S,
    warm_up_ms: float = WARM_UP_MS,
    clock: Clock = time.perf_counter_ns,
) -> Measurement:
    """Time a query over and over.

    Args:
        query: What to time: an engine's bound query, or any callable that returns when its work
            is done. One that is a `TimedQuery` tells its own times.
        iterations: Least number of timed queries, at least 1.
        duration_s: Least time to go on timing.
        warm_up_ms: Time to run without timing before.
        clock: Nanoseconds of a monotonic clock.

    Raises:
        DataError: If an argument is out of range.
    """
    _check(iterations, duration_s, warm_up_ms)
    timed = _timer(query, clock)
    with _no_garbage_collection():
        _loop(timed, 0, int(warm_up_ms * 1e6), clock)
        times = _loop(timed, iterations, int(duration_s * 1e9), clock)
    return Measurement(tuple(times), _wall_ns(times))


def measure_interleaved(
    queries: Mapping[str, Query],
    *,
    iterations: int = ITERATIONS,
    duration_s: float = DURATION_S,
    warm_up_ms: float = WARM_UP_MS,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, Measurement]:
    """Time several queries side by side in one run, so that drift of the machine hits all alike.

    They take turns, the order reversed every time. A turn begins with untimed runs, at least one
    and for 10 ms: the predecessor's threads come to rest and the caches fill. Timed runs follow,
    at least one and for 50 ms.

    Args:
        queries: What to time, by name; see `measure`.
        iterations: Least number of timed runs of each query, at least 1.
        duration_s: Least time to go on, for each query on average.
        warm_up_ms: Time to run each query without timing before.
        clock: Nanoseconds of a monotonic clock.

    Returns:
        A measurement for each query; its wall time is that of its own timed runs.

    Raises:
        DataError: If an argument is out of range.
    """
    _check(iterations, duration_s, warm_up_ms)
    timers = {name: _timer(query, clock) for name, query in queries.items()}
    times: dict[str, list[QueryTimes]] = {name: [] for name in queries}
    walls = dict.fromkeys(queries, 0)
    with _no_garbage_collection():
        for timed in timers.values():
            _loop(timed, 0, int(warm_up_ms * 1e6), clock)
        order, end = list(timers), clock() + int(duration_s * 1e9) * len(timers)
        while order and (min(map(len, times.values())) < iterations or clock() < end):
            for name in order:
                _loop(timers[name], 1, _SETTLE_NS, clock)
                turn = _loop(timers[name], 1, _TURN_NS, clock)
                times[name] += turn
                walls[name] += _wall_ns(turn)
            order.reverse()
    return {name: Measurement(tuple(times[name]), walls[name]) for name in queries}


def _loop(
    timed: Callable[[], QueryTimes], least_count: int, least_ns: int, clock: Clock
) -> list[QueryTimes]:
    """Run a query until both the count and the time are reached."""
    times: list[QueryTimes] = []
    start = clock()
    while len(times) < least_count or clock() - start < least_ns:
        times.append(timed())
    return times


def _timer(query: Query, clock: Clock) -> Callable[[], QueryTimes]:
    """Make the function that runs a query once and tells its times."""
    if isinstance(query, TimedQuery):
        return query.timed

    def timed() -> QueryTimes:
        start = clock()
        query()
        end = clock()
        return QueryTimes(start, end, start, start, start, end, end, end)

    return timed


def _wall_ns(times: list[QueryTimes]) -> int:
    return times[-1].end_d2h_ns - times[0].start_enqueue_ns


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector, whose pauses are no query's latency, out of the loop."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check(iterations: int, duration_s: float, warm_up_ms: float) -> None:
    if iterations < 1:
        raise DataError(f"iterations is {iterations}; expected at least 1")
    for name, value in (("duration_s", duration_s), ("warm_up_ms", warm_up_ms)):
        if not 0 <= value < math.inf:
            raise DataError(f"{name} is {value}; expected a finite time of at least 0")
