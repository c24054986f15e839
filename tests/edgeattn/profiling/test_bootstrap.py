"""The interval of the median: against naive draws, and by how often it holds the truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from edgeattn.profiling.bootstrap import (
    bootstrap_medians,
    bootstrap_percentiles,
    median_interval,
    ratio_interval,
)


def naive_medians(values: np.ndarray, seed: int) -> list[float]:
    """Draw blocks one by one, lay them out, sort, and take the lower of the two in the middle."""
    length = math.ceil(len(values) ** (1 / 3))
    blocks = [values[start : start + length] for start in range(0, len(values), length)]
    rng = np.random.default_rng(seed)
    chances = np.full(len(blocks), 1 / len(blocks))
    medians = []
    for counts in rng.multinomial(len(blocks), chances, size=1000):
        drawn = np.sort(
            np.concatenate([np.tile(b, c) for b, c in zip(blocks, counts, strict=True)])
        )
        medians.append(float(drawn[(len(drawn) - 1) // 2]))
    return medians


@pytest.mark.parametrize("count", [1, 2, 9, 100, 101, 997])
def test_draws_of_whole_blocks_equal_naive_ones(count: int) -> None:
    values = np.random.default_rng(count).lognormal(size=count).round(2)  # with ties
    assert bootstrap_medians(values, seed=7).tolist() == naive_medians(values, 7)


def test_a_long_measurement_is_counted_in_a_window_and_in_parts() -> None:
    # Blocks of one value each: the draws move the median as far as they can.
    values = np.repeat(np.random.default_rng(1).normal(size=1000), 31)[:30_000]
    assert bootstrap_medians(values, seed=3).tolist() == naive_medians(values, 3)


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9])
def test_any_percentile_is_drawn_from_any_blocks(percent: float) -> None:
    rng = np.random.default_rng(4)
    values, blocks = rng.gamma(2.0, 1.0, 501), np.repeat(np.arange(6), [1, 300, 7, 80, 110, 3])
    expected = []
    for counts in np.random.default_rng(9).multinomial(6, [1 / 6] * 6, size=1000):
        drawn = np.sort(np.repeat(values, counts[blocks]))
        rank = math.ceil(round(10 * percent) * len(drawn) / 1000)  # percents have one decimal
        expected.append(drawn[rank - 1])
    assert bootstrap_percentiles(values, percent, 9, blocks).tolist() == expected


def test_what_two_measurements_share_in_a_block_cancels_in_their_ratio() -> None:
    rng = np.random.default_rng(2)
    blocks = np.arange(2000) // 100
    drift = np.exp(rng.normal(0, 0.2, 20))[blocks]
    first, second = (drift * rng.normal(1, 0.01, 2000) for _ in range(2))
    alike, apart = (
        bootstrap_percentiles(second, 50, seed, blocks)
        / bootstrap_percentiles(first, 50, 0, blocks)
        for seed in (0, 1)
    )
    assert np.std(alike) < 0.2 * np.std(apart)


def exact_coverage(count: int, rank: int) -> float:
    """Chance that the median lies between the ranks: fewer than `count - rank` heads, and so on."""
    heads = (math.comb(count, k) for k in range(rank, count - rank + 1))
    return sum(heads) / 2**count


@pytest.mark.parametrize("count", range(6, 100, 7))
def test_few_times_are_bounded_by_the_innermost_ranks_that_suffice(count: int) -> None:
    values = [float(i) for i in range(1, count + 1)]
    interval = median_interval(values[::-1])
    assert interval is not None
    low, high = interval
    assert low + high == count + 1
    assert exact_coverage(count, int(low)) >= 0.95 > exact_coverage(count, int(low) + 1)


@pytest.mark.parametrize("count", range(6))
def test_fewer_than_six_times_have_no_interval(count: int) -> None:
    assert median_interval([1.0] * count) is None


def series(rng: np.random.Generator, count: int, memory: float) -> np.ndarray:
    """Make latencies of which each resembles the one before; their median is 1."""
    steps = rng.normal(size=count) * math.sqrt(1 - memory**2)
    level = itertools.accumulate(steps, lambda before, step: memory * before + step)
    return np.exp(np.fromiter(level, float))


@pytest.mark.parametrize(("count", "memory", "least"), [(40, 0, 94), (400, 0, 90), (400, 0.6, 85)])
def test_the_interval_holds_the_true_median(count: int, memory: float, least: int) -> None:
    rng = np.random.default_rng(0)
    intervals = [median_interval(series(rng, count, memory).tolist()) for _ in range(300)]
    held = [low <= 1 <= high for low, high in filter(None, intervals)]
    assert len(held) == 300
    assert least <= 100 * sum(held) / 300 <= 99.5


def test_likeness_of_neighbours_widens_the_interval() -> None:
    values = series(np.random.default_rng(5), 2000, 0.9)
    shuffled = np.random.default_rng(6).permutation(values)
    wide, narrow = median_interval(values.tolist()), median_interval(shuffled.tolist())
    assert wide is not None
    assert narrow is not None
    assert wide[1] - wide[0] > 1.8 * (narrow[1] - narrow[0])


def test_bounds_are_samples_on_both_sides_and_repeat() -> None:
    values = np.random.default_rng(2).gamma(9, size=500).round(3).tolist()
    interval = median_interval(values)
    assert interval is not None
    low, high = interval
    assert {low, high} <= set(values)
    assert low < np.median(values) < high
    assert median_interval(values) == interval


def test_times_that_are_all_equal_have_a_sure_median() -> None:
    assert median_interval([2.5] * 150) == (2.5, 2.5)


def test_the_interval_of_a_ratio_holds_it_and_narrows_with_more_times() -> None:
    rng, widths = np.random.default_rng(5), []
    for count in (200, 20_000):
        low, high = ratio_interval(
            rng.normal(0.9, 0.05, count).tolist(), rng.normal(1.0, 0.05, count).tolist()
        ) or (1.0, 0.0)
        assert low < 0.9 < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5


def test_the_interval_of_a_ratio_holds_the_truth_in_most_measurements() -> None:
    rng, held = np.random.default_rng(9), 0
    for _ in range(60):
        interval = ratio_interval(rng.lognormal(0.1, 0.1, 300).tolist(), rng.lognormal(0, 0.1, 400))
        assert interval is not None
        held += interval[0] <= math.exp(0.1) <= interval[1]
    assert held >= 52


@pytest.mark.parametrize("counts", [(5, 100), (100, 5)])
def test_a_ratio_of_too_few_times_has_no_interval(counts: tuple[int, int]) -> None:
    samples, reference = ([1.0] * count for count in counts)
    assert ratio_interval(samples, reference) is None


def test_the_ratio_of_a_measurement_to_itself_is_not_taken_for_sure() -> None:
    values = np.random.default_rng(2).lognormal(size=500).tolist()
    low, high = ratio_interval(values, values) or (1.0, 1.0)
    assert low < 1 < high
