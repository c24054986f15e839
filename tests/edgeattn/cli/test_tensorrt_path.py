"""The path of docs/first-run-on-a-jetson.md where TensorRT is: plan, build, prove, run, measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import read_manifest
from edgeattn.cli.main import run
from edgeattn.plugin.build import find_plugin_library
from tests.tensorrt_graphs import EXPORTED_SHAPE, block, save

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]

RANGE = ["--min-shapes", "x:1x8x8x32", "--opt-shapes", "x:2x8x8x32", "--max-shapes", "x:4x16x16x32"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a graph; the timing cache is the test's own, the plugin library is not."""
    monkeypatch.chdir(tmp_path)
    save(block(), tmp_path / "net.int8.onnx")
    rng = np.random.default_rng(0)
    np.savez("in.npz", x=rng.standard_normal((3, *EXPORTED_SHAPE[1:])).astype(np.float32))
    return tmp_path


def done(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that has to succeed; returns what it printed."""
    code = run(arguments)
    captured = capfd.readouterr()
    assert code == 0, captured.err
    return captured.out


def done_json(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(done(capfd, *arguments, "--json"))
    return values


@pytest.mark.parametrize("way", ["plugin", "native"])
def test_an_engine_is_planned_built_proven_run_and_measured(folder, capfd, way):
    import tensorrt

    if way == "plugin":
        major = int(tensorrt.__version__.partition(".")[0])
        assert find_plugin_library(major), "edgeattn plugin build makes the library"
    cache = ["--timing-cache", "t.cache"]
    asked = ["build", "net.int8.onnx", "--engine", "tensorrt", "--attention", way, *RANGE, *cache]
    planned = done_json(capfd, *asked, "--dry-run")
    assert planned["faults"] == []
    assert tensorrt.__version__.startswith(planned["tensorrt"].rpartition(".")[0])
    built = done_json(capfd, *asked, "--verify")
    report = built["report"]
    failed = [check for check in report["verify"] if check["verdict"] == "failed"]
    assert failed == [], report
    if way == "plugin":
        assert [each["verdict"] for each in report["attention"]] == ["plugin"], report
    assert Path("t.cache").stat().st_size > 0
    assert Path("net.int8.engine.log").read_text()
    assert read_manifest(Path("net.int8.engine")).target == "tensorrt"

    done(capfd, "run", "net.int8.engine", "--inputs", "in.npz", "--outputs", "out.npz")
    done(capfd, "run", "net.int8.onnx", "--inputs", "in.npz", "--outputs", "cpu.npz")
    with np.load("out.npz") as ours, np.load("cpu.npz") as theirs:
        error = np.abs(ours["y"] - theirs["y"]).max() / np.abs(theirs["y"]).max()
    assert error < 0.1
    profiled = done_json(
        capfd, "profile", "net.int8.engine", "--shapes", "x:2x8x8x32", "--duration", "1"
    )
    assert profiled["latency"]["p50_ms"] > 0
    assert profiled["mode"].startswith("device: ")
    compared = done_json(
        capfd, "compare", "net.int8.onnx", "net.int8.engine", "--inputs", "in.npz",
        "--duration", "0.2",
    )  # fmt: skip
    assert compared["figures"]["sqnr_db"] > 20
    assert "TensorRT" in done(capfd, "inspect", "net.int8.engine")


def test_a_precision_that_is_required_is_there_or_no_engine_is(folder, capfd):
    asked = ["build", "net.int8.onnx", "--engine", "tensorrt", "--attention", "native"]
    code = run([*asked, "--require-precision", "int8"])
    error = capfd.readouterr().err
    assert (code == 0) == Path("net.int8.engine").exists(), error
    assert code == 0 or "int8 was required, but" in error
