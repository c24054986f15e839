"""`edgeattn fuse` as a user types it, and what `edgeattn build` says of the same."""

from __future__ import annotations

import json

import pytest

from edgeattn.artifacts import read_manifest
from edgeattn.cli.main import run
from tests import foreign_attention


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foreign_attention.save_graphs(tmp_path)
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


def test_a_board_decides_on_attention_of_all_to_all_and_the_table_says_why(folder, capfd):
    line = ["fuse", "mixed.onnx", "--explain", "--target", "jetson-agx-orin"]
    assert run([*line, "--precision", "fp32"]) == 0
    out = capfd.readouterr().out
    assert "3 of 3 fused" in out
    assert "of all tokens to all: predicted to be faster: at least " in out
    assert run(line) == 0  # in FP16, in which our kernels take eight channels for four
    out = capfd.readouterr().out
    assert "3 of 3 fused" in out
    assert "in our kernel with heads padded to 8 channels" in out
    assert run(["fuse", "mixed.onnx", "--target", "jetson-agx-orin", "-o", "out.onnx"]) == 0
    assert read_manifest(folder / "out.onnx").options["global_attention"] == "chosen"


def test_all_or_none_may_be_asked_for_whatever_the_board(folder, capfd):
    line = ["fuse", "mixed.onnx", "--explain", "--target", "jetson-agx-orin"]
    for asked, fused in (("--global-attention", 3), ("--no-global-attention", 2)):
        for precision in ("fp16", "fp32"):
            assert run([*line, asked, "--precision", precision]) == 0
            assert f"{fused} of 3 fused" in capfd.readouterr().out


def test_boards_that_there_are_not_and_precisions_of_none_are_refused(folder, capfd):
    assert run(["fuse", "mixed.onnx", "--target", "jetson-agx-orion"]) == 1
    assert "did you mean jetson-agx-orin" in capfd.readouterr().err
    assert run(["fuse", "mixed.onnx", "--precision", "fp16"]) == 2
    assert "--precision is of the engine on a board: add --target" in capfd.readouterr().err


@pytest.mark.parametrize("precision", ["int8", "int8+fp16"])
def test_a_precision_that_needs_a_table_is_refused_before_anything_is_predicted(
    folder, capfd, precision
):
    # A TensorRT that pads no heads: what the graph has would be predicted, in that precision.
    line = "build mixed.onnx --dry-run --target jetson-agx-orin --jetpack 6.2 --precision"
    assert run([*line.split(), precision]) == 1
    assert f"the precision {precision} needs a calibration table" in capfd.readouterr().err


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
    assert "fusion     3 of 3 fused, " in out
    assert "of all tokens to all: predicted to be faster: at least " in out
    assert "3 by our plugin" in out
    assert run([*line.split(), "--precision", "fp16", "--json"]) == 0
    fusion = json.loads(capfd.readouterr().out)["fusion"]
    assert fusion["fused"] == 3
    assert "heads padded to 8 channels" in fusion["attentions"][2]["reason"]


def test_a_bundle_says_itself_how_it_is_built(folder, capfd):
    assert run(["bundle", "swin.onnx", "-o", "swin.zip"]) == 0
    capfd.readouterr()
    assert run(["build", "swin.zip", "--engine", "cpu", "--no-fuse"]) == 2
    assert "--no-fuse is not for a bundle" in capfd.readouterr().err
