"""A plot as values: axes with their ticks, marks in thousandths of the area, labels beside them.

The template stretches the area to the width that there is, so that text keeps its size on a phone
and lines keep their width. Coordinates run from 0 to 1000, to the right and downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

SIZE = 1000
_MOST_TICKS = 6
# At least a whole decade is in sight, so that one power of ten is labelled.
_LOG_AIR = 3.2

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis, in thousandths from its low end."""

    position: float
    text: str


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: What it shows, with the unit.
        low: Value at its low end.
        high: Value at its high end, above `low`.
        scale: `linear`, `log`, or `nines` for percentiles: each nine as long as the one before.
    """

    label: str
    low: float
    high: float
    scale: Literal["linear", "log", "nines"] = "linear"

    @classmethod
    def around(cls, label: str, values: Iterable[float], margin: float = 0.06) -> Axis:
        """Make a linear axis that holds all values, with some air."""
        values = list(values)
        low, high = min(values), max(values)
        air = margin * (high - low) or abs(high) * margin or 1.0
        return cls(label, max(0.0, low - air) if low >= 0 else low - air, high + air)

    @classmethod
    def decades(cls, label: str, values: Iterable[float]) -> Axis:
        """Make a logarithmic axis that holds all values, which are positive, with some air."""
        values = list(values)
        return cls(label, min(values) / _LOG_AIR, max(values) * _LOG_AIR, "log")

    def at(self, value: float) -> float:
        """Find where a value lies, in thousandths from the low end."""
        low, high, here = (self._place(each) for each in (self.low, self.high, value))
        return SIZE * (here - low) / (high - low)

    def ticks(self) -> list[Tick]:
        """Choose round values to label."""
        if self.scale == "nines":
            shares = (0, 50, 90, 99, 99.9, 99.99, 99.999)
            return [Tick(self.at(p), f"{p:g}") for p in shares if self.low <= p <= self.high]
        if self.scale == "log":
            least, most = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            every = max(1, math.ceil((most - least) / _MOST_TICKS))
            steps = (1, 2, 5) if most - least <= 2 else (1,)
            powers = range(least, most + 1, every)
            labelled = [(step * 10.0**n, step, n) for n in powers for step in steps]
            return [
                Tick(self.at(value), _power(n) if step == 1 else f"{value:g}")
                for value, step, n in labelled
                if self.low <= value <= self.high
            ]
        step = _round_step((self.high - self.low) / (_MOST_TICKS - 1))
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = [n * step for n in range(first, last + 1)]
        return [Tick(self.at(value), f"{value + 0.0:,.{decimals}f}") for value in values]

    def _place(self, value: float) -> float:
        if self.scale == "log":
            return math.log10(value)
        return -math.log10(1 - value / 100) if self.scale == "nines" else value


@dataclass(frozen=True)
class Mark:
    """A path in the area.

    Attributes:
        path: SVG path data.
        kind: Classes that give it its looks.
        tip: What to say under the pointer; empty if nothing.
        link: Name of the element that it leads to; empty if to none.
    """

    path: str
    kind: str
    tip: str = ""
    link: str = ""


@dataclass(frozen=True)
class Label:
    """A word in the area.

    Attributes:
        x: Where it begins, in thousandths.
        y: Where its top is.
        text: The word.
        kind: Classes that give it its looks.
    """

    x: float
    y: float
    text: str
    kind: str = ""


@dataclass(frozen=True)
class Key:
    """An entry of a legend: the class of its colour, and what has that colour."""

    kind: str
    text: str


@dataclass(frozen=True)
class Plot:
    """A figure with axes.

    Attributes:
        name: Of its element in the page.
        title: What it shows.
        x: Horizontal axis.
        y: Vertical axis.
        marks: Drawn in this order.
        labels: Words over the marks.
        legend: What the colours mean.
        note: A sentence below.
        describe: What is to be seen, in words, for those who do not see it.
    """

    name: str
    title: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    labels: Sequence[Label] = ()
    legend: Sequence[Key] = ()
    note: str = ""
    describe: str = field(default="")

    @property
    def is_linked(self) -> bool:
        """Tell whether marks lead somewhere."""
        return any(mark.link for mark in self.marks)

    @property
    def x_ticks(self) -> list[Tick]:
        """Ticks of the horizontal axis."""
        return self.x.ticks()

    @property
    def y_ticks(self) -> list[Tick]:
        """Ticks of the vertical axis, measured from the top."""
        return [Tick(SIZE - tick.position, tick.text) for tick in self.y.ticks()]


def line(points: Sequence[Point]) -> str:
    """Join points, given in thousandths."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def dots(points: Iterable[Point]) -> str:
    """Make a round dot at each point: a line of no length with round ends, whatever the stretch."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)


def box(left: float, top: float, right: float, bottom: float) -> str:
    """Make a rectangle."""
    return f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z"


def upright(x: float) -> str:
    """Make a line from top to bottom."""
    return f"M{x:.1f} 0V{SIZE}"


def _round_step(least: float) -> float:
    """Find the smallest of 1, 2 and 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= least * (1 - 1e-9))


def _power(exponent: int) -> str:
    if -3 <= exponent <= 4:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
