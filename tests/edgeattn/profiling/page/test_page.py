"""The page as text: it is whole with what a report has, and nothing that it lacks is made up."""

from __future__ import annotations

import html
import re

import pytest

from edgeattn.engine.build import build
from edgeattn.engine.load import load
from edgeattn.engine.random_inputs import random_inputs
from edgeattn.errors import ArtifactError, MissingDependencyError
from edgeattn.profiling.layers.cpu import profile_cpu_layers
from edgeattn.profiling.page import page_html, render_page
from edgeattn.profiling.profile import profile
from edgeattn.profiling.trace import trace_of_report
from tests.edgeattn.profiling.page import reports
from tests.graphs import classifier, save

OPTIONAL = {
    "layers": "Where the time goes",
    "board": "Power mode",
    "energy": "Energy per query",
    "verdict": 'class="verdict',
    "build_report": "Precision and attention",
}


def test_the_figures_of_the_report_are_on_the_page():
    report = reports.full_report(1200)
    text = html.unescape(page_html(report))
    latency = report["latency"]
    low, high = latency["p50_interval_ms"]
    for shown in (
        f"{latency['p50_ms']:.3f}",
        f"{low:.3f} to {high:.3f} ms with 95 % confidence",
        f"{latency['p99_ms']:.3f}",
        "31.84",
        "± 0.41 mJ standard error; VDD_IN, above 4.63 W at rest",
        "over-current, seen 9 times in 1402 samples",
        "stage 2 / block 5 / </span>attention (windows 4, 8)",
        "its products and its softmax are in 3 layers",
        "attention: 3 in our plugin, 1 not fused",
        "MatMul_231",
        "Ubuntu 22.04.4 LTS",
        report["warnings"][0],
        report["mode"],
    ):
        assert shown in text


@pytest.mark.parametrize(("mode", "is_measured"), [("host", True), ("trtexec-10", False)])
def test_percentiles_are_called_measured_where_they_are(tmp_path, mode, is_measured):
    engine = build(save(classifier(1), tmp_path / "net.onnx"), threads=1)
    options = {"iterations": 4, "duration_s": 0, "warm_up_ms": 0, "board": False}
    report = profile(engine, mode=mode, **options)
    times = [query["latencyMs"] for query in report.export_times]
    assert (report.latency.p50_ms in times) == is_measured
    text = page_html(report.to_dict())
    assert ("Every percentile is one of the times measured" in text) == is_measured
    assert ("Percentiles are what trtexec prints" in text) != is_measured


@pytest.mark.parametrize("missing", OPTIONAL)
def test_what_a_report_lacks_is_left_out_and_the_rest_stays(missing):
    report = reports.full_report(120)
    del report[missing]
    text = page_html(report)
    assert OPTIONAL[missing] not in text
    assert all(words in text for name, words in OPTIONAL.items() if name != missing)


def test_a_latency_report_alone_makes_a_page():
    text = page_html(reports.latency_report(7))
    assert not any(words in text for words in OPTIONAL.values())
    assert "Slowest query" in text  # no 99th percentile of 7 queries
    assert text.count('<figure class="plot"') == 3


def test_a_report_of_an_older_version_without_an_interval_makes_a_page():
    report = reports.latency_report(120)
    for part in ("latency", "h2d", "compute", "d2h", "enqueue"):
        del report[part]["p50_interval_ms"]
    assert "with 95 % confidence" not in page_html(report)


def test_what_the_caller_waited_is_in_the_table_where_it_was_measured():
    report = reports.latency_report(120)
    assert "End to end" not in page_html(report)
    report["end_to_end"] = dict(report["latency"], p50_ms=5.4321)
    text = page_html(report)
    assert "End to end (host)" in text
    assert "End to end" not in page_html(report | {"end_to_end": report["latency"]})
    assert "5.432" in text


def test_an_engine_that_copies_nothing_has_one_row_of_statistics():
    report = reports.latency_report(120)
    for part in ("h2d", "d2h"):
        report[part] = dict.fromkeys(report[part], 0.0)
    text = page_html(report)
    assert "Host to device" not in text
    assert "host to device" not in text


def test_the_report_and_the_layers_of_a_real_engine_make_a_page_and_a_trace(tmp_path):
    engine = build(save(classifier(1), tmp_path / "net.onnx"), threads=1)
    report = profile(engine, iterations=120, duration_s=0, warm_up_ms=0).to_dict()
    with load(engine) as loaded:
        layers = profile_cpu_layers(loaded, random_inputs(loaded.inputs, None, 0), iterations=4)
    report["layers"] = layers.to_dict()
    text = html.unescape(page_html(report))
    assert f"{report['latency']['p50_ms']:.4f}"[:5] in text
    assert all(row.name in text for row in layers.rows)
    assert layers.note in text
    assert report["environment"]["cpu_model"] in text
    names = {event["name"] for event in trace_of_report(report)["traceEvents"]}
    assert {row.name for row in layers.rows} <= names


def test_layers_of_which_no_cost_is_known_have_no_roofline_and_no_such_columns():
    report = reports.full_report(120)
    for row in report["layers"]["rows"]:
        row.update(bytes=None, flops=None, gb_s=None, gflop_s=None, ceiling_share=None, bound="")
    text = page_html(report)
    assert 'id="roofline"' not in text
    assert "GFLOP/s" not in text
    assert "median ms" in text


def test_roofs_are_drawn_only_where_their_numbers_are_known():
    report = reports.full_report(120)
    assert page_html(report).count('class="roof"') == 3
    del report["layers"]["roofs"]
    text = page_html(report)
    assert 'class="roof"' not in text
    assert 'id="roofline"' in text


def test_names_from_an_engine_stay_text():
    report = reports.full_report(120)
    hostile = '</script><img src=x onerror="alert(1)">'
    report["layers"]["rows"][0]["name"] = hostile
    report["layers"]["modules"][0]["label"] = hostile
    report["manifest"]["parents"]["engine"]["file"] = hostile
    report["build_report"]["attention"][0]["name"] = hostile
    text = page_html(report)
    assert "<img" not in text
    assert text.count("</script>") == 1
    assert text.count(html.escape(hostile, quote=False).replace('"', "&#34;")) >= 5


def test_the_page_names_no_other_place():
    text = page_html(reports.full_report(120))
    assert not re.search(r"https?:|//\w|@import|url\(|<link|src=", text.replace("// ", ""))
    assert "default-src 'none'" in text


def test_the_page_of_a_hundred_thousand_queries_stays_under_six_megabytes(tmp_path):
    report = reports.full_report(100_000)
    row = report["layers"]["rows"][0]
    report["layers"]["rows"] = [row | {"name": f"layer {i}"} for i in range(2000)]
    render_page(report, tmp_path / "net.html")
    assert (tmp_path / "net.html").stat().st_size < 6_000_000


def test_something_else_than_a_report_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no page can be made of the report: KeyError"):
        render_page({"figures": {}}, tmp_path / "net.html")
    assert not (tmp_path / "net.html").exists()


def test_jinja2_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match="needs jinja2") as caught:
        page_html(reports.latency_report(5))
    assert "edgeattn[report]" in caught.value.hint
