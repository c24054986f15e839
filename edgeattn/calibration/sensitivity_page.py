"""The sensitivity report as a page: bars and tables in one file that needs no network.

The page is built as a tree of elements, so that names of layers are text whatever is in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from edgeattn.graph.compare import finite_or_none

if TYPE_CHECKING:
    from edgeattn.calibration.sensitivity import Effect, Figures, Sensitivity

_STYLE = r"""
:root { color-scheme: light dark; --bar: #2a6fbb; --spared: #8a8f98; --line: #d5d8dd; }
@media (prefers-color-scheme: dark) {
  :root { --bar: #6db1ff; --spared: #767c86; --line: #3b4048; }
}
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.alone { fill: var(--bar); } .without { fill: var(--spared); } .axis { stroke: var(--line); }
.key::before { content: "\25A0\00A0"; font-size: 1.2em; }
.key.alone { color: var(--bar); } .key.without { color: var(--spared); margin-left: 1.5rem; }
.whole { stroke: currentColor; stroke-dasharray: 4 3; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-top: 1rem; }
th, td { text-align: right; padding: .2rem .7rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
"""

_WIDTH, _NAMES, _ROW = 960, 330, 22
_MOST_BARS = 60
_LONGEST_NAME = 46


def sensitivity_page(found: Sensitivity) -> str:
    """Write the report as HTML."""
    graph = found.manifest.parents["graph"].file
    html = Element("html", lang="en")
    head, body = SubElement(html, "head"), SubElement(html, "body")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    SubElement(head, "title").text = f"INT8 sensitivity of {graph}"
    SubElement(head, "style").text = _STYLE
    SubElement(body, "h1").text = f"INT8 sensitivity of {graph}"
    SubElement(body, "p").text = (
        "Output signal to quantization noise, in dB: more is better. Alone: only this layer is "
        "INT8; a low figure marks a layer that INT8 hurts. Without: only this layer is float; a "
        "figure far above that of everything in INT8 (dashed) marks one that is worth sparing."
    )
    _add_facts(body, found)
    for what, effects in (("Layers", found.layers), ("Blocks", found.blocks)):
        if effects:
            SubElement(body, "h2").text = what
            legend = SubElement(body, "p")
            for kind, text in (("alone", "only this in INT8"), ("without", "only this in float")):
                SubElement(legend, "span", {"class": f"key {kind}"}).text = text
            body.append(_chart(effects[:_MOST_BARS], found.whole.sqnr_db))
            if len(effects) > _MOST_BARS:
                SubElement(body, "p").text = f"The first {_MOST_BARS} of {len(effects)}."
            _add_table(body, effects)
    return "<!doctype html>\n" + tostring(html, encoding="unicode", method="html") + "\n"


def _add_facts(body: Element, found: Sensitivity) -> None:
    facts = {
        "Everything in INT8": f"{_db(found.whole.sqnr_db)} dB",
        "Recipe": str(found.manifest.options["recipe"]),
        "Samples": str(found.num_samples),
    }
    if found.float_top1 is not None and found.whole.top1 is not None:
        facts["Top-1"] = f"float {found.float_top1:.2f} %, INT8 {found.whole.top1:.2f} %"
    for role, parent in found.manifest.parents.items():
        facts[role.capitalize()] = f"{parent.file}, sha256 {parent.sha256[:12]}"
    listing = SubElement(body, "dl")
    for name, value in facts.items():
        SubElement(listing, "dt").text = name
        SubElement(listing, "dd").text = value


def _chart(effects: Sequence[Effect], whole_db: float) -> Element:
    """Draw two bars per layer, from 0 dB to the right; no noise at all fills the row."""
    shown = [f for e in effects for f in (e.alone.sqnr_db, e.without.sqnr_db)] + [whole_db]
    top = max((value for value in shown if math.isfinite(value)), default=0.0)
    end = max(10.0 * math.ceil(1.05 * top / 10), 10.0)
    scale = (_WIDTH - _NAMES - 60) / end
    height = _ROW * len(effects) + 30
    svg = Element("svg", viewBox=f"0 0 {_WIDTH} {height}", role="img")
    SubElement(svg, "title").text = "Output SQNR of each, alone in INT8 and spared by INT8"
    for tick in range(0, int(end) + 1, 10):
        x = _NAMES + tick * scale
        _add(svg, "line", x1=x, x2=x, y1=0, y2=height - 22, attributes={"class": "axis"})
        label = _add(svg, "text", x=x, y=height - 6, attributes={"text-anchor": "middle"})
        label.text = str(tick)
    for number, effect in enumerate(effects):
        y = number * _ROW
        name = _add(svg, "text", x=_NAMES - 8, y=y + 14, attributes={"text-anchor": "end"})
        name.text = _shortened(effect.name)
        for kind, figures, offset in (("alone", effect.alone, 2), ("without", effect.without, 11)):
            value = min(max(figures.sqnr_db, 0.0), end)
            box = {"x": _NAMES, "y": y + offset, "width": value * scale, "height": 8}
            bar = _add(svg, "rect", **box, attributes={"class": kind})
            SubElement(bar, "title").text = f"{effect.name}, {kind}: {_db(figures.sqnr_db)} dB"
        end_of_bar = _NAMES + min(max(effect.alone.sqnr_db, 0.0), end) * scale
        _add(svg, "text", x=end_of_bar + 4, y=y + 10).text = _db(effect.alone.sqnr_db)
    if math.isfinite(whole_db):
        x = _NAMES + max(whole_db, 0.0) * scale
        _add(svg, "line", x1=x, x2=x, y1=0, y2=height - 22, attributes={"class": "whole"})
    return svg


def _add(
    parent: Element, tag: str, attributes: dict[str, str] | None = None, **numbers: float
) -> Element:
    values = {name: f"{value:.5g}" for name, value in numbers.items()}
    return SubElement(parent, tag, {**values, **(attributes or {})})


def _add_table(body: Element, effects: Iterable[Effect]) -> None:
    effects = list(effects)
    with_labels = effects[0].alone.top1 is not None
    columns = ["", "alone dB", "without dB"]
    columns += ["alone top-1", "without top-1"] if with_labels else []
    table = SubElement(body, "table")
    header = SubElement(SubElement(table, "thead"), "tr")
    for column in columns:
        SubElement(header, "th").text = column
    rows = SubElement(table, "tbody")
    for effect in effects:
        row = SubElement(rows, "tr")
        cells = [effect.name, *(_db(f.sqnr_db) for f in (effect.alone, effect.without))]
        cells += [_percent(f) for f in (effect.alone, effect.without)] if with_labels else []
        for cell in cells:
            SubElement(row, "td").text = cell


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else "…" + name[1 - _LONGEST_NAME :]


def _db(value: float) -> str:
    return "no noise" if finite_or_none(value) is None else f"{value:.1f}"


def _percent(figures: Figures) -> str:
    return "" if figures.top1 is None else f"{figures.top1:.2f} %"
