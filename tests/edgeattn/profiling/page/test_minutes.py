"""The part of the page for a sustained run: what is drawn, listed and said."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from edgeattn.profiling.page import page_html
from edgeattn.profiling.page.minutes import sustained_values
from edgeattn.profiling.page.plot import SIZE
from tests.edgeattn.profiling.page import reports
from tests.edgeattn.profiling.page.long_runs import sustained_run


def plots(sustained: dict[str, Any]) -> dict[str, Any]:
    return {plot.name: plot for plot in sustained_values(sustained)["plots"]}


def levels(plot: Any, kind: str) -> list[tuple[float, float, float]]:
    """Read beginning, end and value of each level back from the line of a plot."""
    (path,) = (mark.path for mark in plot.marks if mark.kind == kind)
    found = []
    for x, y, end in re.findall(r"[ML]([\d.]+) ([\d.]+)H([\d.]+)", path):
        value = plot.y.low + (plot.y.high - plot.y.low) * (1 - float(y) / SIZE)
        minutes = (plot.x.high * float(place) / SIZE for place in (x, end))
        found.append((*minutes, value))
    return found


def test_each_minute_is_a_level_as_long_as_the_minute() -> None:
    sustained = sustained_run(12)
    drawn = plots(sustained)
    for name, kind, key, factor in (
        ("sustained-latency", "line c1", "p50_ms", 1),
        ("sustained-latency", "line c2", "p99_ms", 1),
        ("sustained-clock", "line c1", "clock_mhz", 1),
        ("sustained-temperature", "line c1", "temperature_c", 1),
        ("sustained-power", "line c1", "power_mw", 1e-3),
    ):
        read = levels(drawn[name], kind)
        assert len(read) == 12
        for (begin, end, value), minute in zip(read, sustained["minutes"], strict=True):
            assert begin == pytest.approx(minute["start_s"] / 60, abs=2e-3)
            assert end == pytest.approx(minute["end_s"] / 60, abs=2e-3)
            assert value == pytest.approx(factor * minute[key], rel=1e-3)


def test_minutes_that_were_held_down_are_shaded_in_every_plot() -> None:
    sustained = sustained_run(12)
    held = [minute["verdict"] == "throttled" for minute in sustained["minutes"]]
    assert 0 < sum(held) < 12
    for plot in plots(sustained).values():
        assert sum(mark.kind == "throttled" for mark in plot.marks) == sum(held)
    assert sustained_values(sustained)["is_throttled"]
    assert not sustained_values(sustained_run(3))["is_throttled"]


def test_a_minute_tells_all_its_figures_under_the_pointer() -> None:
    sustained = sustained_run(3)
    sustained["minutes"][1] |= {
        "p50_ms": 4.125,
        "p99_ms": 5.5,
        "max_ms": 12.25,
        "clock_mhz": 1020.0,
        "temperature_c": 58.0,
        "power_mw": 11900.0,
    }
    for plot in plots(sustained).values():
        tips = [mark.tip for mark in plot.marks if mark.kind == "hit"]
        assert len(tips) == 3
        assert tips[1] == (
            "minute 2: p50 4.125 ms, p99 5.500 ms, slowest 12.25 ms, 1,020 MHz, 58.0 °C, 11.9 W, "
            "stable"
        )


def test_what_no_sensor_told_is_neither_drawn_nor_listed() -> None:
    sustained = sustained_run(3)
    for minute in sustained["minutes"]:
        unknown = dict.fromkeys(("clock_mhz", "temperature_c", "power_mw", "p99_ms"))
        minute |= unknown | {"verdict": "unknown"}
    values = sustained_values(sustained)
    (latency,) = values["plots"]
    assert [key.text for key in latency.legend] == ["p50"]
    heads = [column.text for column in values["table"].columns]
    assert heads == ["Minute", "queries", "p50, ms", "slowest, ms", "queries/s", "clocks"]
    assert values["summary"][-1] == "The board's clocks: unknown in 3 minutes."


def test_a_sensor_that_was_silent_for_a_minute_leaves_a_gap() -> None:
    sustained = sustained_run(4)
    sustained["minutes"][1]["temperature_c"] = None
    drawn = plots(sustained)
    assert len(levels(drawn["sustained-temperature"], "line c1")) == 3
    (path,) = (m.path for m in drawn["sustained-temperature"].marks if m.kind == "line c1")
    assert path.count("M") == 2
    assert len(levels(drawn["sustained-clock"], "line c1")) == 4


def test_the_table_lists_the_minutes_with_their_verdicts() -> None:
    sustained = sustained_run(12)
    table = sustained_values(sustained)["table"]
    assert len(table.rows) == 12
    assert [row[0].text for row in table.rows[-2:]] == ["11", "12: 30.0 s of it"]
    assert [row[-1].text for row in table.rows] == [m["verdict"] for m in sustained["minutes"]]
    assert [row[2].key for row in table.rows] == [m["p50_ms"] for m in sustained["minutes"]]


def test_the_summary_says_how_far_the_median_went() -> None:
    sustained = sustained_run(12)
    first, last = sustained["minutes"][0]["p50_ms"], sustained["minutes"][10]["p50_ms"]
    _, drift, clocks = sustained_values(sustained)["summary"]
    assert drift == (
        f"From the first full minute to the last the median went from {first:.3f} ms to "
        f"{last:.3f} ms: +{100 * (last / first - 1):.1f} %."
    )
    assert clocks == "The board's clocks: stable in 10 minutes, throttled in 2 minutes."


@pytest.mark.parametrize("count", [1, 2])
def test_without_two_full_minutes_no_drift_is_told(count: int) -> None:
    summary = sustained_values(sustained_run(count))["summary"]
    assert not any("full minute" in line for line in summary)


def test_the_page_shows_a_sustained_run_where_there_is_one() -> None:
    plain = reports.latency_report(50)
    text = page_html(plain | {"sustained": json.loads(json.dumps(sustained_run(5)))})
    assert text.count('id="sustained') == 6  # section, its title, four plots
    assert 'id="minutes"' in text
    assert 'href="#sustained"' in text
    for absent in (plain, plain | {"sustained": None}):
        assert "sustained" not in re.sub(r"<style>.*?</style>", "", page_html(absent), flags=re.S)
