"""Which rows of a sweep no other row beats: in accuracy, latency, energy and size at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Row = Mapping[str, Any]
Accuracy = Literal["top1_b", "sqnr_db"]

# Smaller is better; of accuracies the negative is taken.
_COSTS = ("p50_ms", "engine_bytes")
# What of a measurement two latencies must share to be compared: the rest makes them surer only.
_MEASURED = (("mode", ""), ("streams", 1), ("lock_clocks", False))


@dataclass(frozen=True)
class Competition:
    """Rows that can be compared with one another.

    Attributes:
        rows: Those that have figures.
        board: What they ran on: the board that was asked for, else the machine.
        power_mode: Under which power mode, where it has such.
        model: Whose rows these are; empty if several models compete.
        accuracy: The figure that tells their accuracy: top-1 where they have the same labels, else
            the signal to noise ratio against the model's own FP32 graph.
    """

    rows: tuple[Row, ...]
    board: str
    power_mode: str
    model: str
    accuracy: Accuracy

    @property
    def batch_size(self) -> int:
        """Their batch size; 0 for the models' own."""
        return int(self.rows[0]["parameters"]["batch_size"])

    @property
    def resolution(self) -> str:
        """Their resolution; empty for the models' own."""
        return str(self.rows[0]["parameters"]["resolution"])

    @property
    def measure(self) -> Mapping[str, Any]:
        """What was asked of the measurement."""
        asked: Mapping[str, Any] = self.rows[0]["parameters"]["measure"]
        return asked

    @cached_property
    def contenders(self) -> tuple[Row, ...]:
        """The rows that compete: a clock that was held down makes a latency that is no one's."""
        return tuple(row for row in self.rows if not is_throttled(row))

    @cached_property
    def counts_energy(self) -> bool:
        """Tell whether all that compete have the energy of a query, measured in the same way."""
        rows = self.contenders
        ways = {(row.get("power_rail"), row["figures"].get("idle_mw") is None) for row in rows}
        return len(ways) == 1 and all(row["figures"].get("energy_mj") is not None for row in rows)

    @cached_property
    def front(self) -> frozenset[str]:
        """The cases that no other one beats."""
        names = (*_COSTS, "energy_mj") if self.counts_energy else _COSTS
        costs = [
            (-accuracy_of(row, self.accuracy), *(row["figures"][name] for name in names))
            for row in self.contenders
        ]
        return frozenset(
            row["case"]
            for row, own in zip(self.contenders, costs, strict=True)
            if not any(beats(cost, own) for cost in costs)
        )


def competitions(rows: Iterable[Row]) -> list[Competition]:
    """Sort rows by what they compete with.

    Rows compete with those of the same board, power mode, batch size, resolution, way to measure
    and samples. Accuracy is top-1 where these have labels; else it is the signal to noise ratio
    against the model's own FP32 graph, and each model competes with itself alone.

    Args:
        rows: As a sweep wrote them; failed ones do not compete.

    Returns:
        In the order of their first rows.
    """
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["status"] == "ok":
            asked = row["parameters"]
            has_labels = row["figures"].get("top1_b") is not None
            model, accuracy = ("", "top1_b") if has_labels else (asked["model"], "sqnr_db")
            named = (board_of(row), row.get("power_mode") or "", model, accuracy)
            measured = tuple(asked["measure"].get(name, default) for name, default in _MEASURED)
            fed = (asked["batch_size"], asked["resolution"], row["parents"].get("accuracy"))
            groups[named, measured, fed].append(row)
    return [Competition(tuple(group), *key[0]) for key, group in groups.items()]


def pareto_front(rows: Iterable[Row]) -> set[str]:
    """Find the rows that no other one beats.

    Each competes with those of its competition. Energy counts where every competitor has it. Rows
    that were throttled, and failed ones, are on no front and beat nobody.

    Args:
        rows: As a sweep wrote them.

    Returns:
        The ids of their cases.
    """
    return {case for group in competitions(rows) for case in group.front}


def beats(a: Sequence[float], b: Sequence[float]) -> bool:
    """Tell whether costs A are nowhere above costs B, and somewhere below."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def accuracy_of(row: Row, figure: Accuracy) -> float:
    """Give the accuracy of a row; minus infinity where its outputs are no numbers."""
    value = row["figures"][figure]
    if value is None:  # infinite or no number, which JSON lacks
        return math.inf if has_no_error(row) else -math.inf
    return float(value)


def has_no_error(row: Row) -> bool:
    """Tell whether outputs equal those of the model's FP32 graph: their ratio to noise is infinite.

    Args:
        row: Of a sweep; a failed one has no outputs.
    """
    return row["figures"].get("max_abs_error") == 0


def board_of(row: Row) -> str:
    """Name what a row was measured on: the board that was asked for, else the machine."""
    machine = row["environment"]
    return str(row["parameters"]["board"] or machine["machine"] or machine["cpu_model"])


def is_throttled(row: Row) -> bool:
    """Tell whether the clocks were held down while a row was measured."""
    return row.get("verdict") == "throttled"
