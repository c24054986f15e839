"""Which rows of a sweep no other row beats: in accuracy, latency, energy and size at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

# Smaller is better; of accuracies the negative is taken.
_COSTS = ("p50_ms", "engine_bytes")


def pareto_front(rows: Iterable[Row]) -> set[str]:
    """Find the rows that no other one beats.

    Rows compete with those of the same board, batch size and resolution. Accuracy is top-1 where
    every competitor has labels, and they are the same; else it is the signal to noise ratio against
    the model's own FP32 graph, and each model competes with itself alone. Energy counts where every
    competitor has it.

    Args:
        rows: As a sweep wrote them; failed ones are on no front.

    Returns:
        The ids of their cases.
    """
    competitions: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["status"] == "ok":
            asked = row["parameters"]
            data = row["parents"].get("accuracy") if _has_labels(row) else None
            rivals = (data,) if data else ("model", asked["model"])
            sizes = (asked["board"], asked["batch_size"], asked["resolution"])
            competitions[sizes + rivals].append(row)
    return {row["case"] for group in competitions.values() for row in _unbeaten(group)}


def _unbeaten(rows: Sequence[Row]) -> list[Row]:
    has_energy = all(row["figures"].get("energy_mj") is not None for row in rows)
    names = (*_COSTS, "energy_mj") if has_energy else _COSTS
    costs = [(-_accuracy(row), *(row["figures"][name] for name in names)) for row in rows]
    return [
        row for row, own in zip(rows, costs, strict=True) if not any(_beats(c, own) for c in costs)
    ]


def _beats(a: Sequence[float], b: Sequence[float]) -> bool:
    """Tell whether A is nowhere worse than B, and somewhere better."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _has_labels(row: Row) -> bool:
    return row["figures"].get("top1_b") is not None


def _accuracy(row: Row) -> float:
    figures = row["figures"]
    if _has_labels(row):
        return float(figures["top1_b"])
    if figures["sqnr_db"] is None:  # infinite, which JSON lacks: not an error at all
        return math.inf if figures["max_abs_error"] == 0 else -math.inf
    return float(figures["sqnr_db"])
