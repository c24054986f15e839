"""`edgeattn build --autotune-attention` as a user types it, on the CPU, with nothing played."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgeattn.artifacts import read_manifest
from edgeattn.cli.main import run
from edgeattn.engine import autotune
from edgeattn.engine.autotune import NOTHING_TO_CHOOSE
from tests import foreign_attention

CPU = ("--engine", "cpu", "--autotune-attention")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foreign_attention.save_graphs(tmp_path)
    return tmp_path


def test_a_foreign_graph_is_timed_in_its_forms_and_the_engine_computes_it(folder, capfd):
    assert run(["build", "swin.onnx", *CPU, "--verify"]) == 0
    out = capfd.readouterr().out
    lines = [line.strip() for line in out.splitlines() if line.startswith("  attention ")]
    assert [line.split(":")[0] for line in lines] == ["attention fused", "attention as written"]
    assert sum(": won, " in line for line in lines) == 1
    assert " ms, " in lines[0]
    assert "times that of fused" in lines[1]
    assert "reference      ok" in out

    assert run(["inspect", "swin.engine"]) == 0
    assert capfd.readouterr().out.splitlines()[-2:] == lines

    x = np.random.default_rng(3).standard_normal((1, 6, 9, 8)).astype(np.float32)
    np.savez("in.npz", x=x)
    assert run(["run", "swin.engine", "--inputs", "in.npz", "--outputs", "out.npz"]) == 0
    found, wanted = np.load("out.npz")["y"], foreign_attention.expected(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_json_is_one_object_with_every_time(folder, capfd):
    assert run(["build", "mixed.onnx", *CPU, "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["report"] == read_manifest(folder / "mixed.engine").report
    tuned = printed["report"]["autotune"]
    assert [way["variant"] for way in tuned["ways"]] == ["windows", "everything", "as written"]
    assert all(way["median_ms"] > 0 for way in tuned["ways"])
    assert tuned["winner"] == next(w["name"] for w in tuned["ways"] if w["outcome"] == "won")
    assert "sign test" in tuned["rule"]


def test_a_dry_run_names_what_would_be_tried(folder, capfd, monkeypatch):
    monkeypatch.setattr(autotune, "race", None)
    assert run(["build", "mixed.onnx", *CPU, "--no-global-attention", "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "attention fused: not tried, a dry run times nothing" in out
    assert "attention as written: not tried" in out
    assert "global too" not in out
    assert not (folder / "mixed.engine").exists()


def test_a_dry_run_for_a_board_names_its_engines(folder, capfd):
    line = "build mixed.onnx --dry-run --target jetson-thor --autotune-attention"
    assert run(line.split()) == 0
    out = capfd.readouterr().out
    rows = [line.strip() for line in out.split("\ntries ")[1].splitlines()[:6]]
    assert rows[0] == "5 engines; the first, planned here, stays if none is surely faster"
    assert rows[1:] == [
        *("plugin", "plugin, global too", "native", "native, as written", "attention"),
    ]
    assert run([*line.split(), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["candidates"] == rows[1:]
    assert run(["build", "plain.onnx", *line.split()[2:], "--shapes", "x:1x5"]) == 0
    assert NOTHING_TO_CHOOSE in capfd.readouterr().out


def test_a_graph_without_attention_has_nothing_to_choose(folder, capfd):
    assert run(["build", "plain.onnx", *CPU]) == 0
    assert f"attention as written: won, {NOTHING_TO_CHOOSE}" in capfd.readouterr().out


def test_global_attention_is_fused_where_it_is_asked_for(folder, capfd):
    assert run(["build", "mixed.onnx", "--engine", "cpu", "--global-attention"]) == 0
    assert "3 of 3 fused" in capfd.readouterr().out
    assert run(["build", "mixed.onnx", "--engine", "cpu"]) == 0
    assert "2 of 3 fused" in capfd.readouterr().out


def test_for_a_board_it_is_fused_by_prediction_unless_that_is_overruled(folder, capfd):
    line = ["build", "mixed.onnx", "--dry-run", "--json", "--target", "jetson-orin-nano"]

    def fusion(*more: str) -> dict:
        assert run([*line, *more]) == 0
        return json.loads(capfd.readouterr().out)["fusion"]

    predicted = fusion()["attentions"][2]
    assert predicted["reason"]
    assert fusion("--global-attention")["fused"] == 3
    assert fusion("--no-global-attention")["fused"] == 2


def test_a_bundle_carries_it_to_the_board(folder, capfd):
    assert run(["bundle", "plain.onnx", "--autotune-attention", "-o", "net.zip"]) == 0
    capfd.readouterr()
    assert run(["inspect", "net.zip", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["build"]["tensorrt"]["autotune_attention"] is True


def test_it_is_not_said_beside_a_bundle(folder, capfd):
    assert run(["bundle", "plain.onnx", "-o", "net.zip"]) == 0
    for option in ("--global-attention", "--no-global-attention", "--autotune-attention"):
        capfd.readouterr()
        assert run(["build", "net.zip", option]) == 2
        assert "is not for a bundle" in capfd.readouterr().err
