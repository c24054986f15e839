"""Conditions judged: a relative one by the interval of the ratio, not by its value alone.

Two runs of one engine differ. A gate on the bare ratio would fail by chance, the more often the
busier the machine: so it fails only where the whole interval lies beyond the limit, and passes only
where it lies within. What lies across is too close to call, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgeattn.errors import SpecError
from edgeattn.profiling.comparison.ratio import Ratio, least_queries
from edgeattn.profiling.conditions import RELATIVE, Condition

Word = Literal["failed", "passed", "too close to call"]


@dataclass(frozen=True)
class Gate:
    """A condition to fail on, judged.

    Attributes:
        condition: The condition.
        word: `failed` where it holds, `passed` where it does not, `too close to call` where the
            spread of the latencies allows both.
        found: The figure, in words.
    """

    condition: Condition
    word: Word
    found: str

    def to_dict(self) -> dict[str, Any]:
        """Turn the gate into JSON values."""
        return {"condition": str(self.condition), "verdict": self.word, "found": self.found}

    def __str__(self) -> str:
        undecided = f"{self.word}: " if self.word == "too close to call" else ""
        return f"{self.condition}: {undecided}{self.found}"


def judge(
    condition: Condition, figures: Mapping[str, float | None], ratios: Mapping[str, Ratio]
) -> Gate:
    """Judge a condition.

    Args:
        condition: The condition.
        figures: Of the comparison, for conditions on a figure as it is.
        ratios: Of the percentiles that both sides have, for relative ones.

    Raises:
        SpecError: If the comparison has no such figure.
    """
    if not condition.is_relative:
        word: Word = "failed" if condition.holds(figures) else "passed"
        return Gate(condition, word, f"it is {figures[condition.name]:g}")
    if not ratios:
        raise SpecError(
            f"the condition {condition} cannot be judged: this comparison has no latency of both "
            "sides",
            "measure latency, or leave the condition out",
        )
    if condition.name not in ratios:
        least = least_queries(RELATIVE[condition.name])
        return Gate(condition, "too close to call", f"too few queries, it takes {least}")
    ratio = ratios[condition.name]
    if ratio.interval is None:
        found = f"it is {_change(ratio.value)}; {ratio.missing}"
        return Gate(condition, "too close to call", found)
    holds = {condition.compare(bound) for bound in ratio.interval}
    word = "too close to call" if len(holds) == 2 else "failed" if holds.pop() else "passed"
    low, high = map(_change, ratio.interval)
    found = f"it is {_change(ratio.value)}, {low} to {high} with 95 % confidence"
    return Gate(condition, word, found)


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}%"
