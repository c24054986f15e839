"""Events told in the processor's time, with events whose stamps the test chooses."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edgeattn.engine.base import QueryTimes
from edgeattn.engine.tensorrt.event_clock import EventClock

STREAM = object()


class Gpu:
    """Makes events that are stamped as the test says, and told to half a microsecond."""

    def __init__(self) -> None:
        self.stamps_ms: list[float] = []
        self.recorded_ns: list[int] = []
        gpu = self

        class Event:
            def record(self, stream: object) -> Event:
                assert stream is STREAM
                gpu.recorded_ns.append(time.perf_counter_ns())
                self._stamp = gpu.stamps_ms.pop(0)
                return self

            def time_till(self, end: Event) -> float:
                return float(np.float32(round((end._stamp - self._stamp) * 2000) / 2000))

        self.Event = Event


def run(gpu: Gpu, clock: EventClock, *stamps_ms: float) -> QueryTimes:
    """Time a query whose four events get these stamps."""
    gpu.stamps_ms += stamps_ms
    clock.begin()
    for _ in range(2):
        clock.mark()
    clock.note_enqueue(5, 7)
    clock.mark()
    return clock.times()


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture
def clock(gpu: Gpu) -> EventClock:
    return EventClock(gpu, STREAM)


def test_parts_are_as_long_as_the_gpu_says_and_follow_each_other(gpu, clock):
    times = run(gpu, clock, 1000.0, 1000.25, 1003.25, 1003.75)
    origin = times.start_h2d_ns
    assert times == (
        *(5, 7),
        *(origin, origin + 250_000),
        *(origin + 250_000, origin + 3_250_000),
        *(origin + 3_250_000, origin + 3_750_000),
    )


def test_a_query_begins_when_its_first_event_is_asked_for_and_not_later(gpu, clock):
    before = time.perf_counter_ns()
    times = run(gpu, clock, 0.0, 1.0, 2.0, 3.0)
    assert before <= times.start_h2d_ns <= gpu.recorded_ns[0]


def test_rounding_makes_no_part_end_before_it_begins(gpu, clock):
    times = run(gpu, clock, 7.0, 7.0, 7.0000001, 7.0000001)
    assert times.start_h2d_ns == times.end_h2d_ns == times.end_compute_ns == times.end_d2h_ns


def test_a_clock_is_used_again_and_again(gpu, clock):
    for _ in range(2):
        times = run(gpu, clock, 0.0, 0.5, 1.0, 1.5)
        assert times.end_d2h_ns - times.start_h2d_ns == 1_500_000
