"""`edgeattn fuse` as a user types it, and what `edgeattn build` says of the same."""

from __future__ import annotations

import json

import onnx
import pytest

from edgeattn.cli.main import run
from tests import foreign_attention, graphs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(foreign_attention.windowed(), "swin.onnx")
    onnx.save(foreign_attention.windowed(blocks=3, last_is_global=True), "mixed.onnx")
    onnx.save(graphs.classifier(), "plain.onnx")
    return tmp_path


def test_it_writes_the_graph_and_says_in_a_line_what_became_of_the_attentions(folder, capfd):
    assert run(["fuse", "mixed.onnx", "-o", "out.onnx"]) == 0
    out = capfd.readouterr().out
    assert "attention: 2 of 3 fused, " in out
    assert "left as written: every token attends to every token (1)" in out
    assert "wrote out.onnx" in out
    assert (folder / "out.onnx.json").is_file()


def test_explain_lists_windows_shifts_heads_and_reasons(folder, capfd):
    assert run(["fuse", "mixed.onnx", "--explain", "-o", "out.onnx"]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["b0/Softmax_b0_softmax", "fused", "3x3", "0x0", "2", "of", "4", "6x9"] in [
        row[:8] for row in rows
    ]
    assert any(row[:4] == ["b1/Softmax_b1_softmax", "fused", "3x3", "1x1"] for row in rows)
    assert any(row[:3] == ["b2/Softmax_b2_softmax", "left", "-"] for row in rows)


def test_explain_without_an_output_only_tells(folder, capfd):
    before = sorted(folder.iterdir())
    assert run(["fuse", "swin.onnx", "--explain"]) == 0
    out = capfd.readouterr().out
    assert "2 of 2 fused" in out
    assert "wrote" not in out
    assert sorted(folder.iterdir()) == before
    assert run(["fuse", "swin.onnx", "--explain", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["file"] is None


def test_json_is_one_object_with_the_manifest(folder, capfd):
    assert run(["fuse", "--onnx=swin.onnx", "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["file"] == "swin.fused.onnx"
    assert printed["report"]["fused"] == 2
    assert printed["parents"]["graph"]["file"] == "swin.onnx"


def test_a_graph_without_attention_is_no_failure_and_said(folder, capfd):
    assert run(["fuse", "plain.onnx", "--explain", "-o", "out.onnx"]) == 0
    assert "there is nothing to fuse" in capfd.readouterr().out
    assert (folder / "out.onnx").is_file()


def test_require_all_makes_one_that_is_left_a_failure(folder, capfd):
    assert run(["fuse", "mixed.onnx", "--require-all", "-o", "out.onnx"]) == 1
    err = capfd.readouterr().err
    assert "1 of 3 attentions cannot be fused" in err
    assert "hint:" in err
    assert not (folder / "out.onnx").exists()
    assert run(["fuse", "mixed.onnx", "--require-all", "--global-attention", "-o", "out.onnx"]) == 0


def test_build_says_in_a_line_what_it_fused(folder, capfd):
    assert run(["build", "mixed.onnx", "--engine", "cpu"]) == 0
    out = capfd.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("  fusion"))
    assert "2 of 3 fused, " in line
    assert "every token attends to every token (1)" in line
    assert "attention_nodes_lowered  2" in out


def test_build_leaves_attention_alone_where_asked_and_says_nothing_of_it(folder, capfd):
    assert run(["build", "swin.onnx", "--engine", "cpu", "--no-fuse"]) == 0
    out = capfd.readouterr().out
    assert "fusion" not in out
    assert "attention_nodes_lowered  0" in out


def test_the_plan_of_a_board_counts_what_would_be_fused(folder, capfd):
    line = "build mixed.onnx --dry-run --target jetson-orin-nano"
    assert run(line.split()) == 0
    out = capfd.readouterr().out
    assert "fusion     2 of 3 fused, " in out
    assert "2 by our plugin" in out
    assert run([*line.split(), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["fusion"]["fused"] == 2


def test_a_bundle_says_itself_how_it_is_built(folder, capfd):
    assert run(["bundle", "swin.onnx", "-o", "swin.zip"]) == 0
    capfd.readouterr()
    assert run(["build", "swin.zip", "--engine", "cpu", "--no-fuse"]) == 2
    assert "--no-fuse is not for a bundle" in capfd.readouterr().err
