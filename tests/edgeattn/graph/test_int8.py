"""Scales and integer weights against float64 arithmetic written from the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.int8 import (
    is_quant_scale,
    quant_scale_from_amax,
    quantize_per_channel,
    rounding_sqnr_db,
)

MAGNITUDE = st.floats(0, float(np.finfo(np.float32).max), width=32)
WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=5),
    elements=st.floats(-1e3, 1e3, width=32),
)


@given(MAGNITUDE)
def test_the_scale_maps_the_largest_magnitude_to_127(amax):
    scale = quant_scale_from_amax(amax)
    assert scale.dtype == np.float32
    assert scale > 0
    if amax == 0:
        assert scale == 1
    elif amax / 127 > np.finfo(np.float32).tiny:
        assert scale == np.float32(float(amax) / 127.0)
        assert np.rint(np.float64(amax) / np.float64(scale)) == 127
    else:
        assert scale == np.finfo(np.float32).tiny


@pytest.mark.parametrize("amax", [-1.0, np.nan, np.inf, [1.0, -0.5]])
def test_what_is_no_magnitude_is_refused(amax):
    with pytest.raises(ValueError, match="negative or not finite"):
        quant_scale_from_amax(amax)


@given(WEIGHTS, st.data())
def test_each_channel_is_rounded_by_its_own_scale(weight, data):
    axis = data.draw(st.integers(0, weight.ndim - 1))
    integers, scales = quantize_per_channel(weight, axis)
    assert integers.dtype == np.int8
    assert scales.shape == (weight.shape[axis],)
    restored = np.zeros(weight.shape)
    for channel in range(weight.shape[axis]):
        exact = np.take(weight, channel, axis).astype(np.float64)
        steps = np.take(integers, channel, axis).astype(np.float64)
        amax = np.abs(exact).max()
        assert scales[channel] == quant_scale_from_amax(amax)
        # Never further than half a step from the weight, but for the rounding of the quotient.
        assert np.all(np.abs(steps - exact / scales[channel]) <= 0.5 + 1e-4)
        assert amax == 0 or amax / 127 < np.finfo(np.float32).tiny or np.abs(steps).max() == 127
        np.moveaxis(restored, axis, 0)[channel] = steps * scales[channel]
    found, expected = rounding_sqnr_db(weight, integers, scales, axis), sqnr_db(weight, restored)
    # The float32 product of step and integer is itself rounded, some 144 dB below the weight:
    # that moves a figure of 70 dB by a thousandth, one of 120 dB by as much as it is worth.
    if expected < 70:
        assert found == pytest.approx(expected, abs=1e-2)
    else:
        assert found is None or found > 69


def test_halves_go_to_the_even_integer():
    integers, scales = quantize_per_channel(np.array([[0.5, 1.5, -2.5, 127]], np.float32), 0)
    assert scales == [1]
    np.testing.assert_array_equal(integers, [[0, 2, -2, 127]])


def test_a_channel_of_zeros_stays_zero_beside_the_others():
    weight = np.array([[0, 0], [3, -6]], np.float32)
    integers, scales = quantize_per_channel(weight, 0)
    np.testing.assert_array_equal(integers, [[0, 0], [64, -127]])
    np.testing.assert_array_equal(scales, np.array([1, 6 / 127], np.float32))


def test_a_weight_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="negative or not finite"):
        quantize_per_channel(np.array([[1, np.nan]], np.float32), 0)


@pytest.mark.parametrize("value", [1.0, 2e-45, float(np.finfo(np.float32).max), 3])
def test_a_positive_float32_is_a_scale(value):
    assert is_quant_scale(value)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-60, 1e39, np.inf, np.nan, 10**400])
def test_nothing_else_is_a_scale(value):
    assert not is_quant_scale(value)
