"""The histogram against numpy's on all values at once; chunks, order and shards must not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from edgeattn.calibration.histogram import MagnitudeHistogram, NonFiniteError
from tests.value_sets import SEEDS, VALUES, shuffled_chunks


def histogram_of(*chunks: np.ndarray) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    for chunk in chunks:
        histogram.update(chunk)
    return histogram


def assert_equal(a: MagnitudeHistogram, b: MagnitudeHistogram) -> None:
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_array_equal(a.upper_edges(), b.upper_edges())
    assert a.amax == b.amax


@given(values=VALUES, seed=SEEDS)
def test_chunks_and_order_do_not_change_a_count(values, seed):
    assert_equal(histogram_of(values), histogram_of(*shuffled_chunks(values, seed)))


@given(values=VALUES, seed=SEEDS)
def test_merging_adds_every_count_and_leaves_the_other_alone(values, seed):
    first, *others = shuffled_chunks(values, seed)
    a, b = histogram_of(first), histogram_of(*others)
    before = histogram_of(*others)
    a.merge(b)
    assert_equal(a, histogram_of(values))
    assert_equal(b, before)


@given(VALUES)
def test_each_value_is_counted_in_the_bin_that_holds_it(values):
    histogram = histogram_of(values)
    edges = histogram.upper_edges().astype(np.float64)
    # Bin 0 has no lower edge; the edges are those of a plain numpy histogram.
    with np.errstate(over="ignore"):
        expected, _ = np.histogram(np.abs(values), np.concatenate([[0.0], edges]))
    expected[-1] -= np.count_nonzero(np.abs(values) == edges[-1])  # numpy closes the last bin
    np.testing.assert_array_equal(histogram.counts, expected)
    np.testing.assert_array_equal(histogram.lower_edges()[1:], histogram.upper_edges()[:-1])
    assert histogram.amax == np.abs(values).max()
    assert histogram.total == values.size


@given(values=VALUES, seed=SEEDS)
def test_a_state_is_the_histogram(values, seed):
    first, *others = shuffled_chunks(values, seed)
    restored = MagnitudeHistogram()
    restored.load_state({k: v.copy() for k, v in histogram_of(first).state().items()})
    for chunk in others:
        restored.update(chunk)
    assert_equal(restored, histogram_of(values))


def test_a_state_that_no_histogram_gave_is_refused():
    state = histogram_of(np.arange(9, dtype=np.float32)).state()
    wrong = {
        "counts": np.zeros(7, np.int64),
        "first": np.array(state["first"] + 1),
        "amax": np.array(np.nan, np.float32),
    }
    for name, array in wrong.items():
        with pytest.raises(ValueError, match=r"counts|bins|NaN"):
            MagnitudeHistogram().load_state(state | {name: array})
    with pytest.raises(KeyError):
        MagnitudeHistogram().load_state({"counts": state["counts"]})


def test_a_magnitude_that_is_not_counted_raises_the_ceiling_exactly():
    values = np.linspace(0.1, 1, 50, dtype=np.float32)
    reached = histogram_of(values)
    reached.reach(-7.3)
    counted = histogram_of(values, np.array([7.3], np.float32))
    assert reached.amax == counted.amax == np.float32(7.3)
    assert reached.total == 50
    assert np.count_nonzero(reached.counts != counted.counts) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -np.nan])
def test_what_is_no_number_is_refused_counted_or_not(bad):
    with pytest.raises(NonFiniteError):
        MagnitudeHistogram().update(np.array([1, bad, 1], np.float32))
    with pytest.raises(NonFiniteError):
        MagnitudeHistogram().reach(bad)


def test_the_memory_of_a_histogram_does_not_grow():
    histogram = MagnitudeHistogram()
    size = histogram.counts.nbytes
    for exponent in range(-40, 38):
        histogram.update(np.full(1000, 10.0**exponent, np.float32))
    assert histogram.counts.nbytes == size
    assert histogram.total == 78_000
