"""`edgeattn calibrate`: methods, states, shards and random data, as a user types them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgeattn.calibration.observers import METHODS
from edgeattn.cli.main import run
from tests.graphs import save
from tests.quantization import block, floats


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A graph and data in the working folder."""
    save(block(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", floats(12, 4, 8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(line, capfd):
    assert run([*line.split(), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_offered(folder, capfd, method):
    shown = printed(f"calibrate net.onnx --data x.npy --method {method}", capfd)
    assert shown["options"]["method"] == method
    assert json.loads((folder / "net.calib.json").read_text())["method"] == method


def test_auto_is_the_default_and_tells_what_it_chose(folder, capfd):
    shown = printed("calibrate net.onnx --data x.npy", capfd)
    assert shown["options"]["method"] == "auto"
    assert shown["report"]["choice"]
    tensors = json.loads((folder / "net.calib.json").read_text())["tensors"]
    assert all(entry["method"] in entry_methods() for entry in tensors.values())
    assert sum(shown["report"]["methods"].values()) == len(tensors)


def entry_methods():
    percentiles = {f"percentile:{percent}" for percent in ("99.9", "99.99", "99.999")}
    return {"minmax", "average", "entropy", "mse"} | percentiles


def test_shards_are_calibrated_apart_and_merged(folder, capfd):
    common = "calibrate net.onnx --data x.npy --method entropy"
    printed(f"{common} -o whole.calib.json", capfd)
    for number in (1, 2, 3):
        shown = printed(f"{common} --shard {number}/3 --state {number}.calib.state", capfd)
        assert shown["file"] == f"{number}.calib.state"
        assert shown["report"]["shard"] == f"{number}/3"
    assert not (folder / "net.calib.json").exists()
    merges = " ".join(f"--merge {number}.calib.state" for number in (2, 3, 1))
    printed(f"calibrate net.onnx {merges}", capfd)
    whole = (folder / "whole.calib.json").read_bytes()
    assert (folder / "net.calib.json").read_bytes() == whole
    described = printed("inspect 2.calib.state", capfd)
    assert described["kind"] == "calibration-state"
    assert described["samples_read"] == 12


def test_a_state_is_gone_on_from(folder, capfd):
    line = "calibrate net.onnx --data x.npy --method mse --state net.calib.state"
    first = printed(line, capfd)
    assert printed(line, capfd) == first


def test_random_data_is_explicit_and_recorded(folder, capfd):
    # Every size but the first is known to the graph.
    shown = printed("calibrate net.onnx --random 5 --method minmax --seed 3", capfd)
    assert shown["options"]["random"] == 5
    assert shown["parents"]["data"]["file"] == "random"
    assert shown["report"]["samples"] == 5
    again = printed("calibrate net.onnx --random 5 --method minmax --seed 4", capfd)
    assert again["parents"]["data"]["sha256"] != shown["parents"]["data"]["sha256"]
    assert "random" not in printed("calibrate net.onnx --data x.npy", capfd)["options"]


@pytest.mark.parametrize("other", ["--data x.npy", "--method mse", "--samples 3", "--shard 1/2"])
def test_a_merge_runs_nothing(folder, capfd, other):
    assert run(f"calibrate net.onnx --merge s.calib.state {other}".split()) == 2
    assert "--merge measures nothing; it cannot go with" in capfd.readouterr().err


def test_people_see_the_report_in_few_lines(folder, capfd):
    assert run(["calibrate", "net.onnx", "--data", "x.npy"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("wrote net.calib.json")
    assert any(line.split()[:2] == ["methods", "minmax"] for line in lines)
    assert len(lines) < 12
