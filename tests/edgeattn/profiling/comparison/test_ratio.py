"""Ratios of latencies: against draws done by hand, and by how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeattn.profiling.bootstrap import median_interval
from edgeattn.profiling.comparison.ratio import Times, paired_turns, percentile_ratio

TRUTH = 1.1


def alone(latency_ms: list[float]) -> Times:
    starts = np.cumsum([0.0, *latency_ms[:-1]])
    return Times(tuple(latency_ms), tuple(round(1e6 * start) for start in starts))


def in_turns(rng: np.random.Generator, rounds: int, each: int) -> tuple[Times, Times]:
    """Two engines whose turns differ by more than queries do; one takes `TRUTH` times as long."""
    found: tuple[list[tuple[int, float]], ...] = ([], [])
    now = 0
    for i in range(rounds):
        for side in (0, 1) if i % 2 else (1, 0):
            level = 5.0 * math.exp(rng.normal(0, 0.05)) * (TRUTH if side else 1.0)
            for ms in level * rng.lognormal(0, 0.02, each):
                found[side].append((now, float(ms)))
                now += round(1e6 * ms)
    first, second = (
        Times(tuple(ms for _, ms in of), tuple(start for start, _ in of)) for of in found
    )
    return first, second


def holds(interval: tuple[float, float] | None) -> bool:
    assert interval is not None
    return interval[0] <= TRUTH <= interval[1]


def test_turns_are_found_by_who_asked_between_them() -> None:
    # a a b b b a b a a: the order reverses, so that turns of one engine may touch.
    first, second = paired_turns([0, 1, 5, 7, 8], [2, 3, 4, 6])
    assert first.tolist() == [0, 0, 1, 2, 2]
    assert second.tolist() == [0, 0, 0, 1]


def test_either_engine_may_begin() -> None:
    first, second = paired_turns([4, 9], [1, 2, 6])
    assert first.tolist() == [0, 1]
    assert second.tolist() == [0, 0, 1]


@pytest.mark.parametrize("rounds", [16, 40])
def test_the_interval_of_a_run_in_turns_holds_the_truth_as_often_as_it_says(rounds: int) -> None:
    rng = np.random.default_rng(rounds)
    held, held_apart, count = 0, 0, 60
    for _ in range(count):
        a, b = in_turns(rng, rounds, 30)
        held += holds(percentile_ratio(a, b, 50, 1.0, is_one_run=True).interval)
        held_apart += holds(percentile_ratio(a, b, 50, 1.0, is_one_run=False).interval)
    assert held >= 0.9 * count
    assert held_apart < held - 0.1 * count  # blocks that are shorter than turns believe too much


def test_what_both_share_makes_no_interval_wider() -> None:
    drift = np.exp(np.random.default_rng(0).normal(0, 0.3, 20))
    noise = np.random.default_rng(1)
    latencies: tuple[list[float], list[float]] = ([], [])
    starts: tuple[list[int], list[int]] = ([], [])
    for turn, level in enumerate(drift):
        for side in (0, 1):
            latencies[side].extend(level * noise.lognormal(0, 0.01, 10) * (1 + side))
            starts[side].extend(range(100 * turn + 50 * side, 100 * turn + 50 * side + 10))
    a, b = (Times(tuple(of), tuple(s)) for of, s in zip(latencies, starts, strict=True))
    low, high = percentile_ratio(a, b, 50, 2.0, is_one_run=True).interval or (0, 0)
    assert 1.9 < low < 2 < high < 2.1
    low, high = percentile_ratio(a, b, 50, 2.0, is_one_run=False).interval or (0, 0)
    assert high - low > 0.3


def test_few_times_are_bounded_by_the_bounds_of_both_medians() -> None:
    first = [5.0, 5.1, 5.2, 4.9, 5.3, 5.05, 5.15]
    second = [2 * ms for ms in reversed(first)]
    found = percentile_ratio(alone(first), alone(second), 50, 2.0, is_one_run=False)
    low, high = median_interval(first) or (0, 0)
    assert found.interval == pytest.approx((2 * low / high, 2 * high / low))


@pytest.mark.parametrize(("percent", "enough"), [(90, 40), (95, 80), (99, 400), (99.9, 4000)])
def test_a_percentile_is_bounded_once_enough_times_lie_beyond_it(
    percent: float, enough: int
) -> None:
    values = list(np.random.default_rng(0).lognormal(0, 0.1, enough))
    few, many = alone(values[:-1]), alone(values)
    assert percentile_ratio(many, many, percent, 1.0, is_one_run=False).interval is not None
    found = percentile_ratio(many, few, percent, 1.0, is_one_run=False)
    assert found.interval is None
    assert found.missing == f"{enough - 1} queries are too few to bound it, it takes {enough}"


def test_five_times_bound_no_median() -> None:
    five = alone([5.0] * 5)
    found = percentile_ratio(five, alone([5.0] * 50), 50, 1.0, is_one_run=True)
    assert found.interval is None
    assert "5 queries" in found.missing
    assert "it takes 6" in found.missing


def test_a_late_tail_is_seen_in_its_percentile_and_not_in_the_median() -> None:
    rng = np.random.default_rng(3)
    first = list(5 * rng.lognormal(0, 0.01, 2000))
    second = [ms * (2 if rng.random() < 0.03 else 1) for ms in 5 * rng.lognormal(0, 0.01, 2000)]
    a, b = alone(first), alone(second)
    low, high = percentile_ratio(a, b, 50, 1.0, is_one_run=False).interval or (0, 0)
    assert 0.99 < low < 1.0 < high < 1.02
    low, high = percentile_ratio(a, b, 99, 2.0, is_one_run=False).interval or (0, 0)
    assert 1.9 < low < high < 2.1
