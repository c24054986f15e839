"""The tables of a sweep's page: the front of each competition, and all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeattn.profiling.page.tables import Cell, Column, Table, known_columns
from edgeattn.profiling.page.words import number, scaled
from edgeattn.sweep.page.words import accuracy_words, case_name, standing
from edgeattn.sweep.pareto import Competition, Row, has_no_error

# Figures of a row by the head of their column, with the digits that are shown.
_NUMBERS = {
    "top-1, %": ("top1_b", 4),
    "lost, %": ("top1_drop", 3),
    "SQNR, dB": ("sqnr_db", 3),
    "p50, ms": ("p50_ms", 4),
    "p99, ms": ("p99_ms", 4),
    "queries/s": ("throughput_qps", 4),
    "mJ": ("energy_mj", 3),
    "MHz": ("clock_mhz", 4),
    "°C": ("temperature_c", 3),
    "drift, %": ("drift_percent", 2),
}
# What an infinite figure is sorted by.
_LARGEST = 1e99
_TEXTS = {"clocks": "verdict", "power mode": "power_mode"}


def front_table(group: Competition, name: str) -> Table | None:
    """List the cases on the front of a competition, the fastest first; nothing if there are none.

    Args:
        group: What competes.
        name: Of the table's element in the page.
    """
    rows = [row for row in group.contenders if row["case"] in group.front]
    rows.sort(key=lambda row: row["figures"]["p50_ms"])
    columns = {
        Column("On the front", False): [
            Cell(case_name(r, group.rows), title=r["label"]) for r in rows
        ],
        Column("accuracy", False): [Cell(accuracy_words(row)) for row in rows],
        Column("p50, ms"): [_number(row, "p50_ms", 4) for row in rows],
        Column("mJ"): [_number(row, "energy_mj", 3) for row in rows],
        Column("engine"): [_size(row) for row in rows],
    }
    return replace(known_columns(name, "Front", columns), searchable=False) if rows else None


def row_table(
    rows: Sequence[Row],
    groups: Mapping[str, Competition],
    attributes: Sequence[Mapping[str, str]],
) -> Table:
    """List all rows, with what is known of each; columns of which nothing is known are left out.

    Args:
        rows: Of a sweep, failed ones too.
        groups: What each that did not fail competes in, by its case.
        attributes: Of each row's element.
    """
    standings = [
        standing(row, groups[row["case"]]) if row["case"] in groups else "failed" for row in rows
    ]
    columns = {
        Column("Case", False): [Cell(row["label"], title=row["case"]) for row in rows],
        Column("standing", False): [Cell(text) for text in standings],
        **{
            Column(head): [_number(row, figure, digits) for row in rows]
            for head, (figure, digits) in _NUMBERS.items()
        },
        Column("engine"): [_size(row) for row in rows],
        **{
            Column(head, False): [Cell(row.get(key) or "") for row in rows]
            for head, key in _TEXTS.items()
        },
        Column("remarks", False, is_long=True): [Cell(_remarks(row)) for row in rows],
    }
    return replace(known_columns("cases", "Cases", columns), attributes=attributes)


def _number(row: Row, figure: str, digits: int) -> Cell:
    value = row["figures"].get(figure)
    if figure == "sqnr_db" and has_no_error(row):
        return Cell("∞", _LARGEST)
    return Cell(number(value, digits), value)


def _size(row: Row) -> Cell:
    size = row["figures"].get("engine_bytes")
    return Cell(scaled(size, "B"), size)


def _remarks(row: Row) -> str:
    """Say why a case failed, or what its report warns of."""
    if error := row["error"]:
        hint = f" ({error['hint']})" if error["hint"] else ""
        return f"{error['step']}: {error['message']}{hint}"
    reasons = row.get("verdict_reasons", []) if row.get("verdict") == "throttled" else []
    return "; ".join([*reasons, *row["warnings"]])
