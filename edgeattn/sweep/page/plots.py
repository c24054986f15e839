"""The plots of a sweep: accuracy over what it costs, with the front of each competition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeattn.calibration.quantize import PRECISIONS
from edgeattn.profiling.page.plot import SIZE, Axis, Key, Label, Mark, Plot, Point, dots, line
from edgeattn.sweep.page.words import case_name, case_words
from edgeattn.sweep.pareto import Accuracy, Competition, Row, accuracy_of, is_throttled
from edgeattn.sweep.spec import FLOAT

_COLOURS = {precision: f"c{i}" for i, precision in enumerate((FLOAT, *PRECISIONS), start=1)}
_ACCURACY = {"top1_b": "top-1, %", "sqnr_db": "signal to noise ratio against FP32, dB"}
# Of the normal distribution: 95 % of it lie within so many standard deviations.
_WITHIN_95 = 1.96
# Costs that span more than this share no linear axis; the air at the ends of their logarithmic one.
_WIDE, _AIR = 20, 1.6
_LEAST_POINTS = 1.0
_ABOVE_ALL = 100.3  # a dot at 100 % is whole
# Size of a letter of a label, of its line and of a dot, in thousandths of the area.
_LETTER, _LINE, _DOT = 9, 50, 10


@dataclass(frozen=True)
class _Cost:
    """What a plot has on its horizontal axis."""

    name: str
    figure: str
    label: str
    title: str
    unit: float = 1.0

    def of(self, row: Row) -> float | None:
        """Give what a row costs."""
        value = row["figures"].get(self.figure)
        return None if value is None else float(value) / self.unit

    def interval(self, row: Row) -> tuple[float, float] | None:
        """Give where that lies with 95 % confidence, if it was measured how sure it is."""
        figures = row["figures"]
        if self.name == "latency" and (known := figures.get("p50_interval_ms")):
            return known[0], known[1]
        if self.name == "energy" and (error := figures.get("energy_std_error_mj")) is not None:
            reach = _WITHIN_95 * error
            return figures["energy_mj"] - reach, figures["energy_mj"] + reach
        return None


_LATENCY = _Cost("latency", "p50_ms", "median latency, ms", "Accuracy over latency")
_ENERGY = _Cost("energy", "energy_mj", "energy per query, mJ", "Accuracy over energy")
_BYTES = _Cost("size", "engine_bytes", "engine, MB", "Accuracy over size", 1e6)


def front_plots(group: Competition, name: str) -> list[Plot]:
    """Draw the rows of a competition: over latency first, then over energy, if known, and size.

    Args:
        group: What competes.
        name: What the plots' names begin with.
    """
    plots = [_plot(group, _LATENCY, name, is_main=True)]
    if any(_ENERGY.of(row) is not None for row in group.rows):
        plots.append(_plot(group, _ENERGY, name))
    return [*plots, _plot(group, _BYTES, name)]


def _plot(group: Competition, cost: _Cost, name: str, *, is_main: bool = False) -> Plot:
    costs = {row["case"]: value for row in group.rows if (value := cost.of(row)) is not None}
    rows = [row for row in group.rows if row["case"] in costs]
    intervals = [interval for row in rows if (interval := cost.interval(row))]
    x = _cost_axis(cost.label, [*costs.values(), *(end for ends in intervals for end in ends)])
    accuracies = [accuracy_of(row, group.accuracy) for row in rows]
    y = _accuracy_axis(accuracies, group.accuracy)
    places = {
        row["case"]: (x.at(costs[row["case"]]), SIZE - _height(y, accuracy))
        for row, accuracy in zip(rows, accuracies, strict=True)
    }
    contending = [row["case"] for row in group.contenders]
    steps = _staircase(places[case] for case in contending if case in places)
    marks = [Mark(line(steps), "front-line")] if steps else []
    # Those on the front last, over the others.
    for row in sorted(rows, key=lambda row: row["case"] in group.front):
        marks += _marks(row, group, cost, x, places[row["case"]], is_linked=is_main)
    kinds = dict.fromkeys(row["parameters"]["precision"] for row in rows)
    notes = {
        "Pale: beaten.": is_main and len(group.front) < len(group.contenders),
        "Hollow: throttled.": is_main and len(group.contenders) < len(group.rows),
        "Bars: 95 % confidence.": bool(intervals),
        "At the upper edge: no error at all.": math.inf in accuracies,
        "At the lower edge: outputs that are no numbers.": -math.inf in accuracies,
    }
    on_front = [row for row in rows if row["case"] in group.front]
    return Plot(
        f"{name}-{cost.name}",
        cost.title,
        x,
        y,
        marks,
        list(_labels(group, on_front, places, steps)) if is_main else [],
        [Key(_COLOURS[kind], kind) for kind in kinds] if is_main else [],
        " ".join(note for note, holds in notes.items() if holds),
        f"{cost.title}: {len(rows)} cases, {len(on_front)} of them on the front",
    )


def _marks(
    row: Row, group: Competition, cost: _Cost, x: Axis, place: Point, *, is_linked: bool
) -> Iterator[Mark]:
    """Draw a row: how sure its cost is, and a dot that leads to its line in the table."""
    colour = _COLOURS[row["parameters"]["precision"]]
    if interval := cost.interval(row):
        ends = [(x.at(min(max(end, x.low), x.high)), place[1]) for end in interval]
        yield Mark(line(ends), f"whisker {colour}")
    kind = "size3" if row["case"] in group.front else "size2 beaten"
    tip = case_words(row, group)
    link = f"case-{row['case']}" if is_linked else ""
    yield Mark(dots([place]), f"point {kind} {colour}", tip, link)
    if is_throttled(row):
        yield Mark(dots([place]), "hole")


def _labels(
    group: Competition, rows: Sequence[Row], places: Mapping[str, Point], steps: Sequence[Point]
) -> Iterator[Label]:
    """Name the rows on the front beside their dots, where neither dots nor the line are."""
    taken = {row: _box(x, y, _DOT) for row, (x, y) in places.items()}
    taken |= {f"step {i}": _box_of(*ends) for i, ends in enumerate(pairwise(steps))}
    for row in rows:
        text = case_name(row, group.rows)
        x, y = places[row["case"]]
        width = _LETTER * len(text)
        others = [box for name, box in taken.items() if name != row["case"]]
        for kind, left, top in (
            ("above before", x - width, y - _LINE),
            ("above", x, y - _LINE),
            ("", x, y),
            ("before", x - width, y),
        ):
            # Smaller by a little: a line may run along the edge.
            box = (left + 1, top + 1, left + width - 1, top + _LINE - 1)
            has_room = 0 <= left <= SIZE - width and 0 <= top <= SIZE - _LINE
            if has_room and not any(_overlap(box, other) for other in others):
                taken[f"name of {row['case']}"] = box
                yield Label(x, y, text, f"case-name {kind}".rstrip())
                break


def _box(x: float, y: float, reach: float) -> tuple[float, float, float, float]:
    return x - reach, y - reach, x + reach, y + reach


def _box_of(a: Point, b: Point) -> tuple[float, float, float, float]:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _staircase(points: Iterable[Point]) -> list[Point]:
    """Join the points that no other one beats in both directions: right at a cost, then up."""
    steps: list[Point] = []
    best = math.inf
    for x, y in sorted(points):
        if y < best:
            steps += [(x, best), (x, y)] if steps else [(x, y)]
            best = y
    return steps


def _cost_axis(label: str, values: Sequence[float]) -> Axis:
    if min(values) > 0 and max(values) > _WIDE * min(values):
        return Axis(label, min(values) / _AIR, max(values) * _AIR, "log")
    return Axis.around(label, values)


def _accuracy_axis(values: Sequence[float], accuracy: Accuracy) -> Axis:
    finite = [value for value in values if math.isfinite(value)]
    if accuracy == "top1_b":  # percent: none is above 100, and equal ones are no line in a desert
        low, high = min(finite), max(finite)
        air = max(0.12 * (high - low), _LEAST_POINTS)
        return Axis(_ACCURACY[accuracy], max(low - air, 0.0), min(high + air, _ABOVE_ALL))
    return Axis.around(_ACCURACY[accuracy], finite or [0.0], margin=0.12)


def _height(axis: Axis, value: float) -> float:
    """Find the height of an accuracy; what is infinite lies on an edge."""
    return axis.at(min(max(value, axis.low), axis.high))
