"""Statistics against their definitions."""

from __future__ import annotations

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.errors import ArtifactError, DataError
from edgeattn.profiling.stats import LatencyStats, percentile_ms

TIMES = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=300)


def naive_percentile(samples: list[float], per_mille: int) -> float:
    """Give the smallest sample with at least so many per mille of all samples at or below it."""
    for sample in sorted(samples):
        at_or_below = sum(other <= sample for other in samples)
        if at_or_below * 1000 >= per_mille * len(samples):
            return sample
    raise AssertionError


@given(TIMES, st.integers(1, 1000))
def test_percentiles_equal_the_naive_definition(samples: list[float], per_mille: int) -> None:
    assert percentile_ms(samples, per_mille / 10) == naive_percentile(samples, per_mille)


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 50, 1), (1, 99, 1), (2, 50, 1), (2, 51, 2), (10, 90, 9), (20, 95, 19), (100, 99, 99),
     (101, 99, 100), (1000, 99.9, 999), (7, 100, 7), (100, 7, 7), (100, 29, 29), (1000, 0.1, 1)],
)  # fmt: skip
def test_ranks_are_exact(count: int, percent: float, expected: int) -> None:
    assert percentile_ms([float(i) for i in range(count, 0, -1)], percent) == expected


@pytest.mark.parametrize(
    ("samples", "percent"), [([], 50), ([1.0], 0), ([1.0], 100.1), ([1.0], -1)]
)
def test_percentiles_that_do_not_exist_are_refused(samples: list[float], percent: float) -> None:
    with pytest.raises(DataError, match="does not exist"):
        percentile_ms(samples, percent)


@given(TIMES)
def test_moments_equal_those_of_the_standard_library(samples: list[float]) -> None:
    stats = LatencyStats.from_samples(samples)
    mean = statistics.fmean(samples)
    assert stats.num_samples == len(samples)
    assert (stats.min_ms, stats.max_ms) == (min(samples), max(samples))
    assert stats.mean_ms == pytest.approx(mean)
    spread = statistics.pstdev(samples)
    assert stats.std_ms == pytest.approx(spread, rel=1e-6, abs=1e-6 * mean)
    if mean:
        assert stats.cv_percent == pytest.approx(100 * spread / mean, rel=1e-6, abs=1e-4)


def test_one_time_has_no_spread() -> None:
    stats = LatencyStats.from_samples([3.0])
    assert (stats.mean_ms, stats.std_ms, stats.cv_percent, stats.p50_ms) == (3.0, 0.0, 0.0, 3.0)


def test_times_of_zero_have_no_variation() -> None:
    assert LatencyStats.from_samples([0.0, 0.0]).cv_percent == 0.0


@pytest.mark.parametrize(
    ("count", "p99", "p99_9"),
    [(1, None, None), (99, None, None), (100, 99, None), (999, 990, None), (1000, 990, 999)],
)
def test_high_percentiles_need_enough_samples(
    count: int, p99: float | None, p99_9: float | None
) -> None:
    stats = LatencyStats.from_samples([float(i) for i in range(1, count + 1)])
    assert (stats.p99_ms, stats.p99_9_ms) == (p99, p99_9)


def test_no_times_are_refused() -> None:
    with pytest.raises(DataError, match="0 samples"):
        LatencyStats.from_samples([])


def test_statistics_survive_json() -> None:
    stats = LatencyStats.from_samples([1.0, 2.5, math.pi])
    assert LatencyStats.from_dict(json.loads(json.dumps(stats.to_dict()))) == stats


@pytest.mark.parametrize("values", [None, {}, {"num_samples": 1, "extra": 2}])
def test_malformed_statistics_are_refused(values: object) -> None:
    with pytest.raises(ArtifactError, match="latency statistics are malformed"):
        LatencyStats.from_dict(values)
