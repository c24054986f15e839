"""What a sweep's page says in words: its headline figures, its warnings, what was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeattn.profiling.page.facts import Figure
from edgeattn.profiling.page.words import count, number, scaled
from edgeattn.sweep.pareto import Competition, Row, board_of, is_throttled

_BETWEEN = ("accuracy", "latency", "engine size")


def headline(rows: Sequence[Row], groups: Sequence[Competition]) -> list[Figure]:
    """Choose the figures that a reader looks for first."""
    failed = sum(row["status"] != "ok" for row in rows)
    front = sum(len(group.front) for group in groups)
    figures = [
        Figure("Cases", f"{len(rows):,}", "", f"{failed} failed" if failed else "none failed"),
        Figure("On a front", f"{front:,}", "", f"of {count(len(groups), 'competition')}"),
    ]
    contenders = [row for group in groups for row in group.contenders]
    for name, figure, unit, digits in (
        ("Fastest", "p50_ms", "ms", 4),
        ("Least energy", "energy_mj", "mJ", 3),
    ):
        known = [row for row in contenders if row["figures"].get(figure) is not None]
        if known:
            best = min(known, key=lambda row: row["figures"][figure])
            value = number(best["figures"][figure], digits)
            figures.append(Figure(name, value, unit, best["label"]))
    if contenders:
        best = min(contenders, key=lambda row: row["figures"]["engine_bytes"])
        value, unit = scaled(best["figures"]["engine_bytes"], "B").split(" ")
        figures.append(Figure("Smallest engine", value, unit, best["label"]))
    return figures


def warnings(rows: Sequence[Row]) -> list[str]:
    """Say what a reader must know before believing the fronts."""
    measured = [row for row in rows if row["status"] == "ok"]
    found = {
        "failed; the table tells why": len(rows) - len(measured),
        "throttled: on no front, and beating nobody; --retry-throttled measures again": sum(
            map(is_throttled, measured)
        ),
        "measured while clocks moved by themselves or could not be seen": sum(
            row.get("verdict") == "unknown" for row in measured
        ),
        "compared with FP32 on random samples": sum(row["samples"] == "random" for row in measured),
    }
    whole = count(len(rows), "case")
    return [f"{amount} of {whole} {what}" for what, amount in found.items() if amount]


def title_of(group: Competition, groups: Sequence[Competition]) -> str:
    """Name a competition by its board and by what tells it from the others.

    Args:
        group: The competition.
        groups: All of them.
    """
    batch = f"batch {group.batch_size}" if group.batch_size else ""
    words = [group.board, group.power_mode, group.model, batch, group.resolution]
    if len({_asked(other.measure) for other in groups}) > 1:
        words.append(_asked(group.measure))
    return " · ".join(word for word in words if word)


def summary_of(group: Competition) -> str:
    """Say how many cases of a competition are on its front, and in what they compete."""
    if not group.contenders:
        return "Every case was throttled: there is no front."
    names = [*_BETWEEN, "energy"] if group.counts_energy else _BETWEEN
    throttled = len(group.rows) - len(group.contenders)
    left = f" {count(throttled, 'throttled case')} left out." if throttled else ""
    return (
        f"{len(group.front)} of {count(len(group.contenders), 'case')} not beaten in "
        f"{', '.join(names[:-1])} and {names[-1]} at once.{left}"
    )


def measurements(rows: Sequence[Row]) -> dict[str, str]:
    """Say how cases were measured."""
    modes = dict.fromkeys(row["mode"] for row in rows if row["status"] == "ok")
    asked = dict.fromkeys(_asked(row["parameters"]["measure"]) for row in rows)
    locked = dict.fromkeys(what for row in rows for what in row.get("locked_clocks", ()))
    facts = {
        "Mode": "; ".join(modes),
        "Asked for": "; ".join(text for text in asked if text) or "the defaults",
        "Locked": "; ".join(locked),
    }
    return {name: text for name, text in facts.items() if text}


def machines(rows: Sequence[Row]) -> dict[str, str]:
    """Say what each board or machine is."""
    told = {}
    for row in rows:
        if row["status"] == "ok":
            machine = row["environment"]
            tools = ", ".join(f"{n} {v}" for n, v in machine["tools"].items() if n != "numpy")
            told[board_of(row)] = (
                f"{machine['cpu_model']}, {count(machine['usable_cores'], 'core')}; "
                f"{machine['operating_system']}, kernel {machine['kernel']}; {tools}"
            )
    return told


def _asked(measure: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in measure.items())
