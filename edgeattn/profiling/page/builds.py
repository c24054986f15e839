"""Repeated builds on the page: how much the latency depends on which build one happens to get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeattn.profiling.page.plot import SIZE, Axis, Key, Label, Mark, Plot, Tick, dots
from edgeattn.profiling.page.tables import Cell, Column, Table, known_columns
from edgeattn.profiling.page.words import NOTHING, milliseconds, number, scaled

_Row = Mapping[str, Any]

_NAMES = {"present": "the one that was there", "again": "the same, loaded again"}
# Where the engine that was there lies, and how far from that the same one once more.
_BEFORE, _BESIDE = -0.4, 0.2
_MOST_NAMES = 12
_SHOWN_HASH = 8


def builds_values(builds: Mapping[str, Any]) -> dict[str, Any]:
    """Make what the template shows of repeated builds.

    Args:
        builds: `RepeatedBuilds.to_dict()`.
    """
    return {
        "sentences": builds["sentences"],
        "mode": builds["mode"],
        "plot": _plot(builds["rows"]),
        "table": _table(builds["rows"]),
        "differences": _differences(builds["rows"]),
    }


@dataclass(frozen=True)
class _Builds(Axis):
    """An axis with a place for each build, and one to the left for the engine that was there."""

    @classmethod
    def of(cls, count: int) -> _Builds:
        """Make the axis of so many builds."""
        return cls("build", -1.0, count + 1.0)

    def ticks(self) -> list[Tick]:
        """Name the builds, or so many of them as have room."""
        count = round(self.high - 1)
        every = -(-count // _MOST_NAMES)
        numbers = range(every, count + 1, every)
        return [Tick(self.at(_BEFORE), "before"), *(Tick(self.at(n), f"{n}") for n in numbers)]


def _plot(rows: Sequence[_Row]) -> Plot:
    """Draw each build's median with the bounds that it has with 95 % confidence."""
    intervals = [row["latency"]["p50_interval_ms"] for row in rows]
    medians = [row["latency"]["p50_ms"] for row in rows]
    x = _Builds.of(rows[-1]["number"])
    bounds = (bound for interval in intervals if interval for bound in interval)
    y = Axis.around("median latency, ms", [*medians, *bounds], 0.12)
    level = SIZE - y.at(medians[0])
    marks = [Mark(f"M0 {level:.1f}H{SIZE}", "rule", f"{_name(rows[0])}: {_median(rows[0])}")]
    labels = []
    for row, median, interval in zip(rows, medians, intervals, strict=True):
        beside = _BESIDE * (row["role"] == "again")
        kind, across = "c2" if row["kept"] else "c1", x.at(row["number"] or _BEFORE + beside)
        tip = f"{_name(row)}: {_median(row)}"
        if interval:
            low, high = (SIZE - y.at(bound) for bound in interval)
            marks.append(Mark(f"M{across:.1f} {low:.1f}V{high:.1f}", f"interval {kind}", tip))
        marks.append(Mark(dots([(across, SIZE - y.at(median))]), f"point size2 {kind}", tip))
        if row["kept"]:
            top = SIZE - y.at(interval[1] if interval else median)
            labels.append(Label(across, top, "kept", "over-label"))
    return Plot(
        "builds-medians",
        "Medians, measured side by side",
        x,
        y,
        marks,
        labels,
        [Key("c2", "kept"), Key("c1", "the others")],
        "Bars: where the median lies with 95 % confidence. Dashed: the engine that was there, "
        "which was loaded twice.",
        f"Medians of {len(rows)} engines, {milliseconds(min(medians))} to "
        f"{milliseconds(max(medians))}",
    )


def _table(rows: Sequence[_Row]) -> Table:
    """List the builds; columns of which nothing is known are left out."""
    stats = [row["latency"] for row in rows]
    columns: dict[Column, list[Cell]] = {
        Column("Build", False): [Cell(_name(row)) for row in rows],
        Column("median, ms"): [Cell(number(each["p50_ms"]), each["p50_ms"]) for each in stats],
        Column("95 %", False): [Cell(_bounds(each["p50_interval_ms"])) for each in stats],
        Column("ratio"): [Cell(f"{row['ratio']:.4f}", row["ratio"]) for row in rows],
        Column("ratio, 95 %", False): [
            Cell("{:.4f} to {:.4f}".format(*row["ratio_interval"]) if row["ratio_interval"] else "")
            for row in rows
        ],
        Column("CV, %"): [Cell(f"{each['cv_percent']:.1f}", each["cv_percent"]) for each in stats],
        Column("layers"): [_amount(row["layers"]) for row in rows],
        Column("of them other"): [_amount(row["differing"]) for row in rows],
        Column("built in, s"): [
            Cell(number(row["build_seconds"], 3), row["build_seconds"]) for row in rows
        ],
        Column("size"): [Cell(scaled(row["bytes"], "B"), row["bytes"]) for row in rows],
        Column("sha256", False): [Cell(f"{row['sha256'][:_SHOWN_HASH]}…") for row in rows],
    }
    return known_columns("build-rows", "Builds", columns)


def _differences(rows: Sequence[_Row]) -> Table | None:
    """List where the inspector shows other layers or tactics; nothing if nowhere."""
    cells = [
        [
            Cell(_name(row)),
            Cell(each["layer"]),
            Cell(each["present"] or NOTHING),
            Cell(each["build"] or NOTHING),
        ]
        for row in rows
        for each in row["differences"]
    ]
    columns = [
        Column(text, is_number=False, is_long=bool(place))
        for place, text in enumerate(("Build", "layer", "tactic before", "tactic now"))
    ]
    if not cells:
        return None
    return Table("build-differences", "Other layers and tactics", columns, cells, searchable=True)


def _name(row: _Row) -> str:
    name = _NAMES.get(row["role"], f"build {row['number']}")
    return f"{name}, kept" if row["kept"] else name


def _median(row: _Row) -> str:
    interval = row["latency"]["p50_interval_ms"]
    told = f", {_bounds(interval)} ms with 95 % confidence" if interval else ""
    return f"median {milliseconds(row['latency']['p50_ms'])}{told}"


def _bounds(interval: Sequence[float] | None) -> str:
    return f"{number(interval[0])} to {number(interval[1])}" if interval else ""


def _amount(value: int | None) -> Cell:
    return Cell(NOTHING if value is None else f"{value:,}", value)
