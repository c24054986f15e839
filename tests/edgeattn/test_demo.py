"""The demo: the main path on the shipped model and images, to figures that can be believed."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgeattn
from edgeattn import demo
from edgeattn.artifacts import read_manifest, sha256_of_file
from edgeattn.demo import DemoResult, held_out, run_demo
from edgeattn.errors import ArtifactError, EngineError
from edgeattn.models.registry import get_entry
from edgeattn.profiling.report import read_report

FILES = [
    "mswin_nano.onnx",
    "mswin_nano.calib.json",
    "mswin_nano.int8.onnx",
    "mswin_nano.engine",
    "mswin_nano.int8.engine",
    "mswin_nano.profile.json",
    "mswin_nano.html",
    "mswin_nano.int8.profile.json",
    "mswin_nano.int8.html",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "made" / "here"


@pytest.fixture(scope="module")
def steps() -> list[tuple[int, int | None, str]]:
    return []


@pytest.fixture(scope="module")
def result(folder: Path, steps: list[tuple[int, int | None, str]]) -> DemoResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "PROFILE_SECONDS", 0.3)
        return run_demo(folder, lambda *step: steps.append(step))


def test_one_row_per_precision_with_figures_that_can_be(result: DemoResult) -> None:
    float_row, int8_row = result.rows
    assert (float_row.precision, int8_row.precision) == ("FP32", "INT8")
    assert result.num_images == 1000
    assert float_row.top1 >= 97.5
    assert abs(float_row.top1 - int8_row.top1) <= 0.3
    assert float_row.sqnr_db is None
    assert 20 < (int8_row.sqnr_db or 0) < 60
    for row in result.rows:
        assert 0 < row.p50_ms <= (row.p99_ms or row.p50_ms)
        assert row.throughput_qps == pytest.approx(1000 / row.p50_ms, rel=0.8)
        assert row.size_bytes == row.engine.stat().st_size
    assert int8_row.size_bytes < 0.6 * float_row.size_bytes
    assert result.int8_arithmetic in ("fused", "fused-precise", "unfused")


def test_every_file_of_the_path_is_told_and_made_from_the_one_before(
    result: DemoResult, folder: Path
) -> None:
    assert [path.name for path in result.files] == FILES
    assert all(path.parent == folder and path.is_file() for path in result.files)
    graph, table, typed, plan, int8_plan = result.files[:5]
    weights = get_entry("mswin_nano").weights
    assert weights is not None
    assert read_manifest(graph).parents["weights"].sha256 == sha256_of_file(weights)
    assert read_manifest(typed).parents["graph"].sha256 == sha256_of_file(graph)
    assert read_manifest(typed).parents["table"].sha256 == sha256_of_file(table)
    assert read_manifest(plan).parents["graph"].sha256 == sha256_of_file(graph)
    assert read_manifest(int8_plan).parents["graph"].sha256 == sha256_of_file(typed)


def test_the_reports_tell_where_the_time_goes(result: DemoResult) -> None:
    for row in result.rows:
        report = read_report(row.engine.with_suffix(".profile.json"))
        assert report.layers is not None
        assert {"embed", "stages.0", "head"} <= {row.path[0] for row in report.layers.modules}
        page = row.engine.with_suffix(".html").read_text()
        assert row.engine.name in page
        assert "stage 0 / block 0" in page


def test_without_jinja2_there_is_no_page_and_all_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    without = lambda name, *rest: None if name == "jinja2" else find_spec(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    files = demo._report_files(Path("net.int8.engine"))
    assert [path.name for path in files.paths().values()] == ["net.int8.profile.json"]


def test_progress_names_every_step(
    result: DemoResult, steps: list[tuple[int, int | None, str]]
) -> None:
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)
    assert {total for _, total, _ in steps} == {6}
    names = " ".join(what for _, _, what in steps)
    for step in ("export", "calibrate", "quantize", "build", "compare", "profile"):
        assert step in names


def test_the_result_becomes_json(result: DemoResult) -> None:
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [row["precision"] for row in values["rows"]] == ["FP32", "INT8"]
    assert values["files"] == [str(path) for path in result.files]


def test_a_second_run_exports_no_more(
    result: DemoResult, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PROFILE_SECONDS", 0.05)
    monkeypatch.setattr(edgeattn, "export", lambda *args, **kw: pytest.fail("exported again"))
    again = run_demo(folder)
    assert [row.top1 for row in again.rows] == [row.top1 for row in result.rows]


@pytest.fixture
def exported_again(
    result: DemoResult, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Path]:
    """What is exported for a copy of the demo's graph."""
    for name in ("mswin_nano.onnx", "mswin_nano.onnx.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    exports: list[Path] = []
    monkeypatch.setattr(edgeattn, "export", lambda model, output: exports.append(output))
    return exports


def test_a_whole_graph_of_the_same_weights_is_used_again(
    exported_again: list[Path], tmp_path: Path
) -> None:
    demo._exported(tmp_path / "mswin_nano.onnx")
    assert exported_again == []


def test_a_truncated_graph_is_exported_again(exported_again: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "mswin_nano.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    demo._exported(path)
    assert exported_again == [path]


def test_a_graph_of_other_weights_or_tools_is_exported_again(
    exported_again: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "mswin_nano.onnx", tmp_path / "other.safetensors"
    other.write_bytes(b"other weights")
    with monkeypatch.context() as patch:
        entry = replace(get_entry("mswin_nano"), weights=other)
        patch.setattr(demo, "get_entry", lambda name: entry)
        demo._exported(path)
    monkeypatch.setattr(demo, "tool_versions", lambda: {"torch": "1.0"})
    demo._exported(path)
    assert exported_again == [path, path]


def test_an_accuracy_that_was_not_measured_is_an_error_and_not_zero(
    result: DemoResult, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = edgeattn.compare
    monkeypatch.setattr(
        edgeattn, "compare", lambda a, b, inputs, labels, **kw: compare(a, b, inputs, **kw)
    )
    with pytest.raises(EngineError, match="gave no accuracy; expected one on the held-out labels"):
        run_demo(folder)


def test_the_held_out_images_are_a_thousand_of_all_digits() -> None:
    inputs, labels = held_out()
    assert inputs.keys() == {"input"}
    assert inputs["input"].shape == (1000, 1, 28, 28)
    assert inputs["input"].dtype == np.float32
    np.testing.assert_array_equal(np.bincount(labels), [100] * 10)


def test_missing_images_labels_and_weights_are_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(demo, "data_folder", lambda name: tmp_path)
        with pytest.raises(ArtifactError, match=r"shipped images .*heldout\.npz are missing") as e:
            held_out()
        assert e.value.hint == "reinstall edgeattn"
        unlabelled = tmp_path / "samples" / "mnist" / "heldout.npz"
        unlabelled.parent.mkdir(parents=True)
        np.savez(unlabelled, input=np.zeros((2, 1, 28, 28), np.float32))
        with pytest.raises(ArtifactError, match=r"heldout\.npz have no labels") as e:
            held_out()
        assert e.value.hint == "reinstall edgeattn"
    entry = replace(get_entry("mswin_nano"), weights=None)
    monkeypatch.setattr(demo, "get_entry", lambda name: entry)
    with pytest.raises(ArtifactError, match="shipped weights of mswin_nano are missing") as e:
        run_demo(tmp_path / "demo")
    assert e.value.hint == "reinstall edgeattn"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=r"the folder .* cannot be made: Not a directory"):
        run_demo(tmp_path / "file" / "demo")
    with pytest.raises(ArtifactError, match=r"the folder .* cannot be made: File exists"):
        run_demo(tmp_path / "file")
