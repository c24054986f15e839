"""Conditions on which a comparison fails: one name, one bound, no code.

sqnr_db < 30      a figure of the candidate, as it is
p99 > +5%         a latency of the candidate, relative to the reference's
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeattn.engine.base import near_misses
from edgeattn.errors import SpecError

_OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
# The sign of a relative bound is required: `p99 > 5%` could mean 5 % of the reference.
_PATTERN = re.compile(
    r"\s*(?P<name>[a-z][\w.]*)\s*(?P<sign><=|>=|==|!=|<|>)\s*"
    r"(?:(?P<change>[-+][\d.]+(?:e[-+]?\d+)?)\s*%|(?P<bound>[-+]?[\d.]+(?:e[-+]?\d+)?))\s*"
)

# What a relative condition may name, and the percentile that it is.
RELATIVE = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9}


@dataclass(frozen=True)
class Condition:
    """A bound on one figure.

    Attributes:
        name: The figure; of `RELATIVE` if the bound is.
        sign: One of `<`, `<=`, `>`, `>=`, `==`, `!=`; the first four if the bound is relative.
        bound: The number that the figure is compared with; if relative, the percent by which it
            differs from the reference's.
        is_relative: Whether it is.
    """

    name: str
    sign: str
    bound: float
    is_relative: bool = False

    @classmethod
    def parse(cls, text: str, names: Iterable[str]) -> Condition:
        """Read `NAME OP NUMBER`, or `NAME OP ±PERCENT%`.

        Args:
            text: The condition.
            names: Figures that there are.

        Raises:
            SpecError: If it has another form or names another figure.
        """
        match = _PATTERN.fullmatch(text)
        try:
            bound = float(match["change"] or match["bound"]) if match else math.nan
        except ValueError:
            bound = math.nan
        if match is None or math.isnan(bound):
            raise SpecError(
                f"the condition {text!r} is not of the form NAME OP NUMBER, nor NAME OP ±PERCENT%",
                "write for example 'sqnr_db < 30' or 'p99 > +5%'",
            )
        if match["change"]:
            return cls._relative(text, match["name"], match["sign"], bound)
        names = list(names)
        if match["name"] not in names:
            raise SpecError(
                f"the condition {text!r} names no figure: there is no {match['name']}",
                near_misses(match["name"], names),
            )
        return cls(match["name"], match["sign"], bound)

    @classmethod
    def _relative(cls, text: str, name: str, sign: str, bound: float) -> Condition:
        percentile = name.removesuffix("_ms").replace(".", "_")
        if percentile not in RELATIVE:
            raise SpecError(
                f"the condition {text!r} is relative to the reference, and {name} is no "
                "percentile of the latency",
                f"name one of {', '.join(RELATIVE)}, or write a number without %",
            )
        if sign in ("==", "!="):
            raise SpecError(
                f"the condition {text!r} asks whether two measured times have one exact ratio; "
                "none has",
                "write < <= > or >=",
            )
        return cls(percentile, sign, bound, is_relative=True)

    @property
    def limit(self) -> float:
        """The bound as a ratio to the reference: 1.05 for +5 %."""
        return 1 + self.bound / 100

    def holds(self, figures: Mapping[str, float | None]) -> bool:
        """Tell whether a condition on a figure as it is, is true.

        Raises:
            SpecError: If this comparison does not have the figure: a gate that cannot be judged
                must not pass.
        """
        value = figures[self.name]
        if value is None:
            raise SpecError(
                f"the condition {self} cannot be judged: this comparison has no {self.name}",
                "top-1 needs labels or class outputs, centred SQNR two samples, p99 100 queries; "
                "accuracy two engines, energy a report that has it",
            )
        return self.compare(value)

    def compare(self, value: float) -> bool:
        """Hold a value against the bound; if that is relative, a ratio against its limit."""
        return bool(_OPERATORS[self.sign](value, self.limit if self.is_relative else self.bound))

    def __str__(self) -> str:
        bound = f"{self.bound:+g}%" if self.is_relative else f"{self.bound:g}"
        return f"{self.name} {self.sign} {bound}"
