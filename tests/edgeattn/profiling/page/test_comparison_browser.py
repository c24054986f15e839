"""The page of a comparison in a browser: silent, offline, drawn, and usable with a keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeattn.profiling.compare import compare_many
from edgeattn.profiling.page.comparison import render_comparison
from tests.edgeattn.profiling.comparison import made
from tests.pages import DESK, PHONE, column, drawn_plots, pale_words, tab_to

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "many.html"
    render_comparison(made.comparisons(), path)
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "two.html"
    reports = [made.report(made.times(40, ms), f"{ms}.engine") for ms in (5.0, 20.0)]
    compare_many(reports[0], reports[1:], html=path)
    return path


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", ["many", "two"])
def test_the_page_is_silent_fits_the_screen_and_draws_every_plot(opened, request, name, viewport):
    page = opened(request.getfixturevalue(name), viewport=viewport)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    modules = {"changes"} if name == "many" else set()
    assert drawn_plots(page) == {"forest", "outlines", "curves"} | modules


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(opened, many, scheme):
    assert pale_words(opened(many, color_scheme=scheme)) == {}


def test_modules_are_sorted_by_what_they_change(opened, many):
    page = opened(many)
    before = column(page, 1, "#modules")
    head = page.locator("#modules").get_by_role("button", name="B − A, ms")
    head.click()
    changes = [float(text) for text in column(page, 4, "#modules")]
    assert changes == sorted(changes, reverse=True)
    head.click()
    head.click()
    assert column(page, 1, "#modules") == before
    page.get_by_role("searchbox", name="Search in modules").fill("block 0 mlp")
    assert column(page, 1, "#modules") == ["stage 0 / block 0 / mlp"]


def test_a_ratio_tells_its_bounds_under_the_pointer(opened, many):
    page = opened(many)
    page.locator("#forest .point").first.hover(force=True)
    assert "int8.engine: p50 is" in page.locator("#tip").text_content()
    assert "with 95 % confidence" in page.locator("#tip").text_content()


def test_everything_is_reached_with_the_keyboard(opened, many):
    page = opened(many)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the figures"
    tab_to(page, "#theme")
    tab_to(page, "#gates .scroll")
    tab_to(page, "#modules input")


def test_without_a_script_and_on_paper_all_rows_are_there(opened, many):
    page = opened(many, java_script_enabled=False)
    assert len(column(page, 1, "#modules")) == 6
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    for scroll in page.locator(".scroll").all():
        assert scroll.evaluate("e => e.scrollWidth <= e.clientWidth + 2")
    assert page.locator("h1").evaluate("e => getComputedStyle(e).color") == "rgb(26, 29, 35)"
