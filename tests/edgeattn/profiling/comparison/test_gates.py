"""Gates: judged by the whole interval, at both of its ends."""

from __future__ import annotations

import pytest

from edgeattn.errors import SpecError
from edgeattn.profiling.comparison.gates import judge
from edgeattn.profiling.comparison.ratio import Ratio
from edgeattn.profiling.conditions import Condition


def verdict(text: str, low: float, high: float) -> str:
    ratio = Ratio((low + high) / 2, (low, high))
    return judge(Condition.parse(text, ()), {}, {"p99": ratio}).word


@pytest.mark.parametrize(
    ("text", "low", "high", "word"),
    [
        ("p99 > +5%", 1.06, 1.2, "failed"),
        ("p99 > +5%", 0.9, 1.04, "passed"),
        ("p99 > +5%", 1.04, 1.06, "too close to call"),
        ("p99 > +5%", 1.0, 1.05, "passed"),  # at the limit is not beyond it
        ("p99 >= +5%", 1.05, 1.1, "failed"),
        ("p99 < -10%", 0.7, 0.8, "failed"),
        ("p99 < -10%", 0.91, 1.3, "passed"),
        ("p99 < -10%", 0.8, 1.3, "too close to call"),
        ("p99 <= -10%", 0.8, 0.9, "failed"),
    ],
)
def test_a_gate_fails_or_passes_only_with_its_whole_interval(
    text: str, low: float, high: float, word: str
) -> None:
    assert verdict(text, low, high) == word


def test_a_gate_tells_what_was_found_and_between_which_bounds() -> None:
    gate = judge(Condition.parse("p50 > +5%", ()), {}, {"p50": Ratio(1.5, (1.25, 1.75))})
    assert str(gate) == "p50 > +5%: it is +50.0%, +25.0% to +75.0% with 95 % confidence"
    assert gate.to_dict() == {
        "condition": "p50 > +5%",
        "verdict": "failed",
        "found": "it is +50.0%, +25.0% to +75.0% with 95 % confidence",
    }


def test_a_ratio_without_bounds_is_too_close_to_call_however_large_it_is() -> None:
    ratio = Ratio(9.0, None, "99 queries are too few to bound it, it takes 400")
    gate = judge(Condition.parse("p99 > +5%", ()), {}, {"p99": ratio})
    assert str(gate) == (
        "p99 > +5%: too close to call: it is +800.0%; "
        "99 queries are too few to bound it, it takes 400"
    )


def test_a_percentile_that_a_side_has_too_few_queries_for_is_too_close_to_call() -> None:
    gate = judge(Condition.parse("p99.9 > +5%", ()), {}, {"p50": Ratio(1.0, (0.9, 1.1))})
    assert str(gate) == "p99_9 > +5%: too close to call: too few queries, it takes 4000"


def test_a_relative_gate_without_latencies_cannot_pass() -> None:
    with pytest.raises(SpecError, match=r"p99 > \+5% cannot be judged: this comparison has no lat"):
        judge(Condition.parse("p99 > +5%", ()), {}, {})


def test_a_figure_as_it_is_is_judged_by_its_value() -> None:
    condition = Condition.parse("sqnr_db < 30", ("sqnr_db",))
    assert judge(condition, {"sqnr_db": 29.5}, {}).word == "failed"
    assert str(judge(condition, {"sqnr_db": 31.0}, {})) == "sqnr_db < 30: it is 31"
