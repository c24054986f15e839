"""The drawings of single queries: nothing is left out, whatever the times look like."""

from __future__ import annotations

import random
import re

import pytest

from edgeattn.profiling.page.latency_plots import (
    histogram,
    latency_plots,
    percentile_curve,
    series,
)
from edgeattn.profiling.stats import LatencyStats
from tests.edgeattn.profiling.page import reports


def _times(kind: str, count: int) -> list[float]:
    draw = random.Random(count)
    return {
        "narrow": lambda: [4 + draw.gauss(0, 0.02) for _ in range(count)],
        "tail": lambda: [4 + draw.expovariate(9) ** 3 for _ in range(count)],
        "two peaks": lambda: [draw.choice((1.0, 5.0)) + draw.random() / 9 for _ in range(count)],
        "equal": lambda: [2.5] * count,
    }[kind]()


def _counted(plot) -> int:
    """Add up the bars by their heights: what is drawn, not what a tip says."""
    total = 0.0
    for mark in plot.marks:
        if mark.kind.startswith("bar"):
            top, bottom = (float(n) for n in re.findall(r"M\S+ (\S+?)H\S+?V(\S+?)H", mark.path)[0])
            total += (bottom - top) / 1000 * plot.y.high
    return round(total)


@pytest.mark.parametrize("kind", ["narrow", "tail", "two peaks", "equal"])
@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101, 777])
def test_the_histogram_counts_every_query_once(kind, count):
    times = _times(kind, count)
    plot = histogram(times, LatencyStats.from_samples(times).to_dict())
    assert _counted(plot) == pytest.approx(count, abs=0.02 * count)
    tips = [re.search(r": ([\d,]+) quer", m.tip) for m in plot.marks if m.kind == "bar"]
    beyond = re.search(r"holds the ([\d,]+) quer", plot.note)
    assert sum(int(tip[1]) for tip in tips if tip) + (int(beyond[1]) if beyond else 0) == count


def test_a_long_tail_has_a_bin_of_its_own_that_names_the_slowest():
    times = [1 + i / 10_000 for i in range(990)] + [50.0] * 9 + [73.25]
    plot = histogram(times, LatencyStats.from_samples(times).to_dict())
    assert "10 queries beyond 1.099 ms; the slowest took 73.25 ms" in plot.note
    assert plot.x.high < 2


def test_times_of_many_lengths_are_counted_over_a_logarithmic_axis():
    times = [1 + i / 1000 for i in range(90)] + [8.0] * 10
    plot = histogram(times, LatencyStats.from_samples(times).to_dict())
    assert plot.x.scale == "log"
    assert not plot.note
    assert [tick.text for tick in plot.x_ticks] == ["1", "2", "5"]
    assert _counted(plot) == pytest.approx(100, abs=2)
    first, last = plot.marks[0], [mark for mark in plot.marks if mark.kind == "bar"][-1]
    assert first.path.startswith("M0.0 ")
    assert "H1000.0" in last.path
    assert "10 queries" in last.tip


def test_few_queries_have_no_bin_for_a_tail():
    times = [1.0] * 50 + [90.0]
    plot = histogram(times, LatencyStats.from_samples(times).to_dict())
    assert not plot.note
    assert plot.x.high == 90.0


def test_the_run_shows_each_of_few_queries():
    plot = series([0.0, 5.0, 9.0], [5.0, 4.0, 6.0], 5.0)
    assert next(m.path for m in plot.marks if m.kind == "dots").count("h0") == 3


def test_the_run_shows_the_slowest_of_many_queries():
    times = [1.0] * 5000
    times[1234] = 40.0
    plot = series([float(i) for i in range(5000)], times, 1.0)
    spread = next(m.path for m in plot.marks if m.kind == "spread")
    highest = min(float(y) for y in re.findall(r"V([-\d.]+)", spread))
    assert highest == pytest.approx(1000 - plot.y.at(40.0), abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 100, 20_000])
def test_the_percentile_curve_ends_at_the_slowest_and_stays_small(count):
    times = _times("tail", count)
    path = percentile_curve(times).marks[0].path
    levels = [float(y) for y in re.findall(r"V([-\d.]+)", path)]
    assert levels == sorted(levels, reverse=True)
    axis = percentile_curve(times).y
    assert levels[-1] == pytest.approx(1000 - axis.at(max(times)), abs=0.1)
    assert path.endswith("H1000.0")
    assert len(path) < 20_000


def test_the_percentile_curve_reaches_a_level_at_its_percentile():
    # 90 of 100 queries take 1 ms: the step up lies at 90 %.
    plot = percentile_curve([1.0] * 90 + [2.0] * 10)
    steps = re.findall(r"V([-\d.]+)H([-\d.]+)", plot.marks[0].path)
    low = 1000 - plot.y.at(1.0)
    assert max(float(x) for y, x in steps if float(y) == pytest.approx(low, abs=0.1)) == (
        pytest.approx(plot.x.at(90), abs=0.1)
    )


def test_a_report_without_its_queries_has_no_drawings_of_them():
    report = reports.latency_report(5)
    assert len(latency_plots(report)) == 3
    del report["exportTimes"]
    assert latency_plots(report) == []
