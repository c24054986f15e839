"""A line goes on where a sensor pauses as usual, and is cut where it fell silent."""

from __future__ import annotations

import pytest

from edgeattn.profiling.board.sample import BoardSample, BoardTrace
from edgeattn.profiling.page.board_plots import board_plots

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
