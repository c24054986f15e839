"""The page of a sweep as text: whole with what rows have, nothing made up where they lack it."""

from __future__ import annotations

import html
import re

import pytest

from edgeattn.errors import MissingDependencyError
from edgeattn.sweep.page import render_sweep, sweep_html
from edgeattn.sweep.page.plots import front_plots
from edgeattn.sweep.page.words import case_name, case_words
from edgeattn.sweep.pareto import competitions, pareto_front
from tests.edgeattn.sweep.page import rows


def table_cells(text: str) -> dict[str, list[str]]:
    """The cells of each row of the table of all cases, by the row's id."""
    table = text[text.index('id="cases-rows"') :]
    found = re.findall(r'<tr id="case-(\w+)"[^>]*>(.*?)</tr>', table, re.DOTALL)
    return {
        case: [html.unescape(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", body, re.DOTALL)]
        for case, body in found
    }


def test_every_row_is_in_the_table_with_its_figures():
    swept = rows.sweep()
    cells = table_cells(sweep_html(swept, "swept"))
    assert list(cells) == [row["case"] for row in swept]
    for row in swept:
        shown = cells[row["case"]]
        assert shown[0] == row["label"]
        if row["status"] == "ok":
            assert f"{row['figures']['top1_b']:.2f}" in shown
            assert shown[-3] == row["verdict"]


def test_what_is_on_a_front_is_what_no_other_case_beats():
    swept = rows.sweep()
    cells = table_cells(sweep_html(swept, "swept"))
    on_front = {case for case, shown in cells.items() if shown[1] == "on the front"}
    assert on_front == pareto_front(swept)
    assert 0 < len(on_front) < len(swept) - 2
    standings = {case: shown[1] for case, shown in cells.items()}
    assert standings[swept[12]["case"]] == "throttled"
    assert standings[swept[15]["case"]] == "failed"


def test_a_failed_row_tells_its_step_error_and_hint_as_text():
    failed = rows.failed_row("mswin_nano", "int8", 1, "orin-nano")
    text = sweep_html([failed, rows.row()], "swept")
    remark = table_cells(text)[failed["case"]][-1]
    error = failed["error"]
    assert remark == f"build: {error['message']} ({error['hint']})"
    assert "<attention_3>" not in text
    assert "1 of 2 cases failed; the table tells why" in text


def test_names_of_the_users_are_text_wherever_they_go():
    row = rows.row(board="<b>&'\"")
    row["label"] += "<script>"
    other = rows.row(precision="int8", board="plain")
    text = sweep_html([row, other], "<i>title</i>")
    assert "<b>" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)
    assert "<i>title" not in text
    assert text.count("<script>") == 1
    assert "&lt;b&gt;&amp;&#39;&#34;" in text


def test_there_is_a_choice_along_each_axis_with_several_values():
    swept = rows.sweep()
    text = sweep_html(swept, "swept")
    legends = re.findall(r"<legend>(.*?)</legend>", text)
    assert legends == ["Board", "Batch"]
    values = re.findall(r'<input type="radio"[^>]*>(.*?)</label>', text)
    assert values == ["all", "orin-nano", "agx-orin", "all", "1", "8"]
    # A case that failed without a board is hidden by the choice of none.
    nowhere = rows.failed_row("mswin_nano", "int8", 8, "")
    text = sweep_html([*swept, nowhere], "swept")
    (attributes,) = re.findall(rf'<tr id="case-{nowhere["case"]}"([^>]*)>', text)
    assert attributes == ' data-batch="1"'


def test_competitions_are_told_apart_by_what_differs():
    resolution = rows.row()
    resolution["parameters"] |= {"resolution": "96x96"}
    mode = rows.row(precision="int8")
    mode["parameters"] |= {"measure": {"mode": "application"}}
    noise = rows.row(precision="fp16", labels=False)
    text = sweep_html([resolution, mode, noise], "swept")
    assert re.findall(r"<h2 id=\"front-\d-title\">(.*?)</h2>", text) == [
        "orin-nano · 15W · batch 1 · 96x96 · duration_s = 3, mode = trtexec-11",
        "orin-nano · 15W · batch 1 · mode = application",
        "orin-nano · 15W · mswin_nano · batch 1 · duration_s = 3, mode = trtexec-11",
    ]


def test_where_every_case_was_throttled_there_is_no_front():
    throttled = rows.row() | {"verdict": "throttled", "verdict_reasons": ["thermal, seen twice"]}
    text = sweep_html([throttled], "swept")
    assert "Every case was throttled: there is no front." in text
    assert 'id="front-1-cases"' not in text
    assert "1 of 1 case throttled" in text
    assert table_cells(text)[throttled["case"]][-1] == "thermal, seen twice"
    assert "front-line" not in re.sub(r"<style>.*</style>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("swept", [[], [rows.failed_row("mswin_nano", "fp32", 1, "")]])
def test_a_sweep_without_figures_makes_a_page(swept):
    text = sweep_html(swept, "swept")
    assert '<figure class="plot"' not in text
    assert ("There is no row yet." in text) == (not swept)


def test_what_rows_lack_is_left_out():
    row = rows.row(labels=False, energy=False)
    text = sweep_html([row], "swept")
    ids = re.findall(r'<figure class="plot" id="([^"]*)"', text)
    assert ids == ["front-1-latency", "front-1-size"]
    heads = re.findall(r"<button type=\"button\">(.*?)</button>", text)
    assert "top-1, %" not in heads
    assert "mJ" not in heads
    assert "on random samples" not in text
    assert "on random samples" in sweep_html([row | {"samples": "random"}], "swept")


def test_a_plot_has_the_rows_whose_figure_is_known_and_names_what_does_not_compete():
    known = rows.row()
    silent = rows.row(precision="int8", energy=False)
    throttled = rows.row(precision="fp16") | {"verdict": "throttled"}
    (group,) = competitions([known, silent, throttled])
    latency, energy, _ = front_plots(group, "front")
    assert sum(bool(mark.tip) for mark in latency.marks) == 3
    assert [mark.tip.partition(" batch")[0] for mark in energy.marks if mark.tip] == [
        "mswin_nano fp16",
        "mswin_nano fp32",
    ]
    assert "Hollow: throttled." in latency.note
    assert [mark.kind for mark in energy.marks].count("hole") == 1
    assert not group.counts_energy


def test_rows_of_an_earlier_version_make_a_page():
    row = rows.row()
    for name in ("verdict", "verdict_reasons", "power_mode", "power_rail", "locked_clocks"):
        del row[name]
    for name in ("clock_mhz", "temperature_c", "energy_std_error_mj", "idle_mw", "drift_percent"):
        del row["figures"][name]
    assert "orin-nano · batch 1" in sweep_html([row], "swept")


def corners(plot) -> list[tuple[float, float]]:
    (path,) = [mark.path for mark in plot.marks if mark.kind == "front-line"]
    return [tuple(map(float, point.split())) for point in path.removeprefix("M").split("L")]


def test_the_line_of_a_front_joins_what_is_unbeaten_in_its_two_figures():
    group = competitions(rows.sweep())[0]
    for plot, figure in zip(
        front_plots(group, "front"), ("p50_ms", "energy_mj", "engine_bytes"), strict=True
    ):
        points = [(r["figures"][figure], r["figures"]["top1_b"]) for r in group.contenders]
        unbeaten = sorted(
            (cost, top1)
            for cost, top1 in points
            if not any(c <= cost and t >= top1 and (c, t) != (cost, top1) for c, t in points)
        )
        scale = 1e-6 if figure == "engine_bytes" else 1.0
        expected = [(plot.x.at(cost * scale), 1000 - plot.y.at(top1)) for cost, top1 in unbeaten]
        assert len(expected) > 2
        for found, wanted in zip(corners(plot)[::2], expected, strict=True):
            assert found == pytest.approx(wanted, abs=0.1)


def test_outputs_without_error_lie_at_the_upper_edge_and_those_that_are_no_numbers_at_the_lower():
    exact = rows.row(labels=False, sqnr_db=None, max_abs_error=0)
    noisy = rows.row(precision="int8", labels=False)
    broken = rows.row(precision="fp16", labels=False, sqnr_db=None, max_abs_error=None)
    (group,) = competitions([exact, noisy, broken])
    plot = front_plots(group, "front")[0]
    heights = {
        mark.tip.partition(" batch")[0]: float(re.match(r"M[\d.]+ (-?[\d.]+)h0", mark.path)[1])
        for mark in plot.marks
        if mark.tip
    }
    assert heights["mswin_nano fp32"] == pytest.approx(0, abs=0.1)
    assert 0 < heights["mswin_nano int8"] < 1000
    assert heights["mswin_nano fp16"] == pytest.approx(1000, abs=0.1)
    assert "no error at all" in plot.note
    assert "no numbers" in plot.note
    (alone,) = competitions([exact])
    assert "no numbers" not in front_plots(alone, "front")[0].note
    cells = table_cells(sweep_html([exact, noisy, broken], "swept"))
    assert [cells[row["case"]][2] for row in (exact, noisy, broken)] == ["∞", "31.0", "–"]
    assert "no error; " not in case_words(noisy, group)


def test_a_case_is_named_by_what_tells_it_from_its_competitors():
    a, b = rows.row(), rows.row(precision="int8")
    assert case_name(b, [a, b]) == "int8"
    c = rows.row("mswin_tiny")
    assert case_name(b, [a, b, c]) == "mswin_nano int8"
    assert case_name(a, [a]) == "fp32"


def test_a_page_without_jinja2_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs jinja2") as caught:
        render_sweep([rows.row()], "swept", tmp_path / "page.html")
    assert "edgeattn[report]" in caught.value.hint
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("top1", [(98.8, 98.8), (100.0, 100.0), (0.0, 0.4), (60.0, 100.0)])
def test_an_axis_of_percent_ends_at_a_hundred(top1):
    swept = [rows.row(precision=precision, seed=i) for i, precision in enumerate(("fp32", "int8"))]
    for row, percent in zip(swept, top1, strict=True):
        row["figures"]["top1_b"] = percent
    (group,) = competitions(swept)
    axis = front_plots(group, "front")[0].y
    assert 0 <= axis.low <= min(top1)
    assert max(top1) < axis.high < 100.5
    assert axis.high - axis.low < 1.3 * (max(top1) - min(top1)) + 2.5
