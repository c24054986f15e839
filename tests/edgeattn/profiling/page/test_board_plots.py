"""The board's plots: lines that are cut where a sensor fell silent, and what is shaded."""

from __future__ import annotations

import re

import pytest

from edgeattn.profiling.board.sample import BoardSample, BoardTrace
from edgeattn.profiling.page.board_plots import board_plots
from edgeattn.profiling.page.plot import SIZE, Plot

S = 1_000_000_000
PERIOD_NS = 20_000_000


def pieces(is_read: list[bool]) -> int:
    """Draw a sensor that was read in some samples; into how many pieces is its line cut?"""
    samples = tuple(
        BoardSample(i * PERIOD_NS, power_mw={"VDD_IN": 5000.0 + i} if read else {})
        for i, read in enumerate(is_read)
    )
    (plot,) = board_plots(BoardTrace(samples, "sysfs", 0.02).to_dict())
    (line,) = (mark for mark in plot.marks if mark.kind.startswith("line"))
    return line.path.count("M")


@pytest.mark.parametrize(
    ("is_read", "expected"),
    [
        ([True] * 30, 1),
        ([i % 5 == 0 for i in range(60)], 1),  # a sensor that is read less often
        ([i < 20 or i > 60 for i in range(90)], 2),
        ([i % 5 == 0 and not 20 < i < 60 for i in range(90)], 2),
        ([i == 3 for i in range(9)], 1),
    ],
)
def test_a_line_is_cut_where_its_sensor_fell_silent(is_read: list[bool], expected: int) -> None:
    assert pieces(is_read) == expected


def test_what_is_not_of_the_measurement_is_shaded_and_what_was_held_down_marked() -> None:
    samples = tuple(
        BoardSample(i * S, power_mw={"VDD_IN": 5000.0}, throttled=("thermal",) if i == 6 else ())
        for i in range(11)
    )
    trace = BoardTrace(samples, "sysfs", 1.0).to_dict()
    (plot,) = board_plots(trace, (2 * S, 7 * S))
    # In seconds of the run, which began with the measurement; a reason holds since the last sample.
    assert spans(plot, "outside") == [(-2, 0), (5, 8)]
    assert spans(plot, "throttled") == [(3, 4)]
    (plot,) = board_plots(trace, (0, 10 * S))
    assert spans(plot, "outside") == []
    (plot,) = board_plots(trace)
    assert spans(plot, "outside") == []
    assert spans(plot, "throttled") == [(5, 6)]


def spans(plot: Plot, kind: str) -> list[tuple[float, float]]:
    """Read from when to when the boxes of a kind lie, in seconds."""
    found = []
    for path in (mark.path for mark in plot.marks if mark.kind == kind):
        left, right = map(float, re.findall(r"[MH]([\d.]+)", path)[:2])
        width = plot.x.high - plot.x.low
        found.append(tuple(round(plot.x.low + width * x / SIZE, 2) for x in (left, right)))
    return found
