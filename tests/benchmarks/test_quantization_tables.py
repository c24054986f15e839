"""What the INT8 benchmarks report, and the tables of docs/quantization.md made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_calibration
from benchmarks.bench_accuracy import (
    FLOAT,
    MODELS,
    OURS,
    PEERS,
    SHIPPED,
    Way,
    accuracy,
    describe,
    standard_error,
    ways_for,
)
from benchmarks.bench_calibration import CalibrationRun, histogram_of, is_asked_for, peer_search
from benchmarks.int8_cases import HF_SWIN, Int8Case
from benchmarks.past_rows import Resumed
from tests.scripts import load_script

PAGE = Path(__file__).parents[2] / "docs" / "quantization.md"


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    return load_script(PAGE.with_name("refresh_quantization.py"))


def row(case: Mapping[str, Any], **result: Any) -> dict[str, Any]:
    return {"case": dict(case), "result": result}


def test_the_standard_error_is_never_zero() -> None:
    assert standard_error(100, 40) == pytest.approx(100 * np.sqrt(41 / 42 * 1 / 42 / 42))
    assert standard_error(98.8, 1000) == pytest.approx(0.357, abs=1e-3)


def test_accuracy_needs_labels_and_the_sqnr_does_not() -> None:
    reference = np.eye(4, dtype=np.float32)
    outputs = reference + np.float32(0.01)
    found = accuracy(reference, outputs, np.array([0, 1, 2, 0]))
    assert found["top1"] == 75
    assert found["centred_sqnr_db"] < found["sqnr_db"] == pytest.approx(33.98, abs=0.01)
    assert "top1" not in accuracy(reference, outputs, None)
    assert "top-1 75.00" in describe(found)


def test_every_way_has_a_case_of_its_own() -> None:
    ways = [FLOAT, *OURS, *PEERS]
    assert all(a.case != b.case for i, a in enumerate(ways) for b in ways[:i])
    assert len({str(way) for way in ways}) == len(ways)


def test_a_large_model_is_not_given_to_what_keeps_its_activations() -> None:
    large = ways_for(HF_SWIN, peers=True)
    assert Way("onnxruntime", "minmax") in large
    assert Way("onnxruntime", "entropy") not in large
    assert Way("onnxruntime", "entropy") in ways_for("mswin_nano", peers=True)
    assert SHIPPED in ways_for("mswin_nano", peers=False)
    assert ways_for(HF_SWIN, peers=False) == [FLOAT, *(way for way in OURS if way != SHIPPED)]


def test_tools_and_methods_can_be_asked_for() -> None:
    way = ("modelopt", "max")
    assert is_asked_for(way, None)
    assert is_asked_for(way, ["edgeattn", "modelopt"])
    assert is_asked_for(way, ["modelopt:max"])
    assert not is_asked_for(way, ["modelopt:entropy", "edgeattn"])


def test_a_tool_that_failed_is_not_tried_with_more_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jobs, rows = [], []

    def run_job(job: Any) -> dict[str, Any]:
        jobs.append((job.tool, job.count))
        result = {"seconds": 2.0 * job.count, "peak_mib": 10.0}
        return {"failed": "no memory"} if job.tool == "onnxruntime" else result

    monkeypatch.setattr(bench_calibration, "run_job", run_job)
    monkeypatch.setattr(bench_calibration, "append_row", lambda *row: rows.append(row[1:]))
    case = Int8Case("m", Path("g"), Path("p"), np.zeros(0), np.zeros(0), None, True)
    run = CalibrationRun(case, tmp_path / "samples.npy", 100, Resumed("calibration_cost", False))
    run.run((4, 2), [("edgeattn", "minmax"), ("onnxruntime", "entropy")])
    assert jobs.count(("onnxruntime", 2)) == 1
    assert ("onnxruntime", 4) not in jobs
    found = {(c["tool"], c["images"]): result for c, result in rows}
    assert found["edgeattn", 4]["ratio_to_floor"] == 1
    assert found["floor", 2]["runs_s"] == [4, 4]
    assert found["onnxruntime", 4]["failed"] == "not tried: it failed with 2 images"


def test_drawn_histograms_are_the_same_each_time() -> None:
    assert histogram_of(3, 1000).amax == histogram_of(3, 1000).amax != histogram_of(4, 1000).amax
    _, drawn = peer_search()
    assert len(drawn[0][0]) == 2048


def test_the_page_has_a_block_for_each_table(refresh: ModuleType) -> None:
    text = PAGE.read_text()
    for name in ("sqnr", "top1", "registry", "cost", "search"):
        assert text.count(f"<!-- {name}:begin -->\n") == text.count(f"<!-- {name}:end -->") == 1


def test_a_table_has_a_line_for_each_way_that_was_measured(refresh: ModuleType) -> None:
    case, auto = {"model": "mswin_nano"}, Way("edgeattn", "auto", "linear")
    rows = [
        row(case | auto.case, centred_sqnr_db=43.44),
        row(case | PEERS[0].case, failed="no memory"),
        row({"model": HF_SWIN} | auto.case, centred_sqnr_db=12.0),
        row({"model": HF_SWIN} | PEERS[0].case, centred_sqnr_db=10.5),
    ]
    table = refresh.accuracy_table(rows, MODELS, refresh.sqnr).splitlines()
    assert table[2:] == [
        "| **edgeattn**, `linear`, auto | 43.4 |  |  | 12.0 |",
        "| ONNX Runtime, minmax | failed |  |  | 10.5 |",
    ]
    assert f"- `{HF_SWIN}`: auto +1.5 dB (ONNX Runtime, minmax)" in refresh.margins(rows)
    assert "mswin_nano" not in refresh.margins(rows)
    corrected = Way("edgeattn", "auto", "linear", {"correct_bias": True})
    rows.append(row({"model": HF_SWIN} | corrected.case, centred_sqnr_db=14.0))
    assert "auto +1.5 dB, `--correct-bias` +3.5 dB" in refresh.margins(rows)
    rows.append(row({"model": HF_SWIN} | SHIPPED.case, centred_sqnr_db=15.0))
    assert "with its recipe +4.5 dB, auto +1.5 dB" in refresh.margins(rows)
    assert "| **edgeattn**, `linear`, its recipe |" in refresh.accuracy_table(
        rows, MODELS, refresh.sqnr
    )


def test_costs_are_written_with_their_ratio_or_their_failure(refresh: ModuleType) -> None:
    assert refresh.cost(None) == ""
    done = {"seconds": 12.34, "ratio_to_floor": 1.237, "peak_mib": 1024.0}
    assert refresh.cost(done) == "12.3 s (1.24x), 1.00 GiB"
    ours = done | {"calibrate_s": 6.17}
    assert refresh.cost(ours) == "12.3 s (1.24x; the table 0.62x), 1.00 GiB"
    failed = {"failed": "MemoryError: ", "seconds": 61.0, "memory_limit_mib": 16384}
    assert refresh.cost(failed) == "failed at the limit of 16 GiB after 61 s"
    assert refresh.cost({"failed": "not tried: it failed with 128 images"}) == "not tried"


def test_only_the_newest_row_of_a_case_counts(
    refresh: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row({"a": 1, "b": 2}, n=1), row({"a": 1, "b": 3}, n=2), row({"b": 2, "a": 1}, n=3)]
    monkeypatch.setattr(refresh, "past_rows", lambda name: iter(rows))
    found = refresh.newest("x")
    assert [each["result"]["n"] for each in found] == [3, 2]
    assert refresh.find(found, {"a": 1, "b": 3}) == {"n": 2}
    assert refresh.find(found, {"a": 2}) is None
