"""A sustained run on the page: how latency, clock, temperature and power went on, minute by minute.

Each minute is a level as long as the minute, so that nobody reads a course between two of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgeattn.profiling.page.plot import SIZE, Axis, Key, Mark, Plot, box
from edgeattn.profiling.page.tables import Cell, Column, Table, known_columns
from edgeattn.profiling.page.words import count, milliseconds, number, queries
from edgeattn.profiling.sustained import FULL_S

_Minute = Mapping[str, Any]

_SENSORS = (
    ("clock_mhz", "Clock", "mean clock, MHz", "MHz", 1.0),
    ("temperature_c", "Temperature", "hottest sensor, °C", "°C", 1.0),
    ("power_mw", "Power", "mean power of the whole, W", "W", 1e-3),
)


def sustained_values(sustained: Mapping[str, Any]) -> dict[str, Any]:
    """Make what the template shows of a run.

    Args:
        sustained: `Sustained.to_dict()`.
    """
    return {
        "summary": _summary(sustained),
        "plots": list(_plots(sustained["minutes"])),
        "is_throttled": any(each["verdict"] == "throttled" for each in sustained["minutes"]),
        "table": _table(sustained["minutes"]),
    }


def _summary(sustained: Mapping[str, Any]) -> list[str]:
    minutes = sustained["minutes"]
    asked = queries(sum(minute["num_samples"] for minute in minutes))
    lines = [f"{asked} in {number(minutes[-1]['end_s'] / 60, 3)} minutes."]
    drift = sustained["drift_percent"]
    if drift is not None:
        full = [minute for minute in minutes if _is_full(minute)]
        lines.append(
            f"From the first full minute to the last the median went from "
            f"{milliseconds(full[0]['p50_ms'])} to {milliseconds(full[-1]['p50_ms'])}: "
            f"{drift:+.1f} %."
        )
    words = Counter(minute["verdict"] for minute in minutes)
    told = [f"{word} in {count(amount, 'minute')}" for word, amount in words.most_common()]
    lines.append(f"The board's clocks: {', '.join(told)}.")
    return lines


def _plots(minutes: Sequence[_Minute]) -> Iterator[Plot]:
    """Draw small multiples over one and the same time."""
    x = Axis("time of the run, minutes", 0.0, minutes[-1]["end_s"] / 60)
    times = [m[key] for m in minutes for key in ("p50_ms", "p99_ms") if m[key] is not None]
    y = Axis.around("latency, ms", times)
    lines = [Mark(_levels(x, y, minutes, key), f"line {c}") for key, c in _lines(minutes)]
    legend = [Key(c, key.removesuffix("_ms")) for key, c in _lines(minutes)]
    words = f"Median latency of {count(len(minutes), 'minute')}, {_span(minutes, 'p50_ms')} ms"
    yield _plot("latency", "Latency", x, y, minutes, lines, words, legend)
    for key, title, label, unit, factor in _SENSORS:
        known = [factor * minute[key] for minute in minutes if minute[key] is not None]
        if known:
            y = Axis.around(label, known)
            marks = [Mark(_levels(x, y, minutes, key, factor), "line c1")]
            words = f"{title} over time, {_span(minutes, key, factor)} {unit}"
            yield _plot(key.partition("_")[0], title, x, y, minutes, marks, words)


def _plot(
    name: str,
    title: str,
    x: Axis,
    y: Axis,
    minutes: Sequence[_Minute],
    lines: Sequence[Mark],
    words: str,
    legend: Sequence[Key] = (),
) -> Plot:
    marks = [
        *(_shade(x, minute, "throttled") for minute in minutes if minute["verdict"] == "throttled"),
        *lines,
        *(_shade(x, minute, "hit", _tip(n, minute)) for n, minute in enumerate(minutes, 1)),
    ]
    return Plot(f"sustained-{name}", title, x, y, marks, (), legend, "", words)


def _lines(minutes: Sequence[_Minute]) -> list[tuple[str, str]]:
    has_p99 = any(minute["p99_ms"] is not None for minute in minutes)
    return [("p50_ms", "c1"), *([("p99_ms", "c2")] if has_p99 else [])]


def _levels(x: Axis, y: Axis, minutes: Sequence[_Minute], key: str, factor: float = 1.0) -> str:
    """Draw a level for each minute, joined upright where the next one is known too."""
    path, before = "", False
    for minute in minutes:
        if minute[key] is not None:
            level = SIZE - y.at(factor * minute[key])
            begin, end = x.at(minute["start_s"] / 60), x.at(minute["end_s"] / 60)
            path += f"L{begin:.1f} {level:.1f}" if before else f"M{begin:.1f} {level:.1f}"
            path += f"H{end:.1f}"
        before = minute[key] is not None
    return path


def _shade(x: Axis, minute: _Minute, kind: str, tip: str = "") -> Mark:
    """Cover a minute from top to bottom."""
    begin, end = x.at(minute["start_s"] / 60), x.at(minute["end_s"] / 60)
    return Mark(box(begin, 0, end, SIZE), kind, tip)


def _tip(place: int, minute: _Minute) -> str:
    told = [
        f"minute {place}: p50 {milliseconds(minute['p50_ms'])}",
        f"p99 {milliseconds(minute['p99_ms'])}" if minute["p99_ms"] is not None else "",
        f"slowest {milliseconds(minute['max_ms'])}",
        *(
            f"{number(factor * minute[key], 3)} {unit}" if minute[key] is not None else ""
            for key, _, _, unit, factor in _SENSORS
        ),
        minute["verdict"],
    ]
    return ", ".join(word for word in told if word)


def _span(minutes: Sequence[_Minute], key: str, factor: float = 1.0) -> str:
    known = [factor * minute[key] for minute in minutes if minute[key] is not None]
    return f"{number(min(known))} to {number(max(known))}"


def _table(minutes: Sequence[_Minute]) -> Table:
    """List the minutes; columns of which nothing is known are left out."""
    columns: dict[Column, list[Cell]] = {
        Column("Minute", False): [_place(n, minute) for n, minute in enumerate(minutes, 1)],
        Column("queries"): [Cell(f"{m['num_samples']:,}", m["num_samples"]) for m in minutes],
        Column("p50, ms"): [Cell(number(m["p50_ms"]), m["p50_ms"]) for m in minutes],
        Column("p99, ms"): [Cell(number(m["p99_ms"]), m["p99_ms"]) for m in minutes],
        Column("slowest, ms"): [Cell(number(m["max_ms"]), m["max_ms"]) for m in minutes],
        Column("queries/s"): [
            Cell(number(m["throughput_qps"]), m["throughput_qps"]) for m in minutes
        ],
    }
    for key, _, _, unit, factor in _SENSORS:
        scaled = [None if m[key] is None else factor * m[key] for m in minutes]
        columns[Column(unit)] = [Cell(number(value, 3), value) for value in scaled]
    columns[Column("clocks", False)] = [Cell(minute["verdict"]) for minute in minutes]
    return known_columns("minutes", "Minutes", columns)


def _place(place: int, minute: _Minute) -> Cell:
    if _is_full(minute):
        return Cell(f"{place}", place)
    return Cell(f"{place}: {number(minute['end_s'] - minute['start_s'], 3)} s of it", place)


def _is_full(minute: _Minute) -> bool:
    return bool(minute["end_s"] - minute["start_s"] >= FULL_S)
