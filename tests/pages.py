"""What pages are asked in a browser, whichever they are. The fixture `opened` opens them."""

from __future__ import annotations

from typing import Any

import pytest

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


def drawn_plots(page: Any) -> set[str]:
    """Look at every plot: its marks are seen, lie within its area and reach across it.

    Returns:
        The names of the plots.
    """
    plots = page.evaluate(
        """[...document.querySelectorAll("figure.plot")].map(figure => {
          const area = figure.querySelector(".area").getBoundingClientRect();
          const marks = [...figure.querySelectorAll("svg path:not(.grid)")];
          const boxes = marks.map(mark => mark.getBoundingClientRect());
          return {
            id: figure.id, width: area.width, height: area.height, marks: marks.length,
            seen: marks.every(mark => {
              const style = getComputedStyle(mark);
              return style.stroke !== "none" || style.fill !== "none";
            }),
            inside: boxes.every(box => box.left >= area.left - 12 && box.right <= area.right + 12
              && box.top >= area.top - 12 && box.bottom <= area.bottom + 12),
            reach: Math.max(...boxes.map(b => b.right)) - Math.min(...boxes.map(b => b.left)),
          };
        })"""
    )
    for plot in plots:
        assert plot["height"] > 150, plot
        assert plot["marks"], plot
        assert plot["seen"], plot
        assert plot["inside"], plot
        assert plot["reach"] > 0.6 * plot["width"], plot
    return {plot["id"] for plot in plots}


def pale_words(page: Any) -> dict[str, float]:
    """Find what does not stand out from what is behind it, by the contrast ratio."""
    ratios = page.evaluate(
        """() => {
          const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
            .getContext("2d", {willReadFrequently: true});
          const luminance = (colours) => {
            context.clearRect(0, 0, 1, 1);
            for (const colour of colours) {
              context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
            }
            const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3)
              .map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
          };
          const found = {};
          const words = "p, span, th, td, dt, dd, li, b, small, h1, h2, h3, a, button, strong";
          for (const element of document.querySelectorAll(words)) {
            if (!element.checkVisibility() || !element.textContent.trim()) continue;
            const behind = [];
            for (let e = element; e; e = e.parentElement) {
              behind.unshift(getComputedStyle(e).backgroundColor);
            }
            const colour = getComputedStyle(element).color;
            const [a, b] = [luminance(behind), luminance([...behind, colour])];
            const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            const around = element.parentElement.className;
            const name = `${element.tagName} ${element.className} in ${around}`;
            found[name] = Math.min(found[name] ?? 99, ratio);
          }
          return found;
        }"""
    )
    assert len(ratios) > 20
    return {name: ratio for name, ratio in ratios.items() if ratio < 4.5}


def column(page: Any, number: int, table: str) -> list[str]:
    """Read a column of the rows that a search has left; the first column is number 1."""
    cells = page.locator(f"{table} tbody tr:not([hidden]) > *:nth-child({number})")
    return cells.all_text_contents()


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(400):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    pytest.fail(f"no way with Tab to {selector}")
