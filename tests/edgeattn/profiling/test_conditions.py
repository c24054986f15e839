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
