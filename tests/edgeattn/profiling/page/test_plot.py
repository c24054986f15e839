"""Axes: where values lie, and which are labelled."""

from __future__ import annotations

import pytest

from edgeattn.profiling.page.plot import Axis, box, dots, line
from edgeattn.profiling.page.words import milliseconds, number, scaled


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 10, ["0", "2", "4", "6", "8", "10"]),
        (0.86, 1.21, ["0.9", "1.0", "1.1", "1.2"]),
        (4.36, 4.391, ["4.36", "4.37", "4.38", "4.39"]),
        (-3, 4, ["-2", "0", "2", "4"]),
        (0, 2100, ["0", "500", "1,000", "1,500", "2,000"]),
    ],
)
def test_a_linear_axis_labels_round_values_within_it(low, high, texts):
    axis = Axis("", low, high)
    ticks = axis.ticks()
    assert [tick.text for tick in ticks] == texts
    for tick in ticks:
        value = float(tick.text.replace(",", ""))
        assert tick.position == pytest.approx(1000 * (value - low) / (high - low))


def test_a_logarithmic_axis_labels_powers_of_ten():
    axis = Axis("", 0.05, 2_000_000, "log")
    assert [tick.text for tick in axis.ticks()] == ["1", "100", "10000", "10⁶"]
    assert axis.at(0.05) == 0
    assert axis.at((0.05 * 2_000_000) ** 0.5) == pytest.approx(500)


def test_a_short_logarithmic_axis_labels_more_than_powers():
    texts = [tick.text for tick in Axis("", 0.83, 9.5, "log").ticks()]
    assert texts == ["1", "2", "5"]


@pytest.mark.parametrize("value", [0.002, 1.0, 7.3, 4e6])
def test_a_logarithmic_axis_around_one_value_holds_it_and_a_label(value):
    axis = Axis.decades("", [value])
    assert axis.at(value) == pytest.approx(500)
    assert axis.ticks()


def test_every_nine_of_an_axis_of_percentiles_is_as_long_as_the_last():
    axis = Axis("", 0, 99.99, "nines")
    assert [axis.at(p) for p in (0, 90, 99, 99.9, 99.99)] == pytest.approx([0, 250, 500, 750, 1000])
    assert [tick.text for tick in axis.ticks()] == ["0", "50", "90", "99", "99.9", "99.99"]


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [-1.0, 5.0]])
def test_an_axis_around_values_holds_them_with_air(values):
    axis = Axis.around("", values)
    assert all(0 <= axis.at(value) < 1000 for value in values)


def test_paths_are_what_svg_reads():
    assert line([(0, 1), (2.04, 3)]) == "M0.0 1.0L2.0 3.0"
    assert dots([(1, 2), (3, 4)]) == "M1.0 2.0h0M3.0 4.0h0"
    assert box(1, 2, 3, 4) == "M1.0 2.0H3.0V4.0H1.0Z"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.861384, "0.8614"),
        (9.99999, "10.000"),
        (123456.7, "123,457"),
        (1e-9, "0.000000"),
        (-4.5, "-4.500"),
    ],
)
def test_numbers_keep_four_digits_and_no_exponent(value, text):
    assert number(value) == text


def test_amounts_take_the_prefix_that_suits_them():
    assert scaled(999, "B") == "999 B"
    assert scaled(1810000000, "FLOP") == "1.81 GFLOP"
    assert scaled(None, "B") == "–"
    assert milliseconds(4.3) == "4.300 ms"
