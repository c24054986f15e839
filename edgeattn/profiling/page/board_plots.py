"""The board during the run: clocks, power, temperatures and load over time."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from edgeattn.profiling.page.plot import SIZE, Axis, Key, Mark, Plot, box, line

_GROUPS = (
    ("clocks_mhz", "Clocks", "MHz", 1.0),
    ("power_mw", "Power", "W", 1e-3),
    ("temperatures_c", "Temperature", "°C", 1.0),
    ("utilisation_percent", "Load", "%", 1.0),
)
_COLOURS = 8
_BUCKETS = 300
_LONGEST_PAUSE = 3.0  # times what a sensor usually pauses
_CORE = re.compile(r"cpu\d+$")

_Column = Sequence["float | None"]


def board_plots(board: Mapping[str, Any], window_ns: Sequence[int] | None = None) -> list[Plot]:
    """Draw a trace.

    Args:
        board: `BoardTrace.to_dict()`.
        window_ns: When the measurement began and ended, to shade what lies outside of it.
    """
    times = board["time_ns"]
    if len(times) < 2:
        return []
    origin = window_ns[0] if window_ns else times[0]
    seconds = [(time - origin) / 1e9 for time in times]
    what = "time of the run, s" if window_ns else "time of the trace, s"
    x = Axis(what, seconds[0], seconds[-1])
    around = _around(x, board, seconds, window_ns)
    plots = []
    for group, title, unit, factor in _GROUPS:
        columns = _without_cores(board[group])
        known = [v * factor for column in columns.values() for v in column if v is not None]
        if not known:
            continue
        y = Axis.around(f"{title.lower()}, {unit}", known)
        marks = list(around)
        legend = []
        for number, (name, column) in enumerate(columns.items()):
            kind = f"c{number % _COLOURS + 1}"
            scaled = [None if value is None else value * factor for value in column]
            marks.append(Mark(_path(x, y, seconds, scaled), f"line {kind}"))
            legend.append(Key(kind, name))
        low, high = min(known), max(known)
        words = f"{title} over time, {low:.4g} to {high:.4g} {unit}"
        plots.append(Plot(f"board-{group}", title, x, y, marks, (), legend, "", words))
    return plots


def _around(
    x: Axis, board: Mapping[str, Any], seconds: Sequence[float], window_ns: Sequence[int] | None
) -> list[Mark]:
    """Shade what is not of the measurement, and where something held the clocks down."""
    marks = []
    if window_ns:
        end = min((window_ns[1] - window_ns[0]) / 1e9, x.high)
        for low, high in ((x.low, max(0.0, x.low)), (end, x.high)):
            if high > low:
                shade = box(x.at(low), 0, x.at(high), SIZE)
                marks.append(Mark(shade, "outside", "before or after the measurement"))
    for number, reasons in enumerate(board["throttled"]):
        if reasons:  # since the sample before
            begin = x.at(seconds[max(number - 1, 0)])
            end = max(x.at(seconds[number]), begin + 2)
            marks.append(Mark(box(begin, 0, end, SIZE), "throttled", ", ".join(reasons)))
    return marks


def _without_cores(columns: Mapping[str, _Column]) -> dict[str, _Column]:
    """Put the lines of all processor cores into one, that of the highest."""
    kept = {name: column for name, column in columns.items() if not _CORE.match(name)}
    cores = [column for name, column in columns.items() if _CORE.match(name)]
    if cores:
        kept["highest of the CPU cores"] = [
            max((value for value in row if value is not None), default=None)
            for row in zip(*cores, strict=True)
        ]
    return kept


def _path(x: Axis, y: Axis, seconds: Sequence[float], values: _Column) -> str:
    """Join samples, with gaps where a sensor was silent; of many, the extremes of each bucket.

    Some sensors are read less often than others: what is longer than they usually pause is silence.
    """
    known = [(t, value) for t, value in zip(seconds, values, strict=True) if value is not None]
    steps = [after - before for (before, _), (after, _) in pairwise(known)]
    longest = _LONGEST_PAUSE * statistics.median(steps) if steps else 0.0
    pieces: list[list[tuple[float, float]]] = [[]]
    for step, (time, value) in zip((0.0, *steps), known, strict=False):
        if step > longest:
            pieces.append([])
        pieces[-1].append((x.at(time), SIZE - y.at(value)))
    return "".join(line(_thinned(piece)) for piece in pieces if piece)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= 2 * _BUCKETS:
        return points if len(points) > 1 else [points[0], points[0]]
    kept = []
    for number in range(_BUCKETS):
        part = points[len(points) * number // _BUCKETS : len(points) * (number + 1) // _BUCKETS]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept
