"""Comparisons, drawn: ratios with their intervals, and latencies over one another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeattn.profiling.comparison.modules import ModulePair
from edgeattn.profiling.comparison.result import Comparisons
from edgeattn.profiling.comparison.sides import Side
from edgeattn.profiling.page.latency_plots import percentile_path
from edgeattn.profiling.page.plot import (
    SIZE,
    Axis,
    Key,
    Label,
    Mark,
    Plot,
    Tick,
    box,
    dots,
    line,
    upright,
)
from edgeattn.profiling.page.words import milliseconds, percentile_name, queries
from edgeattn.profiling.stats import percentile_ms

SHOWN = ("p50", "p99")
_COLOURS = 8
# Ratios, or times, that differ by more than this factor need a logarithmic axis.
_WIDE = 3.0
_BINS = 60
_MOST_MODULES = 12
_HEADROOM = 0.7  # in rows


@dataclass(frozen=True)
class Rows(Axis):
    """A vertical axis of named rows, the first one at the top.

    Attributes:
        names: What the rows are.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, label: str, names: Sequence[str]) -> Rows:
        """Make an axis with one row for each name, and room for labels above them."""
        return cls(label, 0, len(names) + _HEADROOM, names=tuple(names))

    def middle(self, row: int) -> float:
        """Find the middle of a row, in thousandths from the low end."""
        return self.at(len(self.names) - row - 0.5)

    def ticks(self) -> list[Tick]:
        """Label every row."""
        return [Tick(self.middle(row), name) for row, name in enumerate(self.names)]


def colour(index: int) -> str:
    """Give the class of a side's colour: the reference is the first."""
    return f"c{index % _COLOURS + 1}"


def forest(found: Comparisons) -> Plot | None:
    """Draw each ratio with its interval, and the limits of relative conditions.

    Returns:
        `None` if there is no ratio.
    """
    rows = [
        (pair, index, name)
        for index, pair in enumerate(found.pairs, start=1)
        for name in SHOWN
        if name in pair.ratios
    ]
    if not rows:
        return None
    conditions = [gate.condition for gate in found.pairs[0].gates]
    limits = [each for each in conditions if each.is_relative and each.name in SHOWN]
    reach = [1.0, *(each.limit for each in limits if each.limit > 0)]
    for pair, _, name in rows:
        ratio = pair.ratios[name]
        reach += [ratio.value, *(ratio.interval or ())]
    is_wide = min(reach) > 0 and max(reach) > _WIDE * min(reach)
    label = "latency over that of A"
    x = (
        Axis(label, min(reach) / 1.3, 1.3 * max(reach), "log")
        if is_wide
        else Axis.around(label, reach)
    )
    names = [f"{pair.b.letter} {percentile_name(name)}" for pair, _, name in rows]
    y = Rows.of("candidate, percentile", names)
    marks, labels = [Mark(upright(x.at(1.0)), "rule", "as A")], []
    for each in limits:
        marks.append(Mark(upright(x.at(each.limit)), "limit", f"fails if {each}"))
        side = " left" if x.at(each.limit) > SIZE / 2 else ""
        labels.append(Label(x.at(each.limit), 4, str(each), f"rule-label{side}"))
    for row, (pair, index, name) in enumerate(rows):
        ratio = pair.ratios[name]
        level = SIZE - y.middle(row)
        tip = f"{pair.b.name}: {percentile_name(name)} is {ratio.value:.3f} of A's"
        if ratio.interval:
            low, high = ratio.interval
            tip += f", {low:.3f} to {high:.3f} with 95 % confidence"
            span = line([(x.at(low), level), (x.at(high), level)])
            marks.append(Mark(span, f"interval {colour(index)}", tip))
        marks.append(Mark(dots([(x.at(ratio.value), level)]), f"point size2 {colour(index)}", tip))
    return Plot(
        "forest",
        "Latency over that of A",
        x,
        y,
        marks,
        labels,
        note="Dots: the ratio of the two percentiles. Lines: where it lies with 95 % confidence. "
        "Dotted: as fast as A.",
        describe="; ".join(
            f"{name}: {pair.ratios[key].value:.3f}"
            for name, (pair, _, key) in zip(names, rows, strict=True)
        ),
    )


def changes(found: Comparisons) -> Plot | None:
    """Draw the modules in which most of the difference is made.

    Returns:
        `None` if the modules are not known of two sides, or all take the same.
    """
    by_path: dict[tuple[str, ...], dict[int, ModulePair]] = {}
    for index, pair in enumerate(found.pairs, start=1):
        for module in pair.modules:
            if module.is_leaf and module.change_ms:
                by_path.setdefault(module.path, {})[index] = module
    if not by_path:
        return None
    largest = sorted(
        by_path.values(), key=lambda of: -max(abs(module.change_ms) for module in of.values())
    )[:_MOST_MODULES]
    known = [index for index, pair in enumerate(found.pairs, start=1) if pair.modules]
    reach = [0.0, *(module.change_ms for of in largest for module in of.values())]
    air = 0.04 * (max(reach) - min(reach))
    x = Axis("what it takes more than A, ms; left: less", min(reach) - air, max(reach) + air)
    y = Rows.of("module", [next(iter(of.values())).label for of in largest])
    height = SIZE / y.high
    marks = []
    for row, of in enumerate(largest):
        for index, module in of.items():
            bar = 0.8 * height / len(known)
            top = SIZE - y.middle(row) - 0.4 * height + known.index(index) * bar
            ends = sorted((x.at(0.0), x.at(module.change_ms)))
            marks.append(
                Mark(
                    box(ends[0], top, ends[1], top + bar),
                    f"change {colour(index)}",
                    f"{module.label}: {found.pairs[index - 1].b.letter} "
                    f"{milliseconds(module.ms_b)}, A {milliseconds(module.ms_a)}",
                )
            )
    marks.append(Mark(upright(x.at(0.0)), "rule", "as long as in A"))
    sides = [found.pairs[index - 1].b for index in known]
    return Plot(
        "changes",
        "Where most of the difference is made",
        x,
        y,
        marks,
        legend=[
            Key(colour(index), f"{side.letter} {side.name}")
            for index, side in zip(known, sides, strict=True)
        ],
        describe="; ".join(y.names),
    )


def latencies(sides: Sequence[Side]) -> list[Plot]:
    """Lay the latencies of all sides over one another; nothing if none has single queries."""
    known = {
        colour(index): (side, side.times.latency_ms)
        for index, side in enumerate(sides)
        if side.times is not None
    }
    if not known:
        return []
    legend = [Key(kind, f"{side.letter} {side.name}") for kind, (side, _) in known.items()]
    times = {kind: sorted(of) for kind, (_, of) in known.items()}
    names = {kind: side.letter for kind, (side, _) in known.items()}
    return [_outlines(times, names, legend), _curves(times, legend)]


def _outlines(times: dict[str, list[float]], names: dict[str, str], legend: Sequence[Key]) -> Plot:
    """Show what share of its queries each side has in the same bins."""
    least = min(of[0] for of in times.values())
    end = max(percentile_ms(of, 99) for of in times.values())
    if end <= least:
        end = least * 1.05 or 1.0
    is_wide = 0 < _WIDE * least < end
    label = "latency, ms"
    x = Axis(label, least, end * 1.0001, "log" if is_wide else "linear")
    steps = [i / _BINS for i in range(_BINS + 1)]
    edges = [
        least * (end / least) ** step if is_wide else least + (end - least) * step for step in steps
    ]
    edges[-1] = x.high
    shares = {}
    for kind, of in times.items():
        ranks = [0, *(bisect_right(of, edge) for edge in edges[1:])]
        shares[kind] = [100 * (after - before) / len(of) for before, after in pairwise(ranks)]
    y = Axis("percent of the queries", 0, 1.1 * max(max(of) for of in shares.values()) or 1.0)
    marks = [
        Mark("M0 1000" + "".join(_steps(x, y, edges, of)), f"line {kind}", f"{names[kind]}")
        for kind, of in shares.items()
    ]
    beyond = [
        f"{names[kind]} {queries(count)}"
        for kind, of in times.items()
        if (count := len(of) - bisect_right(of, edges[-1]))
    ]
    note = f"Beyond {milliseconds(end)}: {', '.join(beyond)}." if beyond else ""
    return Plot(
        "outlines",
        "How the queries spread",
        x,
        y,
        marks,
        legend=legend,
        note=note,
        describe="Histograms of the latencies, one over another",
    )


def _steps(x: Axis, y: Axis, edges: Sequence[float], shares: Sequence[float]) -> Iterator[str]:
    for share, right in zip(shares, edges[1:], strict=True):
        yield f"V{SIZE - y.at(share):.1f}H{x.at(right):.1f}"
    yield f"V{SIZE}"


def _curves(times: dict[str, list[float]], legend: Sequence[Key]) -> Plot:
    """Show which latency so many percent of each side's queries keep to."""
    most = max(len(of) for of in times.values())
    x = Axis("percent of the queries", 0.0, 100 * (1 - 0.5 / most), "nines")
    lowest, highest = (min(of[0] for of in times.values()), max(of[-1] for of in times.values()))
    label = "latency, ms"
    is_wide = 0 < _WIDE * lowest < highest
    y = (
        Axis(label, lowest / 1.1, highest * 1.1, "log")
        if is_wide
        else Axis.around(label, (lowest, highest))
    )
    marks = [Mark(percentile_path(of, x, y), f"line {kind}") for kind, of in times.items()]
    return Plot(
        "curves",
        "How bad it gets",
        x,
        y,
        marks,
        legend=legend,
        describe=f"Latency by percentile, the slowest query {milliseconds(highest)}",
    )
