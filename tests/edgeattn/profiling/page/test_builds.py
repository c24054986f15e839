"""The part of the page for repeated builds: what is drawn, listed and said."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from edgeattn.profiling.page import page_html
from edgeattn.profiling.page.builds import builds_values
from edgeattn.profiling.page.plot import SIZE
from tests.edgeattn.profiling.page import reports
from tests.edgeattn.profiling.page.long_runs import repeated_builds


def points(plot: Any) -> list[tuple[float, float, str]]:
    """Read place, median and colour of each point back from a plot."""
    found = []
    for mark in plot.marks:
        if mark.kind.startswith("point"):
            ((x, y),) = re.findall(r"M([\d.]+) ([\d.]+)h0", mark.path)
            across = plot.x.low + (plot.x.high - plot.x.low) * float(x) / SIZE
            value = plot.y.low + (plot.y.high - plot.y.low) * (1 - float(y) / SIZE)
            found.append((across, value, mark.kind.split()[-1]))
    return found


def test_each_engine_is_a_point_at_its_median() -> None:
    builds = repeated_builds(5)
    drawn = points(builds_values(builds)["plot"])
    medians = [row["latency"]["p50_ms"] for row in builds["rows"]]
    assert [value for _, value, _ in drawn] == pytest.approx(medians, rel=1e-4)
    places = [across for across, _, _ in drawn]
    assert places[0] < places[1] < 0  # the same engine twice, side by side
    assert places[2:] == pytest.approx([1, 2, 3, 4, 5], abs=0.01)


def test_the_engine_that_was_kept_is_marked_by_colour_and_by_a_word() -> None:
    plot = builds_values(repeated_builds(5))["plot"]
    assert [colour for _, _, colour in points(plot)] == ["c1"] * 4 + ["c2"] + ["c1"] * 2
    (label,) = plot.labels
    assert label.text == "kept"
    assert label.x == pytest.approx(plot.x.at(3))


def test_bars_reach_over_the_interval_of_the_median() -> None:
    builds = repeated_builds(5)
    builds["rows"][4]["latency"]["p50_interval_ms"] = None  # of few queries there is none
    plot = builds_values(builds)["plot"]
    bars = [mark.path for mark in plot.marks if mark.kind.startswith("interval")]
    intervals = [row["latency"]["p50_interval_ms"] for row in builds["rows"]]
    intervals = [interval for interval in intervals if interval]
    assert len(bars) == len(intervals) == 6
    for path, (low, high) in zip(bars, intervals, strict=True):
        ((begin, end),) = re.findall(r" ([\d.]+)V([\d.]+)", path)
        assert float(begin) == pytest.approx(SIZE - plot.y.at(low), abs=0.1)
        assert float(end) == pytest.approx(SIZE - plot.y.at(high), abs=0.1)
    assert len(plot.labels) == 1


@pytest.mark.parametrize(
    ("count", "named"),
    [
        (1, ["before", "1"]),
        (12, ["before", *map(str, range(1, 13))]),
        (13, ["before", "2", "4", "6", "8", "10", "12"]),
        (40, ["before", *map(str, range(4, 41, 4))]),
    ],
)
def test_builds_are_named_as_far_as_there_is_room(count: int, named: list[str]) -> None:
    plot = builds_values(repeated_builds(count))["plot"]
    assert [tick.text for tick in plot.x_ticks] == named
    for tick in plot.x_ticks[1:]:
        assert tick.position == pytest.approx(plot.x.at(int(tick.text)))
    assert all(0 < tick.position < SIZE for tick in plot.x_ticks)


def test_the_table_lists_the_engines() -> None:
    table = builds_values(repeated_builds(2))["table"]
    heads = [column.text for column in table.columns]
    assert heads == [
        "Build", "median, ms", "95 %", "ratio", "ratio, 95 %", "CV, %", "layers", "of them other",
        "built in, s", "size", "sha256",
    ]  # fmt: skip
    names = [row[0].text for row in table.rows]
    assert names == [
        "the one that was there",
        "the same, loaded again",
        "build 1",
        "build 2, kept",
    ]
    assert table.rows[0][3].text == "1.0000"
    assert table.rows[0][4].text == ""
    assert table.rows[3][8].text == "186"


def test_what_a_cpu_engine_does_not_tell_has_no_columns() -> None:
    builds = repeated_builds(3)
    for row in builds["rows"]:
        row |= {"layers": None, "differing": None, "differences": []}
    values = builds_values(builds)
    heads = [column.text for column in values["table"].columns]
    assert "layers" not in heads
    assert "of them other" not in heads
    assert values["differences"] is None


def test_other_tactics_are_listed_with_a_dash_where_a_layer_is_gone() -> None:
    builds = repeated_builds(3)
    builds["rows"][2]["differences"] = [{"layer": "fc1+gelu", "present": "", "build": "gemm_7"}]
    table = builds_values(builds)["differences"]
    assert [cell.text for cell in table.rows[0]] == ["build 1", "fc1+gelu", "–", "gemm_7"]
    assert len(table.rows) == 1 + 2 + 3


def test_the_page_shows_builds_where_they_were_made() -> None:
    plain = reports.latency_report(50)
    builds = json.loads(json.dumps(repeated_builds(5)))
    builds["sentences"][0] = "Spread < noise & all that."
    text = page_html(plain | {"builds": builds})
    assert text.count('id="builds') == 3  # section, its title, the plot
    assert 'href="#builds"' in text
    assert "<li>Spread &lt; noise &amp; all that.</li>" in text
    for absent in (plain, plain | {"builds": None}):
        assert 'id="builds' not in page_html(absent)
