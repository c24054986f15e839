"""The roofline plot: what layers reach, over how much they compute per byte.

References:
    Williams, Waterman, Patterson: Roofline, 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeattn.profiling.page.plot import SIZE, Axis, Key, Label, Mark, Plot, dots
from edgeattn.profiling.page.words import milliseconds, number, percent, scaled

_KINDS = {"memory": "c1", "compute": "c2", "": "c8"}
_MEANING = {
    "memory": "memory is the nearer ceiling",
    "compute": "arithmetic is the nearer ceiling",
    "": "no ceiling known",
}


def roofline(layers: Mapping[str, Any]) -> Plot | None:
    """Draw a layer profile; nothing if no layer is known to compute and to move something.

    Args:
        layers: `LayerProfile.to_dict()`, with `roofs` if the ceilings are known: `gb_s` and
            `gflop_s` by type.
    """
    rows = [r for r in layers["rows"] if r["bytes"] and r["flops"] and r["gflop_s"]]
    if not rows:
        return None
    roofs = layers.get("roofs") or {}
    peaks: dict[str, float] = roofs.get("gflop_s") or {}
    intensities = [row["flops"] / row["bytes"] for row in rows]
    if roofs.get("gb_s"):
        intensities += [peak / roofs["gb_s"] for peak in peaks.values()]
    x = Axis.decades("FLOP per byte", intensities)
    y = Axis.decades("GFLOP/s", [*(row["gflop_s"] for row in rows), *peaks.values()])
    marks, labels = _roofs(x, y, roofs.get("gb_s"), peaks)
    for row in sorted(rows, key=lambda row: -row["share"]):  # small ones on top
        point = (x.at(row["flops"] / row["bytes"]), SIZE - y.at(row["gflop_s"]))
        tip = (
            f"{row['name']}: {number(row['gflop_s'], 3)} GFLOP/s, {number(row['gb_s'], 3)} GB/s, "
            f"{scaled(row['flops'], 'FLOP')}, {scaled(row['bytes'], 'B')}, "
            f"{milliseconds(row['median_ms'])} ({percent(row['share'])})"
        )
        marks.append(
            Mark(dots([point]), f"point size{_size(row['share'])} {_KINDS[row['bound']]}", tip)
        )
    kinds = dict.fromkeys(row["bound"] for row in rows)
    note = f"{len(rows)} of {len(layers['rows'])} layers, those that compute; larger: more time."
    return Plot(
        "roofline",
        "Roofline" if layers["ceiling"] else "Rate over arithmetic intensity",
        x,
        y,
        marks,
        labels,
        [Key(_KINDS[kind], _MEANING[kind]) for kind in kinds],
        f"{note} Ceiling: {layers['ceiling']}." if layers["ceiling"] else note,
        f"Rate over arithmetic intensity of {len(rows)} layers",
    )


def _roofs(
    x: Axis, y: Axis, gb_s: float | None, peaks: Mapping[str, float]
) -> tuple[list[Mark], list[Label]]:
    """Draw the slope of the memory and the level of each type, as far as they bound."""
    marks: list[Mark] = []
    labels: list[Label] = []
    ridge = x.high
    for dtype, peak in sorted(peaks.items(), key=lambda item: -item[1]):
        begin = min(max(peak / gb_s, x.low), x.high) if gb_s else x.low
        level = SIZE - y.at(peak)
        text = f"{dtype} {number(peak, 4)} GFLOP/s"
        marks.append(Mark(f"M{x.at(begin):.1f} {level:.1f}H{SIZE}", "roof", text))
        labels.append(Label(SIZE, level, text, "roof-label left"))
        ridge = begin if not marks[:-1] else ridge
    if gb_s:
        end = min(ridge, y.high / gb_s)
        begin = max(x.low, y.low / gb_s)
        text = f"memory {number(gb_s, 4)} GB/s"
        path = (
            f"M{x.at(begin):.1f} {SIZE - y.at(begin * gb_s):.1f}"
            f"L{x.at(end):.1f} {SIZE - y.at(end * gb_s):.1f}"
        )
        marks.append(Mark(path, "roof", text))
        middle = begin**0.35 * end**0.65
        labels.append(Label(x.at(middle), SIZE - y.at(middle * gb_s), text, "roof-label left"))
    return marks, labels


def _size(share: float) -> int:
    return 1 + sum(share > limit for limit in (0.005, 0.02, 0.06))
