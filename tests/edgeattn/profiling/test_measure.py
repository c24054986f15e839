"""The timing loop on a clock that the test moves: counts, durations, turns, device times."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgeattn.engine.base import QueryTimes
from edgeattn.errors import DataError, EngineError
from edgeattn.profiling.measure import (
    _Spread,
    measure,
    measure_interleaved,
    measure_streams,
)
from edgeattn.profiling.measurement import Measurement

MS = 1_000_000

# The keys of trtexec's --exportTimes, 10.3 to 11.1.
TRTEXEC_KEYS = [
    "startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs",
    "startD2hMs", "endD2hMs", "h2dMs", "computeMs", "d2hMs", "latencyMs",
]  # fmt: skip


class FakeClock:
    """A clock that stands still unless a query takes time."""

    def __init__(self) -> None:
        self.now = 5_000 * MS

    def __call__(self) -> int:
        return self.now

    def query(self, takes_ms: float, log: list[str] | None = None, name: str = "") -> Callable:
        def run() -> None:
            self.now += int(takes_ms * MS)
            if log is not None:
                log.append(name)

        return run


@pytest.mark.parametrize(
    ("takes_ms", "iterations", "duration_s", "expected"),
    [
        (100, 10, 3, 30),  # the duration is reached last
        (1000, 10, 3, 10),  # the iterations are
        (300, 10, 3, 10),  # both at once
        (299, 10, 3, 11),
        (1, 10, 0, 10),
        (50, 1, 0, 1),
        (4000, 1, 3, 1),
    ],
)
def test_the_loop_ends_when_iterations_and_duration_are_both_reached(
    takes_ms: float, iterations: int, duration_s: float, expected: int
) -> None:
    clock = FakeClock()
    measured = measure(
        clock.query(takes_ms),
        iterations=iterations,
        duration_s=duration_s,
        warm_up_ms=0,
        clock=clock,
    )
    assert len(measured.times) == expected
    assert measured.latency_ms == [takes_ms] * expected
    assert measured.throughput_qps == pytest.approx(1000 / takes_ms)


@pytest.mark.parametrize(("warm_up_ms", "untimed"), [(0, 0), (1, 1), (200, 4), (201, 5)])
def test_warm_up_is_a_time_and_is_not_timed(warm_up_ms: float, untimed: int) -> None:
    clock, log = FakeClock(), []
    measured = measure(
        clock.query(50, log), iterations=3, duration_s=0, warm_up_ms=warm_up_ms, clock=clock
    )
    assert len(log) == untimed + 3
    assert len(measured.times) == 3


def test_queries_have_the_keys_of_trtexec_and_start_at_zero() -> None:
    clock = FakeClock()
    measured = measure(clock.query(2), iterations=3, duration_s=0, warm_up_ms=9, clock=clock)
    exported = measured.export_times()
    assert [list(entry) for entry in exported] == [TRTEXEC_KEYS] * 3
    assert exported[1] == dict(zip(TRTEXEC_KEYS, [2, 4, 2, 2, 2, 4, 4, 4, 0, 2, 0, 2], strict=True))


class DeviceQuery:
    """A query that knows its times: copies of 1 and 3 ms around 5 ms of compute, with waits."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def __call__(self) -> None:
        raise AssertionError("a query that tells its times is not timed from outside")

    def timed(self) -> QueryTimes:
        start = self.clock.now
        self.clock.now += 13 * MS
        marks = (0, 0.5, 0, 1, 2, 7, 9, 12)
        return QueryTimes(*(start + int(mark * MS) for mark in marks))


def test_a_device_tells_its_own_times_and_waits_do_not_count() -> None:
    clock = FakeClock()
    measured = measure(DeviceQuery(clock), iterations=2, duration_s=0, warm_up_ms=0, clock=clock)
    assert measured.latency_ms == [9, 9]
    assert (measured.h2d_ms, measured.compute_ms, measured.d2h_ms) == ([1, 1], [5, 5], [3, 3])
    assert measured.enqueue_ms == [0.5, 0.5]
    assert measured.throughput_qps == pytest.approx(2 / 0.025)  # 0 to 13 + 12 ms
    entry = measured.export_times()[1]
    assert (entry["startEnqMs"], entry["startD2hMs"], entry["latencyMs"]) == (13, 22, 9)
    assert measured.host_ms == [13, 13]  # what the caller waited, from call to return


def test_copies_can_be_left_out_as_trtexec_does_without_transfers() -> None:
    clock = FakeClock()
    query = DeviceQuery(clock)
    with_copies = measure(query, iterations=2, duration_s=0, warm_up_ms=0, clock=clock)
    measured = with_copies.without_copies()
    assert measured.latency_ms == measured.compute_ms == [5, 5]
    assert measured.h2d_ms == measured.d2h_ms == [0, 0]
    assert (measured.wall_ns, measured.host_ns) == (with_copies.wall_ns, with_copies.host_ns)
    entry = measured.export_times()[0]
    assert entry["startH2dMs"] == entry["endH2dMs"] == entry["startComputeMs"] == 2
    assert entry["startD2hMs"] == entry["endD2hMs"] == entry["endComputeMs"] == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"duration_s": -1}, "duration_s is -1"),
        ({"duration_s": math.inf}, "duration_s is inf"),
        ({"warm_up_ms": math.nan}, "warm_up_ms is nan"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        measure(lambda: None, **options)
    with pytest.raises(DataError, match=said):
        measure_interleaved({"a": lambda: None}, **options)
    with pytest.raises(DataError, match=said):
        measure_streams([lambda: None], **options)


def test_the_garbage_collector_rests_during_the_loop_and_no_longer() -> None:
    seen: set[bool] = set()
    assert gc.isenabled()
    measure(lambda: seen.add(gc.isenabled()), iterations=3, duration_s=0, warm_up_ms=0)
    assert seen == {False}
    assert gc.isenabled()

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(fail)
    assert gc.isenabled()
    gc.disable()
    try:
        measure(lambda: None, iterations=1, duration_s=0, warm_up_ms=0)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_plain_callable_is_timed_on_the_real_clock() -> None:
    measured = measure(lambda: time.sleep(0.002), iterations=5, duration_s=0, warm_up_ms=0)
    assert all(latency >= 2 for latency in measured.latency_ms)
    assert 0 < measured.throughput_qps <= 500


def test_the_loop_itself_costs_microseconds() -> None:
    measured = measure(lambda: None, iterations=20_000, duration_s=0, warm_up_ms=10)
    assert measured.wall_ns / len(measured.times) < 20_000  # some 1 us; CI machines stall


def test_interleaved_queries_take_turns_in_alternating_order() -> None:
    clock, log = FakeClock(), []
    queries = {name: clock.query(100, log, name) for name in "abc"}
    measured = measure_interleaved(queries, iterations=2, duration_s=0, warm_up_ms=0, clock=clock)
    assert "".join(log) == "aabbcc" + "ccbbaa"  # one untimed, one timed
    assert {name: len(m.times) for name, m in measured.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_turn_of_short_queries_settles_10_ms_and_times_50_ms() -> None:
    clock, log = FakeClock(), []
    measured = measure_interleaved(
        {"short": clock.query(1, log, "s"), "long": clock.query(40, log, "l")},
        iterations=1,
        duration_s=0,
        warm_up_ms=0,
        clock=clock,
    )
    assert "".join(log) == "s" * 60 + "l" * 3
    assert len(measured["short"].times) == 50
    assert measured["long"].latency_ms == [40, 40]
    assert measured["long"].throughput_qps == pytest.approx(25)
    assert measured["short"].throughput_qps == pytest.approx(1000)


def test_interleaved_loops_go_on_for_the_duration_of_each() -> None:
    clock = FakeClock()
    start = clock.now
    measured = measure_interleaved(
        {"a": clock.query(100), "b": clock.query(300)},
        iterations=1,
        duration_s=2,
        warm_up_ms=500,
        clock=clock,
    )
    # Warm-ups of 500 and 600 ms, then rounds of 800 ms until 4 s are over.
    assert clock.now - start == (500 + 600 + 5 * 800) * MS
    assert len(measured["a"].times) == len(measured["b"].times) == 5


def test_no_queries_take_no_time() -> None:
    assert measure_interleaved({}) == {}


def test_throughput_of_a_measurement_is_queries_over_wall_time() -> None:
    times = (QueryTimes(0, 1, 0, 0, 0, 1, 1, 1),) * 4
    assert Measurement(times, 2_000_000_000).throughput_qps == 2


def test_a_plain_callable_lets_its_caller_wait_as_long_as_it_takes() -> None:
    clock = FakeClock()
    measured = measure(clock.query(3), iterations=2, duration_s=0, warm_up_ms=0, clock=clock)
    assert measured.host_ms == measured.latency_ms == [3, 3]
    assert (measured.streams, measured.settled) == (1, None)


def cycling(clock: FakeClock, takes_ms: Iterator[float]) -> Callable[[], None]:
    def query() -> None:
        clock.now += int(next(takes_ms) * MS)

    return query


def repeated(*latencies: float) -> Iterator[float]:
    while True:
        yield from latencies


def test_a_steady_query_has_settled_at_once() -> None:
    clock = FakeClock()
    steady = clock.query(1)
    measured = measure(steady, iterations=10, duration_s=0, warm_up_ms=0, settle_s=9, clock=clock)
    assert measured.settled is True
    assert len(measured.times) == 10


def test_a_spread_that_stays_the_same_has_settled_after_five_looks() -> None:
    clock = FakeClock()
    query = cycling(clock, repeated(*[10.0] * 9, 20.0))
    measured = measure(query, iterations=10, duration_s=0, warm_up_ms=0, settle_s=9, clock=clock)
    assert measured.settled is True
    assert len(measured.times) == 10 + 4 * 10  # four more blocks of 10 queries


def test_a_spread_that_grows_does_not_settle_and_ends_in_time() -> None:
    clock = FakeClock()
    start = clock.now
    query = cycling(clock, (1.3**i for i in range(10_000)))
    measured = measure(query, iterations=10, duration_s=0, warm_up_ms=0, settle_s=1, clock=clock)
    assert measured.settled is False
    assert sum(measured.latency_ms) == pytest.approx((clock.now - start) / MS)
    # The block in which the time ran out is the last one.
    assert sum(measured.latency_ms[10:-10]) < 1000 < sum(measured.latency_ms[10:])


def test_the_spread_is_that_of_all_queries() -> None:
    blocks = [[3.0, 5.0, 4.0], [10.0], [1.0, 1.0, 7.5, 2.0]]
    spread = _Spread()
    for count, block in enumerate(blocks, 1):
        spread.add([QueryTimes(0, 0, 0, 0, 0, int(ms * MS), 0, 0) for ms in block])
        flat = np.concatenate(blocks[:count])
        assert spread.relative == pytest.approx(flat.std() / flat.mean())


def test_looks_at_the_spread_are_no_part_of_the_wall_time() -> None:
    clock = FakeClock()

    class Looked(FakeClock):
        def __call__(self) -> int:
            clock.now += 1000  # each look at the clock takes a microsecond
            return clock.now

    measured = measure(
        cycling(clock, repeated(*[10.0] * 9, 20.0)),
        iterations=10,
        duration_s=0,
        warm_up_ms=0,
        settle_s=9,
        clock=Looked(),
    )
    between = measured.wall_ns - sum(measured.host_ns)
    assert between == (len(measured.times) - 5) * 1000  # inside the five blocks only


def test_streams_run_at_the_same_time_and_their_queries_stand_in_order() -> None:
    meeting = threading.Barrier(3, timeout=20)
    measured = measure_streams([meeting.wait] * 3, iterations=4, duration_s=0, warm_up_ms=0)
    assert len(measured.times) == 12  # a query alone would never have come back
    assert measured.streams == 3
    starts = [t.start_enqueue_ns for t in measured.times]
    assert starts == sorted(starts)
    last = max(t.end_d2h_ns for t in measured.times)
    assert measured.window_ns == (starts[0], last)
    assert measured.wall_ns == last - starts[0]
    assert measured.throughput_qps == pytest.approx(12e9 / (last - starts[0]))
    assert measured.host_ms == measured.latency_ms


def test_streams_go_on_for_the_duration_and_warm_up_before() -> None:
    counts = [0, 0]

    def sleeper(index: int) -> Callable[[], None]:
        def query() -> None:
            counts[index] += 1
            time.sleep(0.002)

        return query

    measured = measure_streams(
        [sleeper(0), sleeper(1)], iterations=1, duration_s=0.1, warm_up_ms=20
    )
    assert measured.wall_ns >= 90_000_000
    assert sum(counts) > len(measured.times) > 2


def test_a_stream_that_fails_ends_the_others_and_is_told() -> None:
    def fail() -> None:
        raise EngineError("the query failed")

    before = threading.active_count()
    start = time.monotonic()
    for queries in ([fail, lambda: time.sleep(0.001)], [lambda: time.sleep(0.001), fail]):
        with pytest.raises(EngineError, match="the query failed"):
            measure_streams(queries, duration_s=60, warm_up_ms=5)
    assert time.monotonic() - start < 20
    assert threading.active_count() == before
    assert gc.isenabled()


def test_an_interrupted_wait_ends_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    join, calls = threading.Thread.join, []

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        calls.append(thread)
        if len(calls) == 1:
            raise KeyboardInterrupt
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_streams([lambda: time.sleep(0.001)] * 2, duration_s=60, warm_up_ms=0)
    assert threading.active_count() == before


def test_no_stream_is_refused() -> None:
    with pytest.raises(DataError, match="no query to time"):
        measure_streams([])


def test_a_time_to_settle_in_must_be_finite() -> None:
    with pytest.raises(DataError, match="settle_s is inf"):
        measure(lambda: None, settle_s=math.inf)
