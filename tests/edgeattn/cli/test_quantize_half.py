"""`edgeattn quantize --precision fp16` and the verbs that read what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeattn.calibration.quantize import PRECISIONS
from edgeattn.cli import options
from edgeattn.cli.main import run
from tests.graphs import save
from tests.quantization import block, floats


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(block(), tmp_path / "net.onnx")
    np.savez(tmp_path / "in.npz", x=floats(9, 4, 8))
    return tmp_path


def verb(line: str) -> int:
    return run(line.split())


def test_the_command_line_offers_what_quantize_knows() -> None:
    assert options.PRECISIONS == PRECISIONS


def test_without_data_the_output_says_that_nothing_was_checked(folder, capfd) -> None:
    assert run(["quantize", "net.onnx", "--precision", "fp16"]) == 0
    out = capfd.readouterr().out
    assert "wrote net.fp16.onnx" in out
    assert "overflow_check  not done: neither data nor a table" in out


def test_explain_lists_the_nodes_in_float32_and_why(folder, capfd) -> None:
    line = "quantize net.onnx --precision fp16 --data in.npz --explain"
    assert verb(line) == 0
    lines = capfd.readouterr().out.splitlines()
    (norm,) = [line for line in lines if line.split()[:1] == ["norm"]]
    assert norm.split()[1:3] == ["LayerNormalization", "float32"]
    assert "normalization is computed in float32" in norm
    assert any("done: 18 tensors on 9 samples; none beyond 32752" in line for line in lines)


def test_int8_without_a_table_is_refused_with_a_hint(folder, capfd) -> None:
    assert run(["quantize", "net.onnx", "--precision", "int8+fp16"]) == 1
    err = capfd.readouterr().err
    assert "the precision int8+fp16 needs a calibration table" in err
    assert "hint: make one with edgeattn calibrate, or use fp16 or bf16" in err


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8+fp16", "int8+bf16"])
def test_the_other_verbs_work_on_the_result(folder, capfd, precision: str) -> None:
    assert verb("calibrate net.onnx --data in.npz --method minmax") == 0
    graph = f"net.{precision}.onnx"
    quantize = f"quantize net.onnx --table net.calib.json --precision {precision} --data in.npz"
    for line in (
        quantize,
        f"build {graph} --threads 1 -o net.engine",
        "run net.engine --inputs in.npz --outputs out.npz",
        "profile net.engine --shapes x:1x4x8 --iterations 2 --duration 0 --warm-up 0",
        f"inspect {graph}",
    ):
        assert verb(line) == 0, capfd.readouterr().err
    capfd.readouterr()
    gate = "sqnr_db < 50" if precision == "fp16" else "sqnr_db < 20"
    compare = ["compare", "net.onnx", graph, "--inputs", "in.npz", "--no-latency", "--json"]
    assert run([*compare, "--fail-if", gate]) == 0
    assert json.loads(capfd.readouterr().out)
    with np.load("out.npz") as outputs:
        assert outputs["y"].dtype == np.float32
        assert np.isfinite(outputs["y"]).all()


def test_build_writes_bf16_on_the_way(folder, capfd) -> None:
    assert verb("build net.onnx --precision bf16 --threads 1 --json") == 0
    assert json.loads(capfd.readouterr().out)["options"]["precision"] == "bf16"


def test_half_ends_are_asked_for(folder, capfd) -> None:
    assert verb("quantize net.onnx --precision fp16 --half-io -o half.onnx") == 0
    assert verb("build half.onnx --threads 1 --json") == 0
    np.savez("half.npz", x=floats(2, 4, 8).astype(np.float16))
    assert verb("run half.engine --inputs half.npz --outputs out.npz") == 0
    with np.load("out.npz") as outputs:
        assert outputs["y"].dtype == np.float16
    assert verb("quantize net.onnx --precision bf16 --half-io -o bf16.onnx") == 0
    capfd.readouterr()
    assert verb("build bf16.onnx --threads 1") == 1
    err = capfd.readouterr().err
    assert "x is bfloat16, which numpy does not have" in err
    assert "without --half-io" in err
