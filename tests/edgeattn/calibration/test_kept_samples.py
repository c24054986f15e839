"""Samples kept for judging: the same whatever the order, and never too many."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.calibration.kept_samples import KeptSamples


def sample(number, shape=(2, 3)):
    values = {"x": np.full(shape, number, np.float32), "n": np.array(number)}
    return hashlib.sha256(str(number).encode()).digest(), values


def kept_of(numbers, **limits):
    kept = KeptSamples(**limits)
    for number in numbers:
        kept.offer(*sample(number))
    return kept


def smallest(numbers, count):
    return sorted(numbers, key=lambda number: sample(number)[0])[:count]


@given(st.permutations(range(20)), st.integers(0, 20), st.integers(1, 7))
def test_order_and_shards_do_not_matter(order, cut, most):
    left, right = kept_of(order[:cut], most=most), kept_of(order[cut:], most=most)
    left.merge(right)
    for kept in (left, kept_of(range(20), most=most)):
        arrays = kept.arrays()
        assert arrays["n"].tolist() == smallest(range(20), most)
        np.testing.assert_array_equal(arrays["x"][:, 0, 0], arrays["n"])


def test_a_limit_of_memory_holds_and_one_sample_is_kept_whatever_its_size():
    bytes_of_one = sum(array.nbytes for array in sample(0)[1].values())
    assert len(kept_of(range(20), most_bytes=3 * bytes_of_one).arrays()["n"]) == 3
    assert kept_of(range(20), most_bytes=1).arrays()["n"].tolist() == smallest(range(20), 1)


def test_none_are_kept_if_none_are_wanted():
    assert kept_of(range(5), most=0).arrays() == {}
    assert kept_of([]).arrays() == {}


def test_a_state_is_all_that_was_kept():
    kept = kept_of(range(9), most=4)
    restored = KeptSamples(most=4)
    restored.load_state(kept.state())
    restored.offer(*sample(100))
    kept.offer(*sample(100))
    assert restored.arrays()["n"].tolist() == kept.arrays()["n"].tolist()


def test_what_is_kept_is_a_copy():
    digest, values = sample(3)
    kept = KeptSamples()
    kept.offer(digest, values)
    values["x"][:] = 7
    assert kept.arrays()["x"].max() == 3


def test_of_different_shapes_the_most_frequent_are_given():
    kept = KeptSamples()
    for number in range(7):
        kept.offer(*sample(number, (2, 3) if number % 3 else (5, 3)))
    assert sorted(kept.arrays()["n"].tolist()) == [1, 2, 4, 5]
