"""The timing loop: the only one of the toolkit, for engines, benchmarks and comparisons.

It ends when both the iterations and the duration are reached, as trtexec's does; where it is asked
to, it goes on until the spread of the latencies has settled.
"""

from __future__ import annotations

import gc
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from edgeattn.engine.base import QueryTimes, TimedQuery
from edgeattn.errors import DataError
from edgeattn.profiling.measurement import Measurement, latency_ns

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

# The spread is looked at after blocks. It has settled when it is small, or when the last looks
# agree, as nvbench's criterion `stdrel` does it.
_BLOCK_QUERIES = 10
_BLOCK_NS = 50_000_000
_LOOKS = 5
_SMALL_SPREAD = 0.005
_SAME_SPREAD = 0.05


@dataclass(frozen=True)
class _Run:
    """What one stretch of the loop noted of its queries.

    Attributes:
        spans: When each was called and when it returned.
        told: The times that each told itself; empty if they do not.
    """

    spans: list[tuple[int, int]]
    told: list[QueryTimes]

    @cached_property
    def times(self) -> list[QueryTimes]:
        """Times of the queries; one that tells none has no parts but its computation."""
        if self.told:
            return self.told
        return [QueryTimes(b, e, b, b, b, e, e, e) for b, e in self.spans]

    @property
    def host_ns(self) -> list[int]:
        """What the caller waited for each query."""
        return [end - begin for begin, end in self.spans]


def measure(
    query: Query,
    *,
    iterations: int = ITERATIONS,
    duration_s: float = DURATION_S,
    warm_up_ms: float = WARM_UP_MS,
    settle_s: float = 0.0,
    clock: Clock = time.perf_counter_ns,
) -> Measurement:
    """Time a query over and over.

    Args:
        query: What to time: an engine's bound query, or any callable that returns when its work
            is done. One that is a `TimedQuery` tells its own times.
        iterations: Least number of timed queries, at least 1.
        duration_s: Least time to go on timing.
        warm_up_ms: Time to run without timing before.
        settle_s: Most time to go on after that, until the standard deviation of all latencies,
            relative to their mean, is under 0.5 % or stays the same within a twentieth of itself.
        clock: Nanoseconds of a monotonic clock.

    Raises:
        DataError: If an argument is out of range.
    """
    _check(iterations, duration_s, warm_up_ms, settle_s)
    with _no_garbage_collection():
        _loop(query, 0, int(warm_up_ms * 1e6), clock)
        runs = [_loop(query, iterations, int(duration_s * 1e9), clock)]
        settled = _settle(query, runs, int(settle_s * 1e9), clock) if settle_s else None
    return replace(_measurement(runs), settled=settled)


def measure_streams(
    queries: Sequence[Query],
    *,
    iterations: int = ITERATIONS,
    duration_s: float = DURATION_S,
    warm_up_ms: float = WARM_UP_MS,
    clock: Clock = time.perf_counter_ns,
) -> Measurement:
    """Time queries that run at the same time, each over and over in a thread of its own.

    The throughput is that of all together. A latency holds what its query lost to the others.

    Args:
        queries: What to time; see `measure`. Each has buffers of its own.
        iterations: Least number of timed runs of each, at least 1.
        duration_s: Least time to go on timing.
        warm_up_ms: Time to run them without timing before.
        clock: Nanoseconds of a monotonic clock.

    Raises:
        DataError: If an argument is out of range, or there is no query.
    """
    _check(iterations, duration_s, warm_up_ms)
    if not queries:
        raise DataError("there is no query to time; expected at least one")
    together = threading.Barrier(len(queries))
    runs: list[_Run] = []
    failures: list[BaseException] = []

    def work(query: Query) -> None:
        try:
            _loop(query, 0, int(warm_up_ms * 1e6), clock, together)
            together.wait()
            runs.append(_loop(query, iterations, int(duration_s * 1e9), clock, together))
        except threading.BrokenBarrierError:
            pass  # another one failed
        except BaseException as err:  # it is raised where the caller waits
            failures.append(err)
            together.abort()

    threads = [threading.Thread(target=work, args=(query,)) for query in queries]
    with _no_garbage_collection():
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            together.abort()  # where the wait was interrupted, the threads end after their query
            for thread in threads:
                if thread.is_alive():
                    thread.join()
    if failures:
        raise failures[0]
    wall_ns = _span_ns(t for run in runs for t in run.times)
    return replace(_measurement(runs), wall_ns=wall_ns, streams=len(queries))


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
    runs: dict[str, list[_Run]] = {name: [] for name in queries}
    counts = dict.fromkeys(queries, 0)
    with _no_garbage_collection():
        for query in queries.values():
            _loop(query, 0, int(warm_up_ms * 1e6), clock)
        order, end = list(queries), clock() + int(duration_s * 1e9) * len(queries)
        while order and (min(counts.values()) < iterations or clock() < end):
            for name in order:
                _loop(queries[name], 1, _SETTLE_NS, clock)
                runs[name].append(_loop(queries[name], 1, _TURN_NS, clock))
                counts[name] += len(runs[name][-1].spans)
            order.reverse()
    return {name: _measurement(turns) for name, turns in runs.items()}


def _loop(
    query: Query,
    least_count: int,
    least_ns: int,
    clock: Clock,
    together: threading.Barrier | None = None,
) -> _Run:
    """Run a query until both the count and the time are reached.

    Nothing but the clock and two appends stands between queries: their times are sorted out later.

    Raises:
        BrokenBarrierError: If the barrier of those that run together breaks.
    """
    spans: list[tuple[int, int]] = []
    told: list[QueryTimes] = []
    timed = query.timed if isinstance(query, TimedQuery) else None
    start = now = clock()
    while len(spans) < least_count or now - start < least_ns:
        if together is not None and together.broken:
            raise threading.BrokenBarrierError
        begin = clock()
        if timed is None:
            query()
            now = clock()
        else:
            times = timed()
            now = clock()
            told.append(times)
        spans.append((begin, now))
    return _Run(spans, told)


def _settle(query: Query, runs: list[_Run], most_ns: int, clock: Clock) -> bool:
    """Add blocks to the runs until the spread of all has settled; tell whether it has."""
    spread, looks = _Spread(), deque[float](maxlen=_LOOKS)
    for run in runs:
        spread.add(run.times)
    start = clock()
    while True:
        looks.append(spread.relative)
        if spread.relative < _SMALL_SPREAD:
            return True
        if len(looks) == _LOOKS and max(looks) - min(looks) <= _SAME_SPREAD * looks[-1]:
            return True
        if clock() - start >= most_ns:
            return False
        runs.append(_loop(query, _BLOCK_QUERIES, _BLOCK_NS, clock))
        spread.add(runs[-1].times)


class _Spread:
    """Mean and deviation of latencies that come in blocks, each looked at once."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0  # of the deviations from the mean

    def add(self, times: Sequence[QueryTimes]) -> None:
        """Take a block in (Chan, Golub and LeVeque's update)."""
        block = [latency_ns(t) for t in times]
        mean = math.fsum(block) / len(block)
        count, gap = self._count + len(block), mean - self._mean
        self._squares += math.fsum((latency - mean) ** 2 for latency in block)
        self._squares += gap**2 * self._count * len(block) / count
        self._mean += gap * len(block) / count
        self._count = count

    @property
    def relative(self) -> float:
        """Standard deviation over mean."""
        return math.sqrt(self._squares / self._count) / self._mean if self._mean else 0.0


def _measurement(runs: Sequence[_Run]) -> Measurement:
    """Put stretches together; the wall time is theirs, without what lay between them."""
    pairs = [pair for run in runs for pair in zip(run.times, run.host_ns, strict=True)]
    pairs.sort(key=lambda pair: pair[0].start_enqueue_ns)
    return Measurement(
        times=tuple(times for times, _ in pairs),
        wall_ns=sum(_span_ns(run.times) for run in runs),
        host_ns=tuple(host_ns for _, host_ns in pairs),
    )


def _span_ns(times: Iterable[QueryTimes]) -> int:
    """Time from the first enqueue to the last completion."""
    ends = [(t.start_enqueue_ns, t.end_d2h_ns) for t in times]
    return max(end for _, end in ends) - min(start for start, _ in ends)


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


def _check(iterations: int, duration_s: float, warm_up_ms: float, settle_s: float = 0.0) -> None:
    if iterations < 1:
        raise DataError(f"iterations is {iterations}; expected at least 1")
    times = {"duration_s": duration_s, "warm_up_ms": warm_up_ms, "settle_s": settle_s}
    for name, value in times.items():
        if not 0 <= value < math.inf:
            raise DataError(f"{name} is {value}; expected a finite time of at least 0")
