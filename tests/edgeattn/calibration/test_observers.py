"""Observers against numpy on all values at once; order and shards must not matter."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

from edgeattn.calibration import thresholds
from edgeattn.calibration.histogram import MagnitudeHistogram, NonFiniteError
from edgeattn.calibration.observers import (
    COUNTED_VALUES,
    METHODS,
    CandidateObserver,
    ChannelMaxObserver,
    MinMaxObserver,
    counting_step,
    observer_factory,
)
from edgeattn.errors import SpecError
from tests.value_sets import SEEDS, VALUES, shuffled_chunks, spread_values

FACTORIES = {method: observer_factory(method, 99.0) for method in METHODS}
EACH_METHOD = pytest.mark.parametrize("method", METHODS)


def observed(method, samples):
    observer = FACTORIES[method]()
    for sample in samples:
        observer.update(sample)
    return observer


def answers(observer):
    """All that a table is made of."""
    amax = observer.amax()
    candidates = observer.candidates() if isinstance(observer, CandidateObserver) else {}
    return amax, observer.summary(amax), candidates


def states_equal(a, b):
    first, second = a.state(), b.state()
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) and first[name].dtype == second[name].dtype
        for name in first
    )


@given(values=VALUES, seed=SEEDS)
def test_minmax_is_the_largest_magnitude_of_numpy(values, seed):
    observer = observed("minmax", shuffled_chunks(values, seed))
    assert observer.amax() == np.abs(values).max()


@EACH_METHOD
@given(values=VALUES, seed=SEEDS)
def test_order_does_not_change_a_bit(method, values, seed):
    samples = shuffled_chunks(values, seed)
    first, again = observed(method, samples), observed(method, samples[::-1])
    assert answers(first) == answers(again)
    assert states_equal(first, again)


@EACH_METHOD
@given(values=VALUES, seed=SEEDS)
def test_merged_shards_are_the_whole_whichever_way_they_are_merged(method, values, seed):
    samples = shuffled_chunks(values, seed)
    whole = observed(method, samples)
    for order in itertools.islice(itertools.permutations(samples), 3):
        left, *rest = (observed(method, [sample]) for sample in order)
        for other in rest:
            left.merge(other)
        assert answers(left) == answers(whole)
        assert states_equal(left, whole)


@EACH_METHOD
@given(values=VALUES, seed=SEEDS)
def test_an_observer_goes_on_from_its_state(method, values, seed):
    first, *others = shuffled_chunks(values, seed)
    restored = FACTORIES[method]()
    restored.load_state({k: v.copy() for k, v in observed(method, [first]).state().items()})
    for sample in others:
        restored.update(sample)
    assert answers(restored) == answers(observed(method, [first, *others]))


def test_the_average_is_the_exact_mean_of_the_largest_of_each_sample():
    rng = np.random.default_rng(1)
    samples = [(rng.standard_normal(40) * 10.0 ** rng.integers(-30, 30)) for _ in range(37)]
    samples = [sample.astype(np.float32) for sample in samples]
    mean = sum(Fraction(float(np.abs(sample).max())) for sample in samples) / len(samples)
    assert observed("average", samples).amax() == np.float32(float(mean))
    # Floats added in this order would lose the small one.
    ones = [np.array([v], np.float32) for v in (2.0**60, 1.0, 2.0**60)]
    assert observed("average", ones).amax() == np.float32(float(Fraction(2**61 + 1, 3)))


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_a_histogram_observer_answers_with_the_threshold_of_all_values(method):
    samples = np.array_split(spread_values("heavy tail", 50_021), 7)
    histogram = MagnitudeHistogram()
    histogram.update(np.concatenate(samples))
    threshold = {
        "percentile": lambda h: thresholds.percentile_amax(h, 99.0),
        "entropy": thresholds.entropy_amax,
        "mse": thresholds.mse_amax,
    }[method]
    assert observed(method, samples).amax() == threshold(histogram)


def test_of_a_large_sample_a_share_is_counted_and_the_largest_of_all_is_kept():
    values = spread_values("normal", 96 * 56 * 56)
    step = counting_step(values.size)
    values[step + 1] = -77.7  # not among those counted
    observer = observed("entropy", [values])
    expected = MagnitudeHistogram()
    expected.update(values[::step])
    expected.reach(77.7)
    np.testing.assert_array_equal(observer.histogram.counts, expected.counts)
    summary = observer.summary(observer.amax())
    assert summary.amax == np.float32(77.7)
    assert summary.count == values.size


@pytest.mark.parametrize("size", [1, COUNTED_VALUES, COUNTED_VALUES + 1, 96 * 56 * 56, 7**7, 2**22])
def test_the_share_passes_through_every_channel(size):
    step = counting_step(size)
    assert math.gcd(step, size) == 1 or step == 1
    assert -(-size // step) <= COUNTED_VALUES
    assert (step == 1) == (size <= COUNTED_VALUES)
    assert -(-size // step) > COUNTED_VALUES // 4 or step == 1


def test_candidates_are_the_thresholds_of_all_methods_without_repetition():
    samples = [spread_values("heavy tail", count) for count in (5_003, 7_001, 9_001)]
    found = observed("auto", samples).candidates()
    assert next(iter(found)) == "minmax"
    assert len(set(found.values())) == len(found)
    expected = {
        "minmax": observed("minmax", samples).amax(),
        "average": observed("average", samples).amax(),
        "entropy": observed("entropy", samples).amax(),
        "mse": observed("mse", samples).amax(),
    }
    for percent in ("99.9", "99.99", "99.999"):
        observer = observer_factory("percentile", float(percent))()
        for sample in samples:
            observer.update(sample)
        expected[f"percentile:{percent}"] = observer.amax()
    assert found.items() <= expected.items()
    assert set(found.values()) == set(expected.values())


def test_a_constant_has_one_candidate():
    assert observed("auto", [np.full(9, -2.0, np.float32)]).candidates() == {"minmax": 2.0}


@EACH_METHOD
def test_the_summary_tells_what_was_seen_and_clipped(method):
    values = spread_values("normal", 20_011)
    observer = observed(method, np.array_split(values, 3))
    summary = observer.summary(1.0)
    assert summary.amax == np.abs(values).max()
    assert summary.count == values.size
    if method in ("minmax", "average"):
        assert summary.clipped_percent is None
        assert summary.percentiles == {}
        assert observer.summary(summary.amax).clipped_percent == 0
        return
    assert summary.clipped_percent == pytest.approx(100 * np.mean(np.abs(values) >= 1))
    ordered = np.sort(np.abs(values))
    for percent, magnitude in summary.percentiles.items():
        exact = ordered[math.ceil(float(percent) / 100 * values.size) - 1]
        assert exact <= magnitude <= exact * (1 + 2**-10)


@EACH_METHOD
def test_zeros_alone_and_nothing_at_all_give_zero(method):
    assert FACTORIES[method]().amax() == 0
    assert FACTORIES[method]().summary(0.0).count is None
    for zeros in (np.zeros((2, 3), np.float32), -np.zeros((2, 3), np.float32)):
        assert math.copysign(1, observed(method, [zeros]).amax()) == 1
        assert observed(method, [zeros]).amax() == 0
    assert observed(method, [np.zeros((0, 3), np.float32)]).amax() == 0


@EACH_METHOD
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -np.nan])
@pytest.mark.parametrize("place", [0, 7, 150_000, 299_999])
def test_what_is_no_number_is_refused_wherever_it_stands(method, bad, place):
    values = np.ones((3, 100_000), np.float32)
    values.flat[place] = bad
    with pytest.raises(NonFiniteError):
        FACTORIES[method]().update(values)


@EACH_METHOD
def test_an_update_takes_any_shape_and_stride(method):
    values = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    expected = observed(method, [values.ravel()]).amax()
    assert observed(method, [values.transpose(2, 0, 1)[::-1]]).amax() == expected


@EACH_METHOD
def test_a_state_that_lacks_something_is_refused(method):
    state = observed(method, [np.ones(3, np.float32)]).state()
    for name in state:
        with pytest.raises(KeyError):
            FACTORIES[method]().load_state({k: v for k, v in state.items() if k != name})


def test_a_state_with_impossible_numbers_is_refused():
    with pytest.raises(ValueError, match="magnitude"):
        MinMaxObserver().load_state({"amax": np.array(np.nan), "count": np.array(1)})
    with pytest.raises(ValueError, match="per channel"):
        ChannelMaxObserver(-1).load_state({"channel_amax": np.array([-1], np.float32)})


@pytest.mark.parametrize("axis", [-1, -3, 1])
def test_channel_maxima_are_those_of_numpy(axis):
    values = np.random.default_rng(2).standard_normal((6, 5, 4, 3)).astype(np.float32)
    others = tuple(i for i in range(4) if i != axis % 4)
    whole, left, right = (ChannelMaxObserver(axis) for _ in range(3))
    whole.update(values)
    left.update(values[:2])
    right.update(values[2:])
    left.merge(right)
    left.merge(ChannelMaxObserver(axis))
    expected = tuple(np.abs(values).max(axis=others).tolist())
    assert whole.channel_amax() == left.channel_amax() == expected
    restored = ChannelMaxObserver(axis)
    restored.load_state(whole.state())
    assert restored.channel_amax() == expected


@pytest.mark.parametrize("rows", [1, 2, 9, 64])
@pytest.mark.parametrize("channels", [1, 7, 16, 33])
def test_the_zero_of_a_channel_has_no_sign(rows, channels):
    # Whether a maximum of 0.0 and -0.0 has one depends on their order, so on that of the shards.
    for zero in (0.0, -0.0):
        observer, other = ChannelMaxObserver(-1), ChannelMaxObserver(-1)
        for each in (observer, other):
            each.update(np.full((rows, channels), zero, np.float32))
        observer.merge(other)
        assert not np.signbit(observer.channel_amax()).any()


def test_channels_that_change_are_refused():
    observer = ChannelMaxObserver(-1)
    observer.update(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="channels changed"):
        observer.update(np.ones((2, 4), np.float32))


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(percentile):
    with pytest.raises(SpecError, match="expected above 0 and at most 100"):
        observer_factory("percentile", percentile)


def test_an_unknown_method_is_refused():
    with pytest.raises(SpecError, match="the method is 'guess'"):
        observer_factory("guess", 99.9)
