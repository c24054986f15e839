"""Thresholds against slow references in float64, written from the definitions."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.calibration import thresholds
from edgeattn.calibration.histogram import MagnitudeHistogram
from tests.value_sets import SPREADS, VALUES, spread_values

PERCENTILES = [50.0, 90.0, 99.0, 99.9, 99.99, 100.0]
METHODS = {
    "entropy": thresholds.entropy_amax,
    "mse": thresholds.mse_amax,
    "percentile": lambda histogram: thresholds.percentile_amax(histogram, 99.9),
}


def histogram_of(values: np.ndarray) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    histogram.update(values)
    return histogram


def exact_percentile(values: np.ndarray, percentile: float) -> float:
    """Nearest rank on the sorted magnitudes, in exact arithmetic."""
    ordered = np.sort(np.abs(values.astype(np.float64).ravel()))
    share = Fraction(Decimal(str(percentile))) / 100 * ordered.size
    return float(ordered[-(-share.numerator // share.denominator) - 1])


def power_of_two_above(amax: float) -> float:
    power = 1.0
    while power <= amax:
        power *= 2
    while power > 2 * amax:
        power /= 2
    return power


def slow_entropy(values: np.ndarray) -> tuple[float, dict[float, float]]:
    """Kullback-Leibler divergence of every cut, one cut after the other."""
    magnitudes = np.abs(values.astype(np.float64))
    width = power_of_two_above(magnitudes.max()) / 2048
    counts, _ = np.histogram(magnitudes, np.arange(2049) * width)
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    used = int(magnitudes.max() / width) + 1
    divergences = {}
    for cut in range(128, used + 1):
        reference = counts[:cut].copy()
        reference[-1] += counts[cut:].sum()
        level_of = np.array([bin_ * 128 // cut for bin_ in range(cut)])
        filled = counts[:cut] > 0
        of_level = np.bincount(level_of, counts[:cut]) / np.maximum(
            np.bincount(level_of, filled), 1
        )
        quantized = np.where(filled, of_level[level_of], 0)
        there = reference > 0
        if np.any(quantized[there] == 0):
            continue
        p, q = reference[there] / reference.sum(), quantized[there] / quantized.sum()
        divergences[min(cut * width, magnitudes.max())] = float(np.sum(p * np.log(p / q)))
    return min(divergences, key=lambda amax: (divergences[amax], -amax)), divergences


def slow_error(values: np.ndarray, amax: float) -> float:
    """Mean squared error of every value rounded to INT8 and clipped."""
    magnitudes = np.abs(values.astype(np.float64))
    step = amax / 127
    return float(np.mean((np.minimum(np.rint(magnitudes / step), 127) * step - magnitudes) ** 2))


@pytest.mark.parametrize("percentile", PERCENTILES)
@pytest.mark.parametrize("spread", SPREADS)
def test_percentile_is_the_exact_one_to_a_bin(percentile, spread):
    values = spread_values(spread)
    exact = exact_percentile(values, percentile)
    found = thresholds.percentile_amax(histogram_of(values), percentile)
    if exact == 0:
        assert found == np.abs(values).max()
    else:
        assert exact <= found <= exact * (1 + 2**-10)


@given(VALUES, st.sampled_from([10.0, 37.5, 66.6, 99.9, 100.0]))
def test_percentile_of_anything_is_exact_to_a_bin_or_the_largest(values, percentile):
    exact, largest = exact_percentile(values, percentile), float(np.abs(values).max())
    found = thresholds.percentile_amax(histogram_of(values), percentile)
    if exact < largest * 2**-22:
        assert exact <= found <= largest
    else:
        # Below the normal numbers a bin is a fixed step.
        assert exact <= found <= exact * (1 + 2**-10) + 2.0**-136


def test_rank_follows_decimal_fractions():
    # 99.9 % of 1000 values are 999 of them; the binary 99.9 would ask for the thousandth.
    values = np.arange(1, 1001, dtype=np.float32)
    found = thresholds.percentile_amax(histogram_of(values), 99.9)
    assert 999 <= found <= 999 * (1 + 2**-10)
    assert found < 1000


def test_a_tensor_that_is_all_but_empty_is_not_clipped():
    values = np.zeros(100_000, np.float32)
    values[7] = -3.0
    for method, threshold in METHODS.items():
        assert threshold(histogram_of(values)) == 3.0, method


@pytest.mark.parametrize("spread", SPREADS)
def test_entropy_is_the_least_divergence_of_all_cuts(spread):
    values = spread_values(spread, 20_011)
    found = thresholds.entropy_amax(histogram_of(values))
    best, divergences = slow_entropy(values)
    width = power_of_two_above(np.abs(values).max()) / 2048
    assert found in divergences
    assert abs(found - best) <= width
    assert divergences[found] == pytest.approx(divergences[best], rel=1e-9, abs=1e-12)


def test_entropy_clips_a_heavy_tail_and_keeps_a_flat_one():
    rng = np.random.default_rng(0)
    laplace = histogram_of(rng.laplace(size=100_003).astype(np.float32))
    assert thresholds.entropy_amax(laplace) < 0.95 * laplace.amax
    flat = histogram_of(rng.uniform(-1, 1, 100_003).astype(np.float32))
    assert thresholds.entropy_amax(flat) > 0.99 * flat.amax


@pytest.mark.parametrize("spread", SPREADS)
def test_mse_is_the_least_error_of_all_candidates(spread):
    values = spread_values(spread, 20_011)
    largest = float(np.abs(values).max())
    found = thresholds.mse_amax(histogram_of(values))
    bins = np.frexp(largest)[1] + np.arange(-9, 0)[:, None]
    edges = np.ldexp(1 + np.arange(0, 1024, 16) / 1024, bins).ravel()
    errors = {amax: slow_error(values, amax) for amax in [largest, *edges[edges < largest]]}
    assert found in errors
    # Values stand at the centres of their bins: near the least, neighbours differ by less.
    assert errors[found] <= min(errors.values()) * (1 + 2e-3)
    assert errors[found] <= errors[largest]


def test_mse_clips_a_long_tail():
    values = np.random.default_rng(0).laplace(size=200_003).astype(np.float32)
    largest = float(np.abs(values).max())
    found = thresholds.mse_amax(histogram_of(values))
    assert 0.5 * largest < found < 0.9 * largest
    assert slow_error(values, found) < 0.9 * slow_error(values, largest)


@given(VALUES)
def test_no_threshold_is_above_the_largest_magnitude(values):
    largest = float(np.abs(values).max())
    for method, threshold in METHODS.items():
        found = threshold(histogram_of(values))
        assert 0 <= found <= largest, method
        assert (found > 0) == (largest > 0), method


@pytest.mark.parametrize("method", METHODS)
def test_thresholds_scale_with_the_values(method):
    values = spread_values("normal", 5_003)
    found = METHODS[method](histogram_of(values))
    for power in (2.0**-60, 2.0**60):
        assert METHODS[method](histogram_of(values * np.float32(power))) == found * power


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.3, 1e-40, 3e38])
def test_one_value_alone_is_its_own_threshold(method, value):
    values = np.full(100, value, np.float32)
    found = METHODS[method](histogram_of(values))
    assert found == pytest.approx(values[0], rel=2**-10)


def test_the_clipped_percent_counts_what_is_above():
    values = spread_values("normal", 10_007)
    histogram = histogram_of(values)
    for amax in (0.5, 1.0, 2.0, 4.0):  # edges of bins: the count is exact
        expected = 100 * np.count_nonzero(np.abs(values) >= amax) / values.size
        assert thresholds.clipped_percent(histogram, amax) == pytest.approx(expected, rel=1e-12)
    assert thresholds.clipped_percent(histogram, histogram.amax) == 0
    assert thresholds.clipped_percent(MagnitudeHistogram(), 1.0) == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_the_search_of_490_tensors_takes_seconds(method):
    histogram = histogram_of(spread_values("heavy tail"))
    METHODS[method](histogram)
    start = time.process_time()
    for _ in range(490):
        METHODS[method](histogram)
    assert time.process_time() - start < 10  # 5 s on a quiet machine
