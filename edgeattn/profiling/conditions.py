"""Conditions such as `sqnr_db < 30`, on which a comparison fails: one name, one bound, no code."""

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
_PATTERN = re.compile(
    r"\s*(?P<name>[a-z]\w*)\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<bound>[-+]?[\d.]+(?:e[-+]?\d+)?)\s*"
)


@dataclass(frozen=True)
class Condition:
    """A bound on one figure.

    Attributes:
        name: The figure.
        sign: One of `<`, `<=`, `>`, `>=`, `==`, `!=`.
        bound: The number it is compared with.
    """

    name: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str, names: Iterable[str]) -> Condition:
        """Read `NAME OP NUMBER`.

        Args:
            text: The condition.
            names: Figures that there are.

        Raises:
            SpecError: If it has another form or names another figure.
        """
        match = _PATTERN.fullmatch(text)
        try:
            bound = float(match["bound"]) if match else math.nan
        except ValueError:
            bound = math.nan
        if match is None or math.isnan(bound):
            raise SpecError(
                f"the condition {text!r} is not of the form NAME OP NUMBER",
                "write for example 'sqnr_db < 30' or 'latency_ratio > 1.05'",
            )
        names = list(names)
        if match["name"] not in names:
            raise SpecError(
                f"the condition {text!r} names no figure: there is no {match['name']}",
                near_misses(match["name"], names),
            )
        return cls(match["name"], match["sign"], bound)

    def holds(self, figures: Mapping[str, float | None]) -> bool:
        """Tell whether the condition is true.

        Raises:
            SpecError: If this comparison does not have the figure: a gate that cannot be judged
                must not pass.
        """
        value = figures[self.name]
        if value is None:
            raise SpecError(
                f"the condition {self} cannot be judged: this comparison has no {self.name}",
                "top-1 needs labels or class outputs, centred SQNR two samples, p99 100 queries",
            )
        return bool(_OPERATORS[self.sign](value, self.bound))

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.bound:g}"
