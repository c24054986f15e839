"""The times of single queries, drawn: how they spread, how they went on, how bad it gets.

Every query counts in every figure. Where there are more queries than columns of the screen, a
column shows the lowest, the middle and the highest of its queries.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from edgeattn.profiling.page.plot import SIZE, Axis, Label, Mark, Plot, box, dots, line, upright
from edgeattn.profiling.page.words import milliseconds, percentile_name, queries
from edgeattn.profiling.stats import percentile_ms

_MARKED = ("p50_ms", "p90_ms", "p99_ms")
_MOST_DOTS = 1200
_COLUMNS = 300
# Times from one to so many times as long need a logarithmic axis.
_WIDE = 2.5
_FEWEST_BINS, _MOST_BINS = 12, 60
# The last bin of a histogram with a tail: a gap to the others and a width, in thousandths.
_TAIL_GAP, _TAIL_WIDTH = 25, 45


def latency_plots(report: Mapping[str, Any]) -> list[Plot]:
    """Draw the queries of a report; nothing of a report without them."""
    ran = report.get("exportTimes") or []
    if not ran:
        return []
    times = [query["latencyMs"] for query in ran]
    starts = [query["startEnqMs"] for query in ran]
    return [
        histogram(times, report["latency"]),
        series(starts, times, report["latency"]["p50_ms"]),
        percentile_curve(times),
    ]


def histogram(times: Sequence[float], stats: Mapping[str, Any]) -> Plot:
    """Count queries by latency.

    A long tail would press all others into one bin. Where one query in a hundred is in it, that
    has a bin of its own, at the right; where more are, the axis is logarithmic.
    """
    ordered = sorted(times)
    least, most = ordered[0], ordered[-1]
    p99 = percentile_ms(ordered, 99)
    is_wide = 0 < _WIDE * least < p99
    has_tail = not is_wide and len(ordered) >= 100 and most - p99 > 0.25 * (p99 - least) > 0
    end = p99 if has_tail else most
    edges = _log_edges(ordered) if is_wide else _edges(ordered, least, end)
    ranks = [0, *(bisect_right(ordered, edge) for edge in edges[1:])]
    counts = [after - before for before, after in pairwise(ranks)]
    beyond = len(ordered) - ranks[-1]
    y = Axis("queries", 0, 1.22 * max([*counts, beyond]))
    width = SIZE - (_TAIL_GAP + _TAIL_WIDTH if has_tail else 0)
    span = edges[-1] - edges[0]
    high = edges[-1] if is_wide else edges[0] + span * SIZE / width
    x = Axis("latency, ms", edges[0], high, "log" if is_wide else "linear")
    marks = [
        Mark(
            box(x.at(low), SIZE - y.at(n), x.at(high), SIZE),
            "bar",
            f"{milliseconds(low)} to {milliseconds(high)}: {queries(n)}",
        )
        for (low, high), n in zip(pairwise(edges), counts, strict=True)
        if n
    ]
    words = ""
    if has_tail:
        words = (
            f"The bin at the right holds the {queries(beyond)} beyond {milliseconds(end)}; "
            f"the slowest took {milliseconds(most)}."
        )
        top = SIZE - y.at(beyond)
        marks.append(Mark(box(SIZE - _TAIL_WIDTH, top, SIZE, SIZE), "bar tail", words))
    labels = []
    for row, key in enumerate(key for key in _MARKED if stats.get(key) is not None):
        if stats[key] <= end:
            place = x.at(stats[key])
            text = f"{percentile_name(key)} {milliseconds(stats[key])}"
            marks.append(Mark(upright(place), "rule", text))
            side = " left" if place > SIZE / 2 else ""
            labels.append(Label(place, 65 * row, text, f"rule-label{side}"))
    return Plot(
        "histogram",
        "How the queries spread",
        x,
        y,
        marks,
        labels,
        note=words,
        describe=f"Histogram of {queries(len(ordered))}, "
        f"{milliseconds(least)} to {milliseconds(most)}",
    )


def series(starts_ms: Sequence[float], times: Sequence[float], p50_ms: float) -> Plot:
    """Show each query's latency at the time when it was asked."""
    x = Axis("time of the run, s", 0.0, max(starts_ms[-1] / 1e3, 1e-6))
    y = Axis.around("latency, ms", times)

    def place(start: float, value: float) -> tuple[float, float]:
        return x.at(start / 1e3), SIZE - y.at(value)

    note = ""
    if len(times) <= _MOST_DOTS:
        points = (place(start, value) for start, value in zip(starts_ms, times, strict=True))
        marks = [Mark(dots(points), "dots")]
    else:
        columns = _columns(starts_ms, times)
        spread = "".join(
            f"M{x.at(at / 1e3):.1f} {SIZE - y.at(low):.1f}V{SIZE - y.at(high):.1f}"
            for at, low, _, high in columns
        )
        middle = [place(at, median) for at, _, median, _ in columns]
        marks = [Mark(spread, "spread"), Mark(line(middle), "line c1")]
        note = (
            "Line: medians of neighbouring queries. Bars: from the fastest to the slowest of them."
        )
    level = SIZE - y.at(p50_ms)
    marks.append(Mark(f"M0 {level:.1f}H{SIZE}", "rule", f"p50 {milliseconds(p50_ms)}"))
    return Plot(
        "series",
        "How the run went on",
        x,
        y,
        marks,
        note=note,
        describe=f"Latency of {queries(len(times))} over {starts_ms[-1] / 1e3:.1f} seconds",
    )


def percentile_curve(times: Sequence[float]) -> Plot:
    """Show which latency so many percent of the queries keep to, each nine as wide as the last."""
    ordered = sorted(times)
    last = 100 * (1 - 0.5 / len(ordered))
    x = Axis("percent of the queries", 0.0, last, "nines")
    y = Axis.around("latency, ms", ordered)
    path = percentile_path(ordered, x, y)
    return Plot(
        "percentiles",
        "How bad it gets",
        x,
        y,
        [Mark(path, "line c1")],
        describe=f"Latency by percentile, the slowest {milliseconds(ordered[-1])}",
    )


def percentile_path(ordered: Sequence[float], x: Axis, y: Axis) -> str:
    """Draw the curve: so many percent of the times do not exceed it.

    Args:
        ordered: `[N]` times, ascending.
        x: Percent, up to half a query before the last one.
        y: Times.
    """
    last = 100 * (1 - 0.5 / len(ordered))
    path = f"M0 {SIZE - y.at(ordered[0]):.1f}"
    for rank in _ranks_in_sight(x, len(ordered)):
        end = x.at(min(100 * (rank + 1) / len(ordered), last))
        path += f"V{SIZE - y.at(ordered[rank]):.1f}H{end:.1f}"
    return path


def _ranks_in_sight(x: Axis, total: int) -> list[int]:
    """Choose the ranks that lie more than a thousandth apart, the last one always."""
    shown, seen = [], -math.inf
    for rank in range(total):
        here = x.at(min(100 * (rank + 1) / total, x.high))
        if here - seen >= 1 or rank == total - 1:
            shown.append(rank)
            seen = here
    return shown


def _edges(ordered: Sequence[float], low: float, high: float) -> list[float]:
    """Make bins as wide as Freedman and Diaconis advise, within reason."""
    if high <= low:
        air = 0.05 * low or 0.05
        return [low - air, low + air]
    inner = percentile_ms(ordered, 75) - percentile_ms(ordered, 25)
    width = 2 * inner / len(ordered) ** (1 / 3)
    bins = math.ceil((high - low) / width) if width else _MOST_BINS
    bins = min(max(bins, _FEWEST_BINS), _MOST_BINS)
    edges = [low + (high - low) * i / bins for i in range(bins)]
    return [*edges, high]


def _log_edges(ordered: Sequence[float]) -> list[float]:
    """Make bins that are each longer than the one before by the same factor."""
    logs = [math.log(value) for value in ordered]
    inner = [math.exp(edge) for edge in _edges(logs, logs[0], logs[-1])[1:-1]]
    return [ordered[0], *inner, ordered[-1]]


def _columns(
    starts_ms: Sequence[float], times: Sequence[float]
) -> list[tuple[float, float, float, float]]:
    """Summarize neighbouring queries: time of the middle one, lowest, median and highest."""
    columns = []
    for number in range(_COLUMNS):
        first = len(times) * number // _COLUMNS
        last = len(times) * (number + 1) // _COLUMNS
        part = sorted(times[first:last])
        middle = (len(part) - 1) // 2
        columns.append((starts_ms[first + middle], part[0], part[middle], part[-1]))
    return columns
