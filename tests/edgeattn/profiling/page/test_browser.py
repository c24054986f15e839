"""The page in a browser: silent, offline, drawn, and usable with a keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeattn.profiling.page import render_page
from tests.edgeattn.profiling.page import reports
from tests.pages import DESK, PHONE, column, drawn_plots, pale_words, tab_to

pytestmark = pytest.mark.browser


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


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", ["full", "small"])
def test_the_page_is_silent_and_fits_the_screen(opened, request, name, viewport):
    page = opened(request.getfixturevalue(name), viewport=viewport, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_every_plot_is_drawn_in_its_area(opened, full, viewport):
    assert drawn_plots(opened(full, viewport=viewport)) == {
        "histogram",
        "series",
        "percentiles",
        "roofline",
        "board-clocks_mhz",
        "board-power_mw",
        "board-temperatures_c",
        "board-utilisation_percent",
        "sustained-latency",
        "sustained-clock",
        "sustained-temperature",
        "sustained-power",
        "builds-medians",
    }


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
    return column(page, number, table)


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


def test_everything_is_reached_and_worked_with_the_keyboard(opened, full):
    page = opened(full)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the figures"
    tab_to(page, "#theme")
    tab_to(page, ".cells button")
    label = page.evaluate("document.activeElement.dataset.find")
    assert page.locator("#tip").text_content().startswith(label)
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("Enter")
    assert _column(page, 1, "#modules") == [label]
    page.keyboard.press("Enter")
    assert len(_column(page, 1, "#modules")) > 1
    tab_to(page, "#modules thead th:nth-child(2) button")
    page.keyboard.press("Space")
    times = [float(text) for text in _column(page, 2, "#modules")]
    assert times == sorted(times, reverse=True)
    tab_to(page, "#layers input")
    page.keyboard.type("downsample")
    assert len(_column(page, 1)) == 3
    tab_to(page, "#layers .scroll")


def test_marks_tell_their_values_under_the_pointer(opened, full):
    page = opened(full)
    page.locator("#roofline .point").last.hover(force=True)
    assert "GFLOP/s" in page.locator("#tip").text_content()
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()


def test_a_minute_and_a_build_tell_their_figures_under_the_pointer(opened, full):
    page = opened(full)
    page.locator("#sustained-power .hit").nth(10).hover(force=True)
    assert page.locator("#tip").text_content().startswith("minute 11: p50 5.")
    page.locator("#builds-medians .point.c2").hover(force=True)
    assert page.locator("#tip").text_content().startswith("build 3, kept: median 4.4")


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
    assert pale_words(opened(full, color_scheme=scheme)) == {}


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
