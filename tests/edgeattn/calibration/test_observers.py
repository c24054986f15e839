"""Observers against numpy on all values at once; chunks, order and shards must not matter."""

from __future__ import annotations

import itertools
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeattn.calibration.observers import (
    MagnitudeHistogram,
    MinMaxObserver,
    NonFiniteError,
    PercentileObserver,
    observer_factory,
)
from edgeattn.errors import SpecError

ANY_FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
ORDINARY = st.floats(-100, 100, width=32)
VALUES = hnp.arrays(np.float32, st.integers(1, 200), elements=ANY_FLOAT | ORDINARY)
SEEDS = st.integers(0, 2**32 - 1)
FACTORIES = [MinMaxObserver, lambda: PercentileObserver(90.0), lambda: PercentileObserver(99.99)]


def exact_percentile(values: np.ndarray, percentile: float) -> float:
    """Nearest rank on the sorted magnitudes, in exact arithmetic."""
    ordered = np.sort(np.abs(values.astype(np.float64).ravel()))
    share = Fraction(Decimal(str(percentile))) / 100 * ordered.size
    return float(ordered[-(-share.numerator // share.denominator) - 1])


def observed(factory, chunks):
    observer = factory()
    for chunk in chunks:
        observer.update(chunk)
    return observer


def shuffled_chunks(values: np.ndarray, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, values.size + 1, rng.integers(0, 6)))
    return np.split(rng.permutation(values), cuts)


@given(VALUES, SEEDS)
def test_minmax_is_the_largest_magnitude_of_numpy(values, seed):
    observer = observed(MinMaxObserver, shuffled_chunks(values, seed))
    assert observer.amax() == np.abs(values).max()


@pytest.mark.parametrize("factory", FACTORIES)
@given(values=VALUES, seed=SEEDS)
def test_chunks_and_order_do_not_change_a_bit(factory, values, seed):
    whole = observed(factory, [values])
    parts = observed(factory, shuffled_chunks(values, seed))
    assert whole.amax() == parts.amax()


@pytest.mark.parametrize("factory", FACTORIES)
@given(values=VALUES, seed=SEEDS)
def test_merged_shards_are_the_whole_whichever_way_they_are_merged(factory, values, seed):
    shards = shuffled_chunks(values, seed)
    whole = observed(factory, [values])
    for order in itertools.islice(itertools.permutations(shards), 6):
        left, *rest = (observed(factory, [shard]) for shard in order)
        for shard in rest:
            left.merge(shard)
        assert left.amax() == whole.amax()


@given(values=VALUES, seed=SEEDS)
def test_merging_histograms_adds_every_count_and_leaves_the_other_alone(values, seed):
    a, b = MagnitudeHistogram(), MagnitudeHistogram()
    first, *others = shuffled_chunks(values, seed)
    a.update(first)
    for chunk in others:
        b.update(chunk)
    before = b.counts.copy(), b.upper_edges(), b.amax
    whole = MagnitudeHistogram()
    whole.update(values)
    a.merge(b)
    np.testing.assert_array_equal(a.counts, whole.counts)
    np.testing.assert_array_equal(a.upper_edges(), whole.upper_edges())
    np.testing.assert_array_equal(b.counts, before[0])
    np.testing.assert_array_equal(b.upper_edges(), before[1])
    assert b.amax == before[2]


@given(VALUES)
def test_each_value_is_counted_in_the_bin_that_holds_it(values):
    histogram = MagnitudeHistogram()
    histogram.update(values)
    edges = histogram.upper_edges().astype(np.float64)
    # Bin 0 has no lower edge; the edges are those of a plain numpy histogram.
    with np.errstate(over="ignore"):
        expected, _ = np.histogram(np.abs(values), np.concatenate([[0.0], edges]))
    expected[-1] -= np.count_nonzero(np.abs(values) == edges[-1])  # numpy closes the last bin
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.amax == np.abs(values).max()


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 99.9, 99.99, 100.0])
@pytest.mark.parametrize("spread", ["normal", "heavy tail", "one outlier", "half zeros"])
def test_percentile_is_the_exact_one_to_a_bin(percentile, spread):
    rng = np.random.default_rng(3)
    values = {
        "normal": lambda: rng.standard_normal(100_003),
        "heavy tail": lambda: rng.standard_cauchy(100_003),
        "one outlier": lambda: np.append(rng.standard_normal(100_002), 1e3),
        "half zeros": lambda: np.maximum(rng.standard_normal(100_003), 0),
    }[spread]()
    values = values.astype(np.float32)
    exact = exact_percentile(values, percentile)
    found = observed(lambda: PercentileObserver(percentile), np.array_split(values, 7)).amax()
    if exact == 0:
        assert found == np.abs(values).max()
    else:
        assert exact <= found <= exact * (1 + 2**-10)


@given(VALUES, st.sampled_from([10.0, 37.5, 66.6, 99.9, 100.0]))
def test_percentile_of_anything_is_exact_to_a_bin_or_the_largest(values, percentile):
    exact, largest = exact_percentile(values, percentile), float(np.abs(values).max())
    found = observed(lambda: PercentileObserver(percentile), [values]).amax()
    if exact < largest * 2**-22:
        assert exact <= found <= largest
    else:
        # Below the normal numbers a bin is a fixed step.
        assert exact <= found <= exact * (1 + 2**-10) + 2.0**-136


def test_rank_follows_decimal_fractions():
    # 99.9 % of 1000 values are 999 of them; the binary 99.9 would ask for the thousandth.
    values = np.arange(1, 1001, dtype=np.float32)
    found = observed(lambda: PercentileObserver(99.9), [values]).amax()
    assert 999 <= found <= 999 * (1 + 2**-10)
    assert found < 1000


@pytest.mark.parametrize("factory", FACTORIES)
def test_zeros_alone_and_nothing_at_all_give_zero(factory):
    assert factory().amax() == 0
    assert observed(factory, [np.zeros((2, 3), np.float32)]).amax() == 0
    assert observed(factory, [np.zeros((0, 3), np.float32)]).amax() == 0


def test_a_tensor_that_is_all_but_empty_is_not_clipped():
    values = np.zeros(100_000, np.float32)
    values[7] = -3.0
    assert observed(lambda: PercentileObserver(99.9), [values]).amax() == 3.0


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -np.nan])
@pytest.mark.parametrize("place", [0, 7, 150_000, 299_999])
def test_what_is_no_number_is_refused_wherever_it_stands(factory, bad, place):
    values = np.ones((3, 100_000), np.float32)
    values.flat[place] = bad
    with pytest.raises(NonFiniteError):
        factory().update(values)


def test_an_update_takes_any_shape_and_stride():
    values = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    for factory in FACTORIES:
        expected = observed(factory, [values.ravel()]).amax()
        assert observed(factory, [values.transpose(2, 0, 1)[::-1]]).amax() == expected


def test_the_memory_of_an_observer_does_not_grow():
    observer = PercentileObserver(99.99)
    size = observer._histogram.counts.nbytes
    for exponent in range(-40, 38):
        observer.update(np.full(1000, 10.0**exponent, np.float32))
    assert observer._histogram.counts.nbytes == size
    assert observer._histogram.counts.sum() == 78_000


def test_observers_of_different_percentiles_do_not_merge():
    with pytest.raises(ValueError, match="cannot merge"):
        PercentileObserver(99.0).merge(PercentileObserver(99.9))


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(percentile):
    with pytest.raises(SpecError, match="expected above 0 and at most 100"):
        observer_factory("percentile", percentile)


def test_an_unknown_method_is_refused():
    with pytest.raises(SpecError, match="the method is 'entropy'"):
        observer_factory("entropy", 99.9)
