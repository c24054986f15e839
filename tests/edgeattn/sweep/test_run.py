"""Whole sweeps over a network that takes microseconds."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import edgeattn
from edgeattn.artifacts import sha256_of_file
from edgeattn.cli.main import run
from edgeattn.errors import ArtifactError, BoardError, SpecError
from edgeattn.profiling.report import read_report
from edgeattn.sweep.cases import expand
from edgeattn.sweep.results import read_rows
from edgeattn.sweep.run import Workbench, run_sweep
from edgeattn.sweep.spec import read_spec
from tests.edgeattn.sweep.sweeps import PRODUCT, write_sweep

FLOATS = PRODUCT.replace('["fp32", "int8"]', '["fp32"]')


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    return folder, run_sweep(write_sweep(folder), folder / "out")


def test_each_case_has_one_row_with_its_values_and_figures(swept):
    folder, outcome = swept
    rows = read_rows(folder / "out" / "results.jsonl")
    assert rows == list(outcome.rows)
    assert [row["case"] for row in rows] == [c.id for c in expand(read_spec(folder / "sweep.toml"))]
    for row in rows:
        assert (row["status"], row["error"]) == ("ok", None)
        figures = row["figures"]
        assert 0 < figures["min_ms"] <= figures["p50_ms"] <= figures["max_ms"]
        assert figures["throughput_qps"] > 0
        assert figures["accuracy_samples"] == 12
        assert figures["top1_a"] == 100
        assert row["shapes"] == {"x": [row["parameters"]["batch_size"], 8]}
        assert row["environment"]["cpu_model"]
        assert row["tools"]["edgeattn"] == edgeattn.__version__


def test_the_rows_figures_are_those_of_the_engine_that_is_left(swept):
    folder, outcome = swept
    row = outcome.rows[2]
    assert row["parameters"]["precision"] == "int8"
    engine = folder / "out" / "engines" / f"{row['case']}.engine"
    assert row["made_from"]["engine"] == sha256_of_file(engine)
    assert row["figures"]["engine_bytes"] == engine.stat().st_size
    with np.load(folder / "labelled.npz") as arrays:
        compared = edgeattn.compare(folder / "net.onnx", engine, dict(arrays), latency=False)
    assert row["figures"]["sqnr_db"] == pytest.approx(compared.figures()["sqnr_db"])
    assert row["figures"]["sqnr_db"] < 60
    report = read_report(folder / "out" / "reports" / f"{row['case']}.profile.json")
    assert row["figures"]["p50_ms"] == report.latency.p50_ms


def test_rows_say_what_the_board_did_where_it_was_watched(swept, tmp_path):
    assert {row["verdict"] for row in swept[1].rows} == {None}
    text = FLOATS.replace("board = false", "idle_s = 0").replace("[1, 3]", "[1]")
    outcome = run_sweep(write_sweep(tmp_path, text))
    (row,) = outcome.rows
    board = read_report(outcome.path.parent / "reports" / f"{row['case']}.profile.json").board
    assert row["verdict"] == board.verdict.word
    assert row["verdict_reasons"] == list(board.verdict.reasons)
    assert row["power_mode"] == board.trace.power_mode


def test_cases_share_what_they_can_and_the_graph_is_not_touched(swept):
    folder, _ = swept
    files = sorted(path.name for path in (folder / "out" / "graphs").glob("*"))
    assert sum(name.endswith(".calib.json") for name in files) == 1
    assert sum(name.endswith(".onnx") for name in files) == 1
    assert not (folder / "net.calib.json").exists()


def test_a_sweep_that_is_done_is_done(swept):
    folder, outcome = swept
    again = run_sweep(folder / "sweep.toml", folder / "out", resume=True)
    assert (again.ran, again.rows) == (0, outcome.rows)
    with pytest.raises(ArtifactError, match="has rows of 4 cases already"):
        run_sweep(folder / "sweep.toml", folder / "out")


def test_cases_that_were_throttled_run_again_if_that_is_asked_for(swept, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "copy")
    spec, path = folder / "sweep.toml", folder / "out" / "results.jsonl"
    kept, throttled, *others = read_rows(path)
    throttled["verdict"] = "throttled"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in (kept, throttled, *others)))
    assert run_sweep(spec, path.parent, retry_failed=True).ran == 0
    outcome = run_sweep(spec, path.parent, retry_throttled=True)
    assert outcome.ran == 1
    assert [row["case"] for row in outcome.rows] == [row["case"] for row in swept[1].rows]
    assert outcome.rows[0] == kept
    assert outcome.rows[1]["verdict"] != "throttled"


def test_rows_of_cases_that_the_sweep_has_no_more_are_left_alone(swept, tmp_path, monkeypatch):
    error = {"error": {"message": "nothing runs here", "step": "start"}}
    monkeypatch.setattr("edgeattn.sweep.run.run_task", lambda *_, **__: error)
    folder = shutil.copytree(swept[0], tmp_path / "copy")
    spec, path = folder / "sweep.toml", folder / "out" / "results.jsonl"
    rows = [{**row, "verdict": "throttled"} for row in read_rows(path)]
    rows[3] |= {"status": "failed", "error": {"message": "it crashed", "step": "build"}}
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    spec.write_text(PRODUCT.replace("[1, 3]", "[1]"))
    of_the_sweep = {case.id for case in expand(read_spec(spec))}
    outcome = run_sweep(spec, path.parent, retry_failed=True, retry_throttled=True)
    assert outcome.ran == len(of_the_sweep) == 2
    others = [row for row in rows if row["case"] not in of_the_sweep]
    assert [row for row in read_rows(path) if row["case"] not in of_the_sweep] == others


def test_a_case_that_fails_is_a_row_and_the_others_go_on(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path, FLOATS.replace("[models", 'resolutions = ["7x7"]\n[models', 1))
    with (tmp_path / "sweep.toml").open("a") as stream:
        stream.write("[[exclude]]\nbatch_size = 3\n")
    first = (tmp_path / "sweep.toml").read_text()
    assert run(["sweep", "sweep.toml", "--json"]) == 1
    captured = capfd.readouterr()
    printed = json.loads(captured.out)
    assert (printed["ran"], printed["failed"], printed["pareto"]) == (1, 1, [])
    error = printed["rows"][0]["error"]
    assert error["message"] == "no input has the axes of the resolution 7x7"
    assert error["kind"] == "SpecError"
    assert "1 of 1 cases failed" in captured.err

    (tmp_path / "sweep.toml").write_text(first.replace("[[exclude]]\nbatch_size = 3\n", ""))
    assert run(["sweep", "sweep.toml", "--retry-failed"]) == 1
    assert "2 cases, 2 of them now" in capfd.readouterr().out


def test_rows_that_are_there_are_shown_and_become_a_page_without_running(swept, tmp_path, capfd):
    folder, outcome = swept
    rows = folder / "out" / "results.jsonl"
    before = rows.read_bytes()
    page = tmp_path / "page.html"
    assert run(["sweep", str(rows), "--html", str(page), "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert (printed["ran"], printed["rows"]) == (0, list(outcome.rows))
    assert rows.read_bytes() == before
    text = page.read_text()
    assert "<h1>out</h1>" in text
    assert all(f'<tr id="case-{row["case"]}"' in text for row in outcome.rows)
    assert run(["sweep", str(rows)]) == 0
    assert "nothing ran" in capfd.readouterr().out


def test_rows_that_are_only_shown_take_no_option_of_cases_that_run(swept, capfd):
    rows = str(swept[0] / "out" / "results.jsonl")
    for option in (["--resume"], ["-o", "other"], ["--timeout", "5"], ["--retry-throttled"]):
        assert run(["sweep", rows, *option]) == 2
        assert "is for cases that run" in capfd.readouterr().err


def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, capfd):
    spec = write_sweep(tmp_path, FLOATS)
    assert run(["sweep", str(spec), "--html", str(tmp_path / "nowhere" / "page.html")]) == 1
    assert "there is no folder" in capfd.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_page_takes_the_place_of_neither_the_sweep_nor_its_rows(swept, tmp_path, capfd):
    rows = swept[0] / "out" / "results.jsonl"
    spec = write_sweep(tmp_path, FLOATS)
    before = rows.read_bytes(), spec.read_bytes()
    for arguments in (
        [rows, "--html", rows],
        [spec, "--html", spec],
        [spec, "--html", tmp_path / "sweep" / "results.jsonl"],
        [spec, "-o", tmp_path / "out", "--html", tmp_path / "out" / "results.jsonl"],
    ):
        assert run(["sweep", *map(str, arguments)]) == 1
        assert "two files at once" in capfd.readouterr().err
    assert (rows.read_bytes(), spec.read_bytes()) == before
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_leaves_its_page_where_cases_fail_too(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    text = FLOATS.replace("[1, 3]", "[3]") + '[[include]]\nresolution = "7x7"\n'
    write_sweep(tmp_path, text)
    # In the folder of the rows, which is new.
    assert run(["sweep", "sweep.toml", "-o", "out", "--html", "out/page.html"]) == 1
    captured = capfd.readouterr()
    assert "wrote out/page.html" in captured.out
    page = (tmp_path / "out" / "page.html").read_text()
    assert "<h1>sweep</h1>" in page
    assert "no input has the axes of the resolution 7x7" in page
    assert "1 of 2 cases failed" in page


def test_boards_want_a_scheduler(tmp_path):
    spec = write_sweep(tmp_path, FLOATS.replace("[models", 'boards = ["orin-nano"]\n[models', 1))
    with pytest.raises(SpecError, match="names the board orin-nano, and cases run here"):
        run_sweep(spec)


def test_a_timeout_that_no_case_can_keep_is_refused_before_anything_runs(tmp_path):
    spec = write_sweep(tmp_path, FLOATS.replace("duration_s = 0.01", "sustained_minutes = 0.5"))
    with pytest.raises(SpecError, match="at least 33 s, and the timeout is 33 s"):
        run_sweep(spec, timeout_s=33)
    for endless in (math.inf, math.nan):
        with pytest.raises(SpecError, match=f"the timeout is {endless} s"):
            run_sweep(spec, timeout_s=endless)
    assert not (tmp_path / "sweep").exists()


def test_clocks_are_locked_by_root_alone_and_restored_when_a_case_is_killed(tmp_path, monkeypatch):
    locking = FLOATS.replace("[measure]", "[measure]\nlock_clocks = true")
    spec = write_sweep(tmp_path, locking)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(BoardError, match="locking clocks needs root"):
        run_sweep(spec)
    assert not (tmp_path / "sweep").exists()

    def killed(*_, **__):
        raise KeyboardInterrupt

    restored = []
    monkeypatch.setattr("edgeattn.sweep.run.run_task", killed)
    monkeypatch.setattr("edgeattn.sweep.run.restore_clocks", lambda: restored.append(True))
    case = expand(read_spec(spec))[0]
    with pytest.raises(KeyboardInterrupt):
        Workbench(tmp_path, tmp_path).measure(case, {})
    assert restored == [True]
    write_sweep(tmp_path, FLOATS)
    with pytest.raises(KeyboardInterrupt):
        Workbench(tmp_path, tmp_path).measure(expand(read_spec(spec))[0], {})
    assert restored == [True]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"result": {}}, {"result": {}}),  # its own process has restored them
        ({"error": {"message": "killed"}}, {"error": {"message": "killed; a fan is stuck"}}),
    ],
)
def test_clocks_that_cannot_be_restored_cost_no_other_case(tmp_path, monkeypatch, answer, expected):
    def stuck():
        raise BoardError("a fan is stuck")

    monkeypatch.setattr("edgeattn.sweep.run.run_task", lambda *_, **__: answer)
    monkeypatch.setattr("edgeattn.sweep.run.restore_clocks", stuck)
    spec = write_sweep(tmp_path, FLOATS.replace("[measure]", "[measure]\nlock_clocks = true"))
    case = expand(read_spec(spec))[0]
    assert Workbench(tmp_path, tmp_path).measure(case, {}) == expected


def test_a_sweep_that_is_killed_goes_on_without_losing_or_doubling_a_case(tmp_path):
    write_sweep(tmp_path, FLOATS.replace("[1, 3]", "[1, 2, 3]"))
    rows = tmp_path / "sweep" / "results.jsonl"
    command = [sys.executable, "-m", "edgeattn", "sweep", "sweep.toml"]
    killed = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    end = time.monotonic() + 120
    while not (rows.exists() and rows.read_bytes().count(b"\n")):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = read_rows(rows)
    assert 1 <= len(before) < 3
    outcome = run_sweep(tmp_path / "sweep.toml", resume=True)
    after = read_rows(rows)
    assert after[: len(before)] == before
    assert outcome.ran == 3 - len(before)
    assert sorted(r["parameters"]["batch_size"] for r in after) == [1, 2, 3]


@pytest.mark.slow
def test_models_of_the_registry_are_exported_once_for_each_size(tmp_path):
    text = """
[axes]
models = ["pmsa_nano"]
batch_sizes = [2]
[measure]
iterations = 1
duration_s = 0
warm_up_ms = 0
"""
    (tmp_path / "s.toml").write_text(text)
    (row,) = run_sweep(tmp_path / "s.toml").rows
    assert row["error"] is None
    assert next(iter(row["shapes"].values()))[0] == 2
    (graph,) = (tmp_path / "s" / "graphs").glob("*.onnx")
    assert edgeattn.load(graph).inputs[0].shape[0] == 2


@pytest.mark.slow
def test_a_dynamic_model_has_one_graph_for_all_sizes(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def model():\n"
        "    pool = nn.AdaptiveAvgPool2d(1)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.Flatten(), nn.Linear(4, 3))\n"
    )
    text = """
[axes]
models = ["mine"]
batch_sizes = [1, 2]
resolutions = ["5x6", "7x9"]
[models.mine]
source = "mine:model"
inputs = ["image:1x3x8x8"]
dynamic = true
[measure]
iterations = 1
duration_s = 0
warm_up_ms = 0
"""
    (tmp_path / "s.toml").write_text(text)
    rows = run_sweep(tmp_path / "s.toml").rows
    assert [row["error"] for row in rows] == [None] * 4
    shapes = [row["shapes"]["image"] for row in rows]
    assert shapes == [[1, 3, 5, 6], [1, 3, 7, 9], [2, 3, 5, 6], [2, 3, 7, 9]]
    assert len(list((tmp_path / "s" / "graphs").glob("*.onnx"))) == 1
