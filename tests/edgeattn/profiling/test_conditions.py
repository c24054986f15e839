"""Conditions: one name, one operator, one number, and nothing that could run."""

from __future__ import annotations

import math

import pytest

from edgeattn.errors import SpecError
from edgeattn.profiling.conditions import Condition

NAMES = ("sqnr_db", "p99_ms", "top1_drop")


@pytest.mark.parametrize(
    ("text", "name", "sign", "bound"),
    [
        ("sqnr_db < 30", "sqnr_db", "<", 30),
        ("p99_ms>5", "p99_ms", ">", 5),
        ("  top1_drop >= -0.3 ", "top1_drop", ">=", -0.3),
        ("sqnr_db<=1e-3", "sqnr_db", "<=", 1e-3),
        ("sqnr_db == +2.", "sqnr_db", "==", 2),
        ("sqnr_db != .5", "sqnr_db", "!=", 0.5),
    ],
)
def test_conditions_are_read(text: str, name: str, sign: str, bound: float) -> None:
    assert Condition.parse(text, NAMES) == Condition(name, sign, bound)


@pytest.mark.parametrize(
    "text",
    ["", "sqnr_db", "< 3", "sqnr_db < ", "sqnr_db = 3", "sqnr_db < 3 or 1", "3 > sqnr_db",
     "sqnr_db < nan", "sqnr_db < 1.2.3", "sqnr_db < __import__('os')", "sqnr_db < p99_ms",
     "a b < 1", "sqnr_db < 30%"],
)  # fmt: skip
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="not of the form NAME OP NUMBER"):
        Condition.parse(text, NAMES)


@pytest.mark.parametrize(
    ("text", "name", "sign", "bound", "limit"),
    [
        ("p99 > +5%", "p99", ">", 5, 1.05),
        ("p50_ms>=-2.5 %", "p50", ">=", -2.5, 0.975),
        (" p99.9 < -1e1%", "p99_9", "<", -10, 0.9),
        ("p99_9_ms <= +0%", "p99_9", "<=", 0, 1),
    ],
)
def test_relative_conditions_are_read(
    text: str, name: str, sign: str, bound: float, limit: float
) -> None:
    condition = Condition.parse(text, NAMES)
    assert condition == Condition(name, sign, bound, is_relative=True)
    assert condition.limit == pytest.approx(limit)
    assert Condition.parse(str(condition), NAMES) == condition


@pytest.mark.parametrize("text", ["p99 > 5%", "p99 > +5%%", "p99 > +%", "p99 > +5 percent"])
def test_a_relative_bound_needs_its_sign_and_its_percent(text: str) -> None:
    with pytest.raises(SpecError, match="not of the form NAME OP NUMBER"):
        Condition.parse(text, NAMES)


def test_only_percentiles_are_relative_to_the_reference() -> None:
    with pytest.raises(SpecError, match="sqnr_db is no percentile of the latency") as caught:
        Condition.parse("sqnr_db < -5%", NAMES)
    assert "p50, p90, p95, p99, p99_9" in caught.value.hint


@pytest.mark.parametrize("sign", ["==", "!="])
def test_no_relative_condition_is_exact(sign: str) -> None:
    with pytest.raises(SpecError, match="one exact ratio"):
        Condition.parse(f"p99 {sign} +5%", NAMES)


def test_a_name_without_percent_stays_a_figure_as_it_is() -> None:
    assert not Condition.parse("p99_ms > +5", NAMES).is_relative
    with pytest.raises(SpecError, match="there is no p99") as caught:
        Condition.parse("p99 > 5", NAMES)
    assert "p99_ms" in caught.value.hint


def test_unknown_names_are_answered_with_near_misses() -> None:
    with pytest.raises(SpecError, match="there is no sqnr") as caught:
        Condition.parse("sqnr < 30", NAMES)
    assert caught.value.hint == "did you mean sqnr_db?"


@pytest.mark.parametrize(
    ("sign", "below", "equal", "above"),
    [("<", True, False, False), ("<=", True, True, False), (">", False, False, True),
     (">=", False, True, True), ("==", False, True, False), ("!=", True, False, True)],
)  # fmt: skip
def test_operators_compare(sign: str, below: bool, equal: bool, above: bool) -> None:
    condition = Condition.parse(f"sqnr_db {sign} 30", NAMES)
    for value, expected in ((29.9, below), (30.0, equal), (30.1, above)):
        assert condition.holds({"sqnr_db": value}) is expected


def test_an_infinite_figure_is_compared_too() -> None:
    assert not Condition.parse("sqnr_db < 30", NAMES).holds({"sqnr_db": math.inf})
    assert Condition.parse("sqnr_db < 30", NAMES).holds({"sqnr_db": -math.inf})


def test_a_figure_that_is_not_there_cannot_pass() -> None:
    with pytest.raises(SpecError, match="p99_ms > 5 cannot be judged"):
        Condition.parse("p99_ms > 5", NAMES).holds({"p99_ms": None})
