"""`edgeattn plugin` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeattn.cli.main import run
from edgeattn.graph.op import make_attention_node
from edgeattn.plugin import check as check_module
from edgeattn.plugin import request as request_module
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.edgeattn.plugin.fakes import compile_library, plugin_source

SPEC = AttentionSpec(32, 3, (HeadGroup(3, (7, 7)),))


def graph(path: Path, version: str = "1") -> Path:
    """Write a graph that holds one attention node."""
    node = make_attention_node(SPEC, ["qkv"], "out", "block1")
    next(a for a in node.attribute if a.name == "plugin_version").s = version.encode()
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 14, 14, channels])
        for name, channels in (("qkv", SPEC.qkv_channels), ("out", SPEC.out_channels))
    ]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("edgeattn", 1)]
    body = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(helper.make_model(body, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(check_module, "find_cuda_program", lambda name: None)
    return compile_library(tmp_path / "libplugin.so", plugin_source())


@pytest.mark.parametrize("verb", ["build", "check"])
def test_each_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugin", verb, "--help"]) == 0
    assert f"Example: edgeattn plugin {verb}" in " ".join(capsys.readouterr().out.split())


def test_check_prints_what_was_looked_at(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugin", "check", str(library)]) == 0
    printed = capsys.readouterr().out
    assert "TensorRT plugin" in printed
    assert "its code ran  no" in printed
    assert "machine code of sm_87, sm_110" in printed
    assert run(["plugin", "check", str(library), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["passed"] is True
    assert values["architectures"] == [87, 110]
    assert {finding["what"] for finding in values["findings"]} >= {"interface", "GPU code"}


def test_check_compares_a_graph_and_fails_with_1(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = graph(tmp_path / "good.onnx"), graph(tmp_path / "bad.onnx", version="2")
    line = ["plugin", "check", str(library), "--no-load", "--json", "--onnx"]
    assert run([*line, str(good)]) == 0
    findings = {f["what"]: f["verdict"] for f in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["node block1"] == "ok"
    assert run([*line, str(bad)]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["passed"] is False
    assert "fails the check: node block1: it asks for" in captured.err


def test_a_graph_without_attention_is_refused(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    plain = helper.make_model(helper.make_graph([relu], "g", values[:1], values[1:]))
    onnx.save(plain, tmp_path / "plain.onnx")
    assert run(["plugin", "check", str(library), "--onnx", str(tmp_path / "plain.onnx")]) == 1
    captured = capsys.readouterr()
    assert "plain.onnx holds no attention node" in captured.err
    assert "--portable" in captured.err


def test_build_says_what_it_cannot_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(request_module, "local_architectures", lambda: ())
    assert run(["plugin", "build"]) == 1
    assert "hint: name it: --arch 87" in capsys.readouterr().err
    assert run(["plugin", "build", "--target", "jetson-thorr"]) == 1
    assert "did you mean jetson-thor" in capsys.readouterr().err
    assert run(["plugin", "build", "--arch", "orin"]) == 2
    assert "'orin'; expected an SM number such as 87, sm_87 or 8.7" in capsys.readouterr().err


@pytest.mark.parametrize("spelling", ["870", "sm_870", "SM870", "87.0"])
def test_an_sm_number_may_be_spelt_in_any_way(
    spelling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plugin", "build", "--arch", spelling]) == 1
    assert "the kernels know no GPU architecture 870" in capsys.readouterr().err


@pytest.mark.nvcc
def test_build_says_that_jetpack_6_is_built_on_the_board(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "plugin build --target jetson-orin-nano --jetpack 6.2"
    assert run(line.split()) == 1
    assert "hint: build on the board" in capsys.readouterr().err
