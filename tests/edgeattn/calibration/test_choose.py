"""The choice among thresholds: by the output's error, confirmed where it did not choose."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgeattn.calibration.choose import choose_thresholds
from tests.quantization import with_weights

WIDTH = 16


def product():
    """`y = x w`: the SQNR of y is that of x, all but the weight's own rounding."""
    weight = np.random.default_rng(3).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    return with_weights("g (float[N,16] x) => (float[N,16] y) { y = MatMul(x, w) }", {"w": weight})


def normal(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def test_a_range_far_too_wide_is_left_for_a_fitting_one():
    samples = {"x": normal(20)}
    candidates = {"x": {"minmax": 400.0, "mse": 4.0}}
    choice = choose_thresholds(product(), candidates, samples)
    assert choice.methods == {"x": "mse"}
    assert json.loads(json.dumps(choice.report)) == choice.report


def test_what_clips_too_much_is_not_chosen():
    choice = choose_thresholds(product(), {"x": {"minmax": 4.0, "mse": 0.1}}, {"x": normal(20)})
    assert choice.methods == {"x": "minmax"}


def test_a_choice_that_the_other_samples_do_not_confirm_is_refused():
    samples = normal(20)
    samples[0::2] /= 10  # those that choose never reach what the others need
    candidates = {"x": {"minmax": 4.0, "mse": 0.4}}
    assert choose_thresholds(product(), candidates, {"x": samples}).methods == {"x": "minmax"}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_samples_choose_nothing(count):
    candidates = {"x": {"minmax": 400.0, "mse": 4.0}}
    choice = choose_thresholds(product(), candidates, {"x": normal(count)})
    assert choice.methods == {"x": "minmax"}
    assert "too few" in choice.report["reason"]
