"""The timing loop on a clock that the test moves: counts, durations, turns, device times."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable

import pytest

from edgeattn.engine.base import QueryTimes
from edgeattn.errors import DataError
from edgeattn.profiling.measure import Measurement, measure, measure_interleaved

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
