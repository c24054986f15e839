"""The cases of a sweep in words."""

from __future__ import annotations

from collections.abc import Sequence

from edgeattn.profiling.page.words import milliseconds, number, scaled
from edgeattn.sweep.pareto import Competition, Row, has_no_error, is_throttled

_NAMED_BY = ("model", "precision", "engine", "options")


def case_name(row: Row, rows: Sequence[Row]) -> str:
    """Name a row by what tells it from its competitors.

    Args:
        row: One of them.
        rows: All of them.
    """
    told = [n for n in _NAMED_BY if len({each["parameters"][n] for each in rows}) > 1]
    words = [row["parameters"][name] for name in told or ("precision",)]
    return " ".join(word for word in words if word)


def case_words(row: Row, group: Competition) -> str:
    """Say what is known of a row: its label, its figures and how it stands."""
    figures = row["figures"]
    parts = [accuracy_words(row)]
    interval = figures.get("p50_interval_ms")
    sure = f" ({number(interval[0])} to {number(interval[1])})" if interval else ""
    parts.append(f"{milliseconds(figures['p50_ms'])}{sure}")
    if figures.get("energy_mj") is not None:
        parts.append(f"{number(figures['energy_mj'], 3)} mJ")
    parts.append(scaled(figures["engine_bytes"], "B"))
    return f"{row['label']}: {', '.join(parts)}; {standing(row, group)}"


def accuracy_words(row: Row) -> str:
    """Say how accurate a row is, in the figures that it has."""
    figures = row["figures"]
    top1 = figures.get("top1_b")
    if figures["sqnr_db"] is not None:
        noise = f"{number(figures['sqnr_db'], 3)} dB"
    else:
        noise = "no error" if has_no_error(row) else "outputs that are no numbers"
    return noise if top1 is None else f"{top1:.2f} % top-1, {noise}"


def standing(row: Row, group: Competition) -> str:
    """Say how a row stands among its competitors."""
    if is_throttled(row):
        return "throttled"
    return "on the front" if row["case"] in group.front else "beaten"
