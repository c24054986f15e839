"""The tables of the page: cells with what is shown and what they are sorted by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeattn.profiling.page.words import (
    NOTHING,
    number,
    percent,
    percentile_name,
    scaled,
)

_PARTS = {
    "latency": "Latency",
    "h2d": "Host to device",
    "compute": "Compute",
    "d2h": "Device to host",
    "enqueue": "Enqueue (host)",
    "end_to_end": "End to end (host)",
}


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: What it shows.
        key: What its column is sorted by; empty for the text.
        prefix: Words before the text that matter less: the modules around a module.
        bar: Length of a bar behind the text, 0 to 1.
        title: All of what the text shortens.
    """

    text: str
    key: float | None = None
    prefix: str = ""
    bar: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Column:
    """The head of a column, whether it holds numbers, and whether it holds sentences."""

    text: str
    is_number: bool = True
    is_long: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: Of its element in the page.
        caption: What it lists.
        columns: Heads of the columns.
        rows: The cells.
        searchable: Whether a field above it filters its rows.
        attributes: Attributes of each row's element, by name; of none if empty.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    searchable: bool = False
    attributes: Sequence[Mapping[str, str]] = ()


def statistics_table(report: Mapping[str, Any]) -> Table:
    """List the statistics of the latency and its parts, in milliseconds."""
    latency = report["latency"]
    percentiles = sorted(
        (key for key in latency if key[0] == "p" and key[1].isdigit() and "interval" not in key),
        key=lambda key: float(percentile_name(key)[1:]),
    )
    keys = ["min_ms", *percentiles, "max_ms", "mean_ms", "std_ms"]
    copies = report["h2d"]["max_ms"] or report["d2h"]["max_ms"]
    wanted = _PARTS if copies else ("latency", "end_to_end")
    shown = {part: _PARTS[part] for part in wanted if report.get(part)}
    if report.get("end_to_end") == latency:  # an engine without a device: one and the same
        del shown["end_to_end"]
    heads = ["ms", *(percentile_name(key) for key in keys), "CV, %"]
    rows = [
        [Cell(text), *(_number(report[part][key]) for key in keys), _cv(report[part])]
        for part, text in shown.items()
    ]
    columns = [Column(head, is_number=bool(i)) for i, head in enumerate(heads)]
    return Table("statistics", "Statistics", columns, rows)


def module_table(layers: Mapping[str, Any]) -> Table:
    """List the modules, each with all that is in it, in the order in which they run."""
    rows = [
        [
            Cell(words[-1], prefix="".join(f"{word} / " for word in words[:-1])),
            Cell(number(module["ms"]), module["ms"]),
            Cell(percent(module["share"]), module["share"], bar=module["share"]),
            Cell(f"{module['layers']:,}", module["layers"]),
        ]
        for module in _flat(layers["modules"])
        for words in [module["label"].split(" / ")]
    ]
    columns = (Column("Module", False), Column("ms"), Column("share"), Column("layers"))
    return Table("modules", "Modules", columns, rows, searchable=True)


def layer_table(layers: Mapping[str, Any]) -> Table:
    """List the layers with what they reach; columns of which nothing is known are left out."""
    rows = layers["rows"]
    longest = max((row["share"] for row in rows), default=0) or 1
    columns: dict[Column, list[Cell]] = {
        Column("Layer", False): [Cell(r["name"], title=", ".join(r["nodes"])) for r in rows],
        Column("Kind", False): [Cell(row["kind"]) for row in rows],
        Column("Module", False): [Cell(" / ".join(row["module"])) for row in rows],
        Column("median ms"): [Cell(number(r["median_ms"]), r["median_ms"]) for r in rows],
        Column("share"): [
            Cell(percent(r["share"]), r["share"], bar=r["share"] / longest) for r in rows
        ],
        Column("type", False): [Cell(row["precision"]) for row in rows],
        Column("moved"): [Cell(scaled(r["bytes"], "B"), r["bytes"]) for r in rows],
        Column("computed"): [Cell(scaled(r["flops"], "FLOP"), r["flops"]) for r in rows],
        Column("GB/s"): [Cell(number(r["gb_s"], 3), r["gb_s"]) for r in rows],
        Column("GFLOP/s"): [Cell(number(r["gflop_s"], 3), r["gflop_s"]) for r in rows],
        Column("of the ceiling"): [
            Cell(percent(r["ceiling_share"]), r["ceiling_share"], bar=r["ceiling_share"])
            for r in rows
        ],
        Column("bound by", False): [Cell(row["bound"]) for row in rows],
    }
    return known_columns("layers", "Layers", columns)


def known_columns(name: str, caption: str, columns: Mapping[Column, Sequence[Cell]]) -> Table:
    """Make a searchable table of those columns of which something is known."""
    known = {
        column: cells
        for column, cells in columns.items()
        if any(cell.text not in ("", NOTHING) for cell in cells)
    }
    rows = list(zip(*known.values(), strict=True))
    return Table(name, caption, tuple(known), rows, searchable=True)


def changed_table(precision: Mapping[str, Any]) -> Table | None:
    """List the products that are not computed as the graph asks; nothing if all are."""
    rows = [
        [
            Cell(each["node"]),
            Cell(each["asked"]),
            Cell(each["got"]),
            Cell(", ".join(each["layers"]) or NOTHING),
        ]
        for each in (*precision["changed"], *precision["unproven"])
    ]
    columns = [Column(text, False) for text in ("Product", "asked", "got", "in layer")]
    return Table("changed", "Not as asked, or not shown", columns, rows) if rows else None


def _flat(modules: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for module in modules:
        yield module
        yield from _flat(module["children"])


def _number(value: float | None) -> Cell:
    return Cell(number(value), value)


def _cv(stats: Mapping[str, Any]) -> Cell:
    return Cell(f"{stats['cv_percent']:.1f}", stats["cv_percent"])
