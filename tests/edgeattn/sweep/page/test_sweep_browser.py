"""The page of a sweep in a browser: silent, offline, drawn, chosen from with and without script."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeattn.sweep.page import render_sweep
from tests.edgeattn.sweep.page import rows
from tests.pages import DESK, PHONE, column, drawn_plots, pale_words, tab_to

pytestmark = pytest.mark.browser

CASES = "#cases"


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "swept.html"
    render_sweep(rows.sweep(), "swept", path)
    return path


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "single.html"
    render_sweep([rows.row(labels=False, energy=False)], "single", path)
    return path


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", ["swept", "single"])
def test_the_page_is_silent_and_fits_the_screen(opened, request, name, viewport):
    page = opened(request.getfixturevalue(name), viewport=viewport, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_every_plot_is_drawn_in_its_area(opened, swept, viewport):
    costs = ("latency", "energy", "size")
    expected = {f"front-{i}-{cost}" for i in range(1, 5) for cost in costs}
    assert drawn_plots(opened(swept, viewport=viewport)) == expected


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(opened, swept, scheme):
    assert pale_words(opened(swept, color_scheme=scheme)) == {}


def seen_rows(page) -> list[str]:
    return page.evaluate(
        "[...document.querySelectorAll('#cases tbody tr')].filter(r => r.checkVisibility())"
        ".map(r => r.cells[0].textContent)"
    )


def choose(page, value: str) -> None:
    page.get_by_role("radio", name=value, exact=True).check()


@pytest.mark.parametrize("has_script", [True, False], ids=["script", "no script"])
@pytest.mark.parametrize("media", ["screen", "print"])
def test_boards_and_sizes_are_chosen_with_and_without_a_script(opened, swept, has_script, media):
    page = opened(swept, java_script_enabled=has_script)
    fronts = page.locator("section.front:visible")
    assert fronts.count() == 4
    choose(page, "agx-orin")
    choose(page, "8")
    page.emulate_media(media=media)
    assert fronts.locator("h2").all_text_contents() == ["agx-orin · MAXN · batch 8"]
    shown = page.locator(f"{CASES} tbody tr:visible > :first-child").all_text_contents()
    assert len(shown) == 8
    assert all("batch 8" in label and "agx-orin" in label for label in shown)
    chosen = page.locator(".choices label:visible").all_text_contents()
    if media == "print":
        assert [text.strip() for text in chosen] == ["agx-orin", "8"]
    elif has_script:
        assert page.locator(f"{CASES} [data-count]").text_content() == "8 of 32"


def test_a_search_and_a_choice_both_hold(opened, swept):
    page = opened(swept)
    page.get_by_role("searchbox").fill("int8+fp16")
    assert len(seen_rows(page)) == 8
    choose(page, "orin-nano")
    assert len(seen_rows(page)) == 4
    assert page.locator(f"{CASES} [data-count]").text_content() == "4 of 32"
    page.get_by_role("searchbox").fill("implementation for node")
    (failed,) = seen_rows(page)
    assert failed == "mswin_tiny int8+fp16 batch 8 tensorrt orin-nano"


def test_the_table_sorts_and_failed_rows_come_last(opened, swept):
    page = opened(swept)
    head = page.locator(CASES).get_by_role("button", name="p50, ms")
    head.click()
    times = [row["figures"].get("p50_ms") for row in rows.sweep()]
    labels = column(page, 1, CASES)
    by_time = sorted(
        (row for row in rows.sweep() if row["figures"]), key=lambda r: -r["figures"]["p50_ms"]
    )
    assert labels[:-1] == [row["label"] for row in by_time]
    head.click()
    assert column(page, 1, CASES)[-1] == labels[-1] == rows.sweep()[times.index(None)]["label"]


def test_a_dot_tells_its_case_and_leads_to_its_row_with_pointer_and_keys(opened, swept):
    page = opened(swept)
    dots = page.locator("#front-1-latency a")
    assert dots.count() == 8
    dots.last.locator("path").hover(force=True)
    told = page.locator("#tip").text_content()
    assert told == dots.last.get_attribute("aria-label")
    assert told.endswith("on the front")
    page.mouse.move(5, 5)
    tab_to(page, ".choices input")
    tab_to(page, "#front-1-latency a")
    assert page.locator("#tip").text_content() == dots.first.get_attribute("aria-label")
    page.keyboard.press("Enter")
    target = page.locator(f"{CASES} tr:target")
    assert target.locator("th").text_content() == page.locator("#tip").text_content().split(":")[0]
    assert target.is_visible()


def test_the_fronts_names_are_read_without_touching_each_other(opened, swept):
    page = opened(swept)
    boxes = page.evaluate(
        """[...document.querySelectorAll(".front")].map(front =>
          [...front.querySelectorAll(".case-name")].map(name => {
            const box = name.getBoundingClientRect();
            return [box.left, box.top, box.right, box.bottom];
          }))"""
    )
    for named in boxes:
        assert len(named) >= 4
        for i, a in enumerate(named):
            for b in named[:i]:
                assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_without_a_script_every_row_is_there_and_no_dead_control(opened, swept):
    page = opened(swept, java_script_enabled=False)
    assert len(column(page, 1, CASES)) == 32
    assert page.locator("input[type=search]:visible").count() == 0
