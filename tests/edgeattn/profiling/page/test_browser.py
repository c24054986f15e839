"""The page in a browser: silent, offline, drawn, and usable with a keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeattn.profiling.page import render_page
from tests.edgeattn.profiling.page import reports

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "full.html"
    render_page(reports.full_report(2500), path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "small.html"
    render_page(reports.latency_report(30), path)
    return path


@pytest.fixture
def opened(chromium, request) -> Iterator[Any]:
    """Open a page; at the end, whatever it said or asked for fails the test."""
    contexts, complaints, requests = [], [], []

    def open_page(path: Path, **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": DESK, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: requests.append(asked.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert len(requests) == len(contexts)
    assert all(url.startswith("file:") for url in requests)


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", ["full", "small"])
def test_the_page_is_silent_and_fits_the_screen(opened, request, name, viewport):
    page = opened(request.getfixturevalue(name), viewport=viewport, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_every_plot_is_drawn_in_its_area(opened, full, viewport):
    page = opened(full, viewport=viewport)
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
    assert {plot["id"] for plot in plots} == {
        "histogram",
        "series",
        "percentiles",
        "roofline",
        "board-clocks_mhz",
        "board-power_mw",
        "board-temperatures_c",
        "board-utilisation_percent",
    }
    for plot in plots:
        assert plot["height"] > 150, plot
        assert plot["marks"], plot
        assert plot["seen"], plot
        assert plot["inside"], plot
        assert plot["reach"] > 0.6 * plot["width"], plot


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_the_cells_of_the_treemap_are_as_large_as_their_times(opened, full, viewport):
    page = opened(full, viewport=viewport)
    areas = page.evaluate(
        """[...document.querySelectorAll(".group")].map(group => {
          const box = group.getBoundingClientRect();
          return [group.querySelector("b").textContent, box.width * box.height];
        })"""
    )
    layers = reports.layer_profile()
    whole = sum(area for _, area in areas)
    for module in layers["modules"]:
        assert dict(areas)[module["label"]] / whole == pytest.approx(
            module["ms"] / layers["total_ms"], rel=0.02
        )


def _column(page, number: int, table: str = "#layers") -> list[str]:
    cells = page.locator(f"{table} tbody tr:not([hidden]) > *:nth-child({number})")
    return cells.all_text_contents()


def test_a_table_sorts_down_then_up_then_as_it_was(opened, full):
    page = opened(full)
    rows = reports.layer_profile()["rows"]
    before = _column(page, 1)
    by_time = sorted(rows, key=lambda row: -row["median_ms"])
    head = page.get_by_role("button", name="median ms")
    head.click()
    assert _column(page, 1) == [row["name"] for row in by_time]
    assert page.locator('#layers [aria-sort="descending"]').count() == 1
    head.click()
    assert _column(page, 1) == [row["name"] for row in reversed(by_time)]
    head.click()
    assert _column(page, 1) == before == [row["name"] for row in rows]
    assert page.locator("#layers [aria-sort]").count() == 0
    page.locator("#layers").get_by_role("button", name="Kind").click()
    assert _column(page, 2) == sorted(row["kind"] for row in rows)


def test_rows_without_a_figure_come_last_whichever_way_a_table_is_sorted(opened, tmp_path):
    report = reports.full_report(50)
    rows = report["layers"]["rows"]
    unknown = {rows[i]["name"] for i in (0, 9)}
    for row in rows:
        if row["name"] in unknown:
            row["gb_s"] = None
    render_page(report, tmp_path / "net.html")
    page = opened(tmp_path / "net.html")
    head = page.locator("#layers").get_by_role("button", name="GB/s")
    for _ in range(2):
        head.click()
        assert set(_column(page, 1)[-2:]) == unknown


def test_a_table_is_searched_by_words_in_any_order(opened, full):
    page = opened(full)
    field = page.get_by_role("searchbox", name="Search in layers")
    field.fill("gemm  STAGES.2")
    names = _column(page, 1)
    expected = [
        row["name"]
        for row in reports.layer_profile()["rows"]
        if row["kind"] == "Gemm" and row["module"][0] == "stages.2"
    ]
    assert names == expected
    assert page.locator("#layers [data-count]").text_content() == f"{len(names)} of 77"
    field.fill("no such layer")
    assert _column(page, 1) == []
    assert page.locator("#layers .nothing").is_visible()
    field.fill("")
    assert len(_column(page, 1)) == 77


def _tab_to(page, selector: str) -> None:
    for _ in range(400):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    pytest.fail(f"no way with Tab to {selector}")


def test_everything_is_reached_and_worked_with_the_keyboard(opened, full):
    page = opened(full)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the figures"
    _tab_to(page, "#theme")
    _tab_to(page, ".cells button")
    label = page.evaluate("document.activeElement.dataset.find")
    assert page.locator("#tip").text_content().startswith(label)
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("Enter")
    assert _column(page, 1, "#modules") == [label]
    page.keyboard.press("Enter")
    assert len(_column(page, 1, "#modules")) > 1
    _tab_to(page, "#modules thead th:nth-child(2) button")
    page.keyboard.press("Space")
    times = [float(text) for text in _column(page, 2, "#modules")]
    assert times == sorted(times, reverse=True)
    _tab_to(page, "#layers input")
    page.keyboard.type("downsample")
    assert len(_column(page, 1)) == 3
    _tab_to(page, "#layers .scroll")


def test_marks_tell_their_values_under_the_pointer(opened, full):
    page = opened(full)
    page.locator("#roofline .point").last.hover(force=True)
    assert "GFLOP/s" in page.locator("#tip").text_content()
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()


def test_without_a_script_the_page_is_whole_and_has_no_dead_controls(opened, full):
    page = opened(full, java_script_enabled=False)
    assert len(_column(page, 1)) == 77
    assert page.locator("input:visible").count() == 0
    assert page.locator("#theme").is_hidden()


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def test_the_theme_is_the_systems_until_one_is_chosen(opened, full):
    light = opened(full, color_scheme="light").evaluate(BACKGROUND)
    page = opened(full, color_scheme="dark")
    dark = page.evaluate(BACKGROUND)
    assert light != dark
    button = page.locator("#theme")
    button.click()
    assert button.text_content() == "Theme: light"
    assert page.evaluate(BACKGROUND) == light
    button.click()
    assert page.evaluate(BACKGROUND) == dark
    page.emulate_media(color_scheme="light")
    assert page.evaluate(BACKGROUND) == dark
    button.click()
    assert page.evaluate(BACKGROUND) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(opened, full, scheme):
    page = opened(full, color_scheme=scheme)
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
    too_low = {name: ratio for name, ratio in ratios.items() if ratio < 4.5}
    assert too_low == {}


def test_printing_hides_controls_and_shows_all_rows_on_white(opened, full):
    page = opened(full, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.locator("input:visible").count() == 0
    scroll = page.locator("#layers .scroll")
    assert scroll.evaluate("e => e.scrollHeight <= e.clientHeight + 2")
    assert scroll.evaluate("e => e.scrollWidth <= e.clientWidth + 2")
    assert page.locator("h1").evaluate("e => getComputedStyle(e).color") == "rgb(26, 29, 35)"
    assert page.pdf()[:5] == b"%PDF-"


def test_names_of_layers_run_no_script(opened, tmp_path):
    report = reports.full_report(50)
    hostile = "<img src=x onerror=\"document.title='run'\">"
    for row in report["layers"]["rows"]:
        row["name"] = hostile
    render_page(report, tmp_path / "net.html")
    page = opened(tmp_path / "net.html")
    assert "run" not in page.title()
    assert _column(page, 1)[0] == hostile
