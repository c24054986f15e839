"""`edgeattn check` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edgeattn.cli.main import run
from tests.edgeattn.deploy.check.graphs import PLANTED, free_the_batch, sound

ORIN = ["--target", "jetson-orin-nano", "--jetpack", "6.2"]


def saved(folder: Path, fault: str = "") -> str:
    graph = sound()
    if fault:
        PLANTED[fault].change(graph)
    onnx.save(graph, folder / "net.onnx")
    return str(folder / "net.onnx")


def test_a_sound_graph_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", saved(tmp_path), *ORIN]) == 0
    printed = capsys.readouterr()
    assert "Jetson Orin Nano (sm_87)" in printed.out
    assert "10.3.0.30: JetPack 6.2 has it" in printed.out
    assert "ms a query, a bound, if each layer is one kernel" in printed.out
    assert "head/MatMul" in printed.out
    assert "note, plugin: 1 attention nodes need the plugin library" in printed.out
    assert "error" not in printed.out
    assert printed.err == ""


def test_an_error_ends_with_exit_code_1_and_its_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, "a mode that TensorRT does not have")
    assert run(["check", path, *ORIN]) == 1
    printed = capsys.readouterr()
    assert (
        "error, operator: resize: its mode is cubic; TensorRT takes nearest, linear" in printed.out
    )
    assert printed.err.splitlines() == [
        "Error: net.onnx will not run there as it is: operator: resize: its mode is cubic; "
        "TensorRT takes nearest, linear",
        "hint: write it otherwise in the model: the parser takes the operator, but not so",
    ]


def test_a_warning_alone_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", saved(tmp_path, "float64"), *ORIN]) == 0
    printed = capsys.readouterr().out
    assert "warning, type: there: it gives float64, which TensorRT computes in float32" in printed


def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, "an operator that TensorRT does not have")
    assert run(["check", path, *ORIN, "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert values["passed"] is False
    assert (values["target"], values["jetpack"], values["tensorrt"]) == (
        "jetson-orin-nano",
        "6.2",
        "10.3.0.30",
    )
    assert values["findings"][0] == {
        "level": "error",
        "topic": "operator",
        "node": "chance",
        "reason": "TensorRT has no Bernoulli",
        "fix": "write the model without it, or bring a plugin of that name",
    }
    assert [layer["node"] for layer in values["bound"]["layers"]] == [
        "qkv/MatMul",
        "attention",
        "head/MatMul",
    ]
    assert values["memory"]["module_gib"] == 8
    assert "10.1 (96e78110, 2024-06-17)" in values["operators"]


def test_shapes_and_memory_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = sound()
    free_the_batch(graph)
    path = tmp_path / "net.onnx"
    onnx.save(graph, path)
    assert run(["check", str(path), *ORIN]) == 1
    assert "give --opt-shapes x:1x8x8x32" in capsys.readouterr().out
    shapes = ["--minShapes", "x:1x8x8x32", "--optShapes=x:4x8x8x32", "--max-shapes=x:8x8x8x32"]
    assert run(["check", f"--onnx={path}", *ORIN, *shapes, "--memory", "4"]) == 0
    assert "free on a board of 4 GiB" in capsys.readouterr().out


def test_what_is_alike_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", saved(tmp_path), *ORIN, "--attention", "native"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("TensorRT will not fuse it") == 1
    assert "warning, attention: attention, group 0, attention, group 1: TensorRT" in printed


def test_a_board_has_to_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", saved(tmp_path)]) in (0, 1)  # 0 where TensorRT is installed
    told = capsys.readouterr().err
    assert not told or "add --target BOARD" in told
    assert run(["check", saved(tmp_path), "--target", "jetson-orin-nan"]) == 1
    assert "did you mean jetson-orin-nano" in capsys.readouterr().err


def test_the_shown_layers_are_the_slowest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeattn.cli import check

    monkeypatch.setattr(check, "_SHOWN_LAYERS", 1)
    assert run(["check", saved(tmp_path), *ORIN]) == 0
    printed = capsys.readouterr().out
    assert "qkv/MatMul" in printed
    assert "head/MatMul" not in printed
    assert "and 2 more layers; --json shows them" in printed
