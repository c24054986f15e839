"""Statistics against their definitions, and against what trtexec printed of recorded runs.

The recorded runs are of NVIDIA/TensorRT, tools/experimental/trt-engine-explorer of release 10.3:
`NAME.engine.timing.json`, written by `--exportTimes`, without the 200 ms of warm-up, which trtexec
then still exported; beside it stands `NAME.engine.profile.metadata.json` with what it printed.
"""

from __future__ import annotations

import json
import math
import statistics
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.errors import ArtifactError, DataError
from edgeattn.profiling.stats import LatencyStats, percentile_ms, trtexec_percentile_ms

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


def float32(value: float) -> float:
    """Round to single precision, as the C++ compiler does after each operation."""
    return struct.unpack("f", struct.pack("f", value))[0]


def naive_trtexec_percentile(samples: list[float], percent: float) -> float:
    """Write trtexec's rule a second time: t[max(n - 1 - int((1 - p / 100) * n), 0)], in float."""
    share = float32(1 - float32(float32(percent) / 100))
    return sorted(samples)[max(len(samples) - 1 - int(float32(share * len(samples))), 0)]


@given(TIMES, st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9, 100.0]))
def test_percentiles_of_trtexec_equal_its_rule(samples: list[float], percent: float) -> None:
    assert trtexec_percentile_ms(samples, percent) == naive_trtexec_percentile(samples, percent)


@pytest.mark.parametrize("count", [1, 2, 10, 99, 100, 101, 200, 999, 1000, 1500, 30_000])
@pytest.mark.parametrize("percent", [90, 95, 99, 99.9])
def test_percentiles_of_trtexec_round_as_it_does(count: int, percent: float) -> None:
    samples = [float(i) for i in range(1, count + 1)]
    assert trtexec_percentile_ms(samples, percent) == naive_trtexec_percentile(samples, percent)


@pytest.mark.parametrize(("count", "theirs", "ours"), [(100, 100, 99), (1500, 1486, 1485)])
def test_the_two_rules_differ_by_a_rank(count: int, theirs: float, ours: float) -> None:
    samples = [float(i) for i in range(1, count + 1)]
    assert trtexec_percentile_ms(samples, 99) == theirs
    assert percentile_ms(samples, 99) == ours


# Number of timed queries, those with the longest latencies (ms, how many), p99 as printed.
RECORDED = {
    "RTX 3090, tensorflow/resnet fp32": (
        248,
        [(12.3935, 1), (12.3976, 1), (12.6126, 1), (12.7775, 1), (12.7826, 1), (12.7928, 1)],
        12.7775,
    ),
    "RTX 3090, tensorflow/resnet fp16": (
        747,
        [(4.07959, 2), (4.08063, 2), (4.08069, 1), (4.08167, 4), (4.08374, 1), (4.08575, 1)],
        4.08063,
    ),
    "RTX 3090, tensorflow/resnet qat": (
        1369,
        [(2.21289, 7), (2.21387, 7), (2.21399, 2), (2.21484, 1), (2.21497, 2), (2.21582, 1),
         (2.21997, 1)],
        2.21387,
    ),
    "A100, pytorch/resnet fp32": (
        1500,
        [(2.05621, 10), (2.05719, 2), (2.05725, 1), (2.05823, 3), (2.05829, 1), (2.05927, 2)],
        2.05621,
    ),
    "A100, pytorch/resnet fp16": (
        3468,
        [(0.870605, 5), (0.871338, 13), (0.87146, 9), (0.871582, 6), (0.872314, 2),
         (0.872437, 2), (0.872559, 3)],
        0.871338,
    ),
    "A100, pytorch/resnet qat": (
        3392,
        [(0.884766, 20), (0.886841, 2), (0.887817, 5), (0.888794, 4), (0.888916, 3),
         (0.889893, 4)],
        0.884766,
    ),
    "A100, pytorch/resnet qat-residual": (
        5472,
        [(0.547729, 1), (0.547791, 2), (0.547852, 14), (0.548828, 6), (0.548889, 10),
         (0.549866, 13), (0.549927, 9), (0.550903, 2), (0.550964, 1)],
        0.547852,
    ),
}  # fmt: skip


@pytest.mark.parametrize("run", RECORDED)
def test_percentiles_of_recorded_runs_are_those_that_trtexec_printed(run: str) -> None:
    count, longest, printed = RECORDED[run]
    tail = [latency for latency, times in longest for _ in range(times)]
    samples = [0.9 * tail[0]] * (count - len(tail)) + tail[::-1]
    assert trtexec_percentile_ms(samples, 99) == printed
    assert LatencyStats.from_samples(samples, "trtexec").p99_ms == printed


def test_statistics_by_the_rule_of_trtexec_are_what_it_prints() -> None:
    samples = [4.0, 1.0, 3.0, 2.0]
    stats = LatencyStats.from_samples(samples, "trtexec")
    assert stats.p50_ms == 2.5  # its median
    assert (stats.p90_ms, stats.p95_ms, stats.p99_ms, stats.p99_9_ms) == (4, 4, 4, None)
    assert LatencyStats.from_samples(samples[:3], "trtexec").p50_ms == 3
    assert replace(stats, p50_ms=2, p99_ms=None) == LatencyStats.from_samples(samples)
    thousand = [float(i) for i in range(1000)]
    found = LatencyStats.from_samples(thousand, "trtexec")
    assert found.p99_9_ms == naive_trtexec_percentile(thousand, 99.9)


@pytest.mark.parametrize(
    ("samples", "percent"), [([], 50), ([1.0], 0), ([1.0], 100.1), ([1.0], -1)]
)
def test_percentiles_that_do_not_exist_are_refused(samples: list[float], percent: float) -> None:
    for pick in (percentile_ms, trtexec_percentile_ms):
        with pytest.raises(DataError, match="does not exist"):
            pick(samples, percent)


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


def test_the_median_has_an_interval_where_there_are_enough_times() -> None:
    assert LatencyStats.from_samples([3.0, 1, 2, 5, 4, 6]).p50_interval_ms == (1, 6)
    assert LatencyStats.from_samples([3.0, 1, 2, 5, 4]).p50_interval_ms is None


@pytest.mark.parametrize("count", [3, 12])
def test_statistics_survive_json(count: int) -> None:
    stats = LatencyStats.from_samples([math.pi * i for i in range(1, count + 1)])
    assert LatencyStats.from_dict(json.loads(json.dumps(stats.to_dict()))) == stats


def test_statistics_without_an_interval_are_read_as_such() -> None:
    stats = LatencyStats.from_samples([float(i) for i in range(12)])
    values = stats.to_dict()
    del values["p50_interval_ms"]
    assert LatencyStats.from_dict(values) == replace(stats, p50_interval_ms=None)


@pytest.mark.parametrize(
    "values", [None, [], {}, {"num_samples": 1, "extra": 2}, {"p50_interval_ms": [1.0]}]
)
def test_malformed_statistics_are_refused(values: object) -> None:
    with pytest.raises(ArtifactError, match="latency statistics are malformed"):
        LatencyStats.from_dict(values)
