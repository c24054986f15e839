"""What a quantized graph must reach: the goal of the accuracy gate, and the options that set it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from edgeattn.calibration.sensitivity import Figures
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import SpecError, TableError


@dataclass(frozen=True)
class Goal:
    """What a quantized graph must reach; exactly one of the two.

    Attributes:
        min_sqnr: Least output SQNR, in dB.
        max_drop: Most percentage points of top-1 to lose against the float graph.

    Raises:
        SpecError: If none or both are given, or one is out of range.
    """

    min_sqnr: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if (self.min_sqnr is None) == (self.max_drop is None):
            raise SpecError("a goal is either min_sqnr or max_drop", "give one of them")
        value = self.min_sqnr if self.max_drop is None else self.max_drop
        if value is None or not math.isfinite(value) or (self.max_drop or 0) < 0:
            raise SpecError(
                f"the goal is {self}; expected a finite number, and of points no negative one",
                "give min_sqnr in dB, such as 30, or max_drop in points, such as 0.3",
            )

    @property
    def name(self) -> str:
        """The option that sets it."""
        return "min_sqnr" if self.max_drop is None else "max_drop"

    def __str__(self) -> str:
        """Spell the goal as the command line does."""
        if self.max_drop is None:
            return f"min_sqnr {self.min_sqnr:g} dB"
        return f"max_drop {self.max_drop:g} points"

    def excess(self, figures: Figures, of_float: Figures) -> float:
        """Say by how much the goal is surpassed; negative if it is missed."""
        if self.min_sqnr is not None:
            return figures.sqnr_db - self.min_sqnr
        assert self.max_drop is not None
        return self.max_drop - top1_drop(figures, of_float)


def read_goal(
    min_sqnr: float | None,
    max_drop: float | None,
    *,
    precision: str,
    data: Any,
    labels: Any,
    samples: int | None,
) -> Goal | None:
    """Read the gate's options; `None` if no goal is set.

    Raises:
        SpecError: If an option has no use, lacks another, or is out of range.
    """
    if min_sqnr is None and max_drop is None:
        for name, value in (("labels", labels), ("samples", samples)):
            if value is not None:
                raise SpecError(f"{name} serve min_sqnr and max_drop only", "give one of them")
        return None
    goal = Goal(min_sqnr, max_drop)
    if not precision.startswith("int8"):
        raise SpecError(
            f"{goal.name} keeps layers out of INT8; the precision is {precision}", "leave it out"
        )
    if data is None:
        raise SpecError(
            f"{goal.name} is judged on real inputs, and there are none",
            "give data that the graph was not calibrated with",
        )
    return goal


def warn_of_random(table: CalibTable, goal: Goal | None) -> None:
    """Warn of a table made of random data; no goal may rest on one.

    Raises:
        TableError: If a goal is set.
    """
    if not table.manifest.options.get("random"):
        return
    if goal is not None:
        raise TableError(
            f"the table was made of random data, so that {goal.name} cannot be vouched for",
            "calibrate on real data",
        )
    logging.getLogger(__name__).warning(
        "the table was made of random data: accuracy is unknown and likely low"
    )


def top1_drop(figures: Figures, of_float: Figures) -> float:
    """Percentage points of top-1 lost; both have labels."""
    assert figures.top1 is not None
    assert of_float.top1 is not None
    return of_float.top1 - figures.top1
