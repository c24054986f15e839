"""The part of the page on what was built, of printouts as TensorRT's inspector gives them."""

from __future__ import annotations

import html
from pathlib import Path

from edgeattn.engine.tensorrt.build import TensorRtBuild
from edgeattn.engine.tensorrt.build_report import describe_report, make_build_report
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.profiling.page import page_html
from tests.edgeattn.profiling.page import reports
from tests.tensorrt_printouts import ATTENTION, text_of, window_block


def _build_report(inspector: str) -> dict:
    build = TensorRtBuild(
        plan=Path("block.engine"),
        inspector=inspector,
        log=CapturedLog(),
        seconds=12.0,
        device_memory_bytes=58 << 20,
        plan_bytes=34 << 20,
        timing_cache={},
        used_plugin_libraries=(),
    )
    return make_build_report(build, window_block(), [])


def test_the_made_up_build_report_has_the_form_of_a_real_one():
    made_up, real = reports.build_report(), _build_report(text_of("window_plugin_int8_10x"))
    assert made_up.keys() == real.keys()
    assert made_up["precision"].keys() == real["precision"].keys()
    assert made_up["attention"][0].keys() == real["attention"][0].keys()
    assert made_up["inspector"].keys() == real["inspector"].keys()


def test_a_real_build_report_is_shown():
    real = _build_report(text_of("window_plugin_int8_10x"))
    text = html.unescape(page_html(reports.latency_report(20) | {"build_report": real}))
    assert all(line in text for line in describe_report(real))
    assert f'<th scope="row">{ATTENTION}</th><td><span class="badge good">plugin</span>' in text
    counts = real["precision"]["compute"]
    assert counts
    assert all(f"{dtype}: {number} layer" in text for dtype, number in counts.items())


def test_a_note_on_an_attention_is_shown_beside_it_and_old_reports_have_none():
    real = _build_report(text_of("window_plugin_int8_10x"))
    real["attention"][0]["notes"] = ["heads of 30 channels are padded"]
    report = reports.latency_report(20)
    text = page_html(report | {"build_report": real})
    assert '<td class="long">heads of 30 channels are padded</td>' in text
    del real["attention"][0]["notes"]
    assert ATTENTION in page_html(report | {"build_report": real})


def test_an_engine_that_shows_nothing_is_said_to():
    real = _build_report("no JSON")
    text = html.unescape(page_html(reports.latency_report(20) | {"build_report": real}))
    assert "nothing can be shown of this engine" in text
    assert '<span class="badge open">not known</span>' in text
