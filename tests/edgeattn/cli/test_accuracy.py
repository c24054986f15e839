"""Sensitivity and the accuracy gate as a user types them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgeattn.cli.main import run
from edgeattn.graph.files import load_graph
from tests.edgeattn.calibration.test_gate import labels_of
from tests.graphs import save
from tests.planted import planted, samples


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accuracy")
    save(planted(), folder / "net.onnx")
    x = samples(60, seed=5)
    np.savez(folder / "data.npz", x=x)
    np.savez(folder / "labelled.npz", x=x, label=labels_of(x))
    np.save(folder / "labels.npy", labels_of(x))
    calibrate = ["calibrate", f"{folder}/net.onnx", "--method", "minmax"]
    assert run([*calibrate, "--data", f"{folder}/data.npz"]) == 0
    assert run([*calibrate, "--random", "8", "-o", f"{folder}/random.calib.json"]) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A folder with links to the files, to write in."""
    for file in made.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sensitivity_prints_a_table_and_writes_two_files(folder, capfd):
    assert run(["sensitivity", "net.onnx", "--table", "net.calib.json", "--data", "data.npz"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "alone", "dB", "without", "dB"]
    assert lines[2].split()[0] == "planted"
    assert lines[-1] == "wrote net.sensitivity.json and net.sensitivity.html"
    report = json.loads((folder / "net.sensitivity.json").read_text())
    assert report["layers"][0]["name"] == "planted"
    assert report["figures"]["num_samples"] == 60
    assert "planted" in (folder / "net.sensitivity.html").read_text()
    assert run(["inspect", "net.sensitivity.json"]) == 0
    assert "int8_db" in capfd.readouterr().out


@pytest.mark.parametrize("labels", ["--data labelled.npz", "--data data.npz --labels labels.npy"])
def test_sensitivity_takes_labels_and_prints_json(labels, folder, capfd):
    line = f"sensitivity net.onnx --table net.calib.json {labels} -o r.json --html p.html --json"
    assert run(line.split()) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed == json.loads((folder / "r.json").read_text())
    assert printed["figures"]["float_top1"] == 100
    assert (folder / "p.html").exists()


def test_the_gate_keeps_the_planted_layer_in_float(folder, capfd):
    line = "quantize net.onnx --table net.calib.json --data data.npz --min-sqnr 28 --json"
    assert run(line.split()) == 0
    gate = json.loads(capfd.readouterr().out)["report"]["gate"]
    assert gate["met"]
    assert gate["kept_in_float"] == ["planted"]


def test_the_gate_counts_points_of_accuracy(folder, capfd):
    line = "quantize net.onnx --table net.calib.json --data data.npz --labels labels.npy"
    assert run([*line.split(), "--max-drop", "7", "--samples", "50", "--json"]) == 0
    gate = json.loads(capfd.readouterr().out)["report"]["gate"]
    assert gate["samples"].startswith("25 searched on, 25 held out")
    assert gate["kept_in_float"] == ["planted"]


def test_a_missed_gate_writes_its_best_graph_says_so_and_fails(folder, capfd):
    line = "quantize net.onnx --table net.calib.json --data data.npz --min-sqnr 200 -o best.onnx"
    assert run(line.split()) == 1
    printed = capfd.readouterr()
    assert "wrote best.onnx" in printed.out
    assert printed.err.startswith("Error: the goal min_sqnr 200 dB cannot be met: the best graph")
    assert "hint: it is in best.onnx" in printed.err
    quantized = {n.op_type for n in load_graph(folder / "best.onnx").graph.node}
    assert "QuantizeLinear" in quantized
    manifest = json.loads((folder / "best.onnx.json").read_text())
    assert not manifest["report"]["gate"]["met"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("quantize net.onnx --table net.calib.json --min-sqnr 30", "there are none"),
        ("quantize net.onnx --table net.calib.json --labels labels.npy", "labels serve"),
        (
            "quantize net.onnx --table net.calib.json --data data.npz --max-drop 1",
            "the data has no labels",
        ),
        (
            "quantize net.onnx --table net.calib.json --data data.npz --max-drop 1 --min-sqnr 3",
            "either min_sqnr or max_drop",
        ),
        (
            "quantize net.onnx --table random.calib.json --data data.npz --min-sqnr 3",
            "made of random data",
        ),
        ("quantize net.onnx --precision fp16 --data data.npz --min-sqnr 3", "out of INT8"),
        ("sensitivity net.onnx --table absent.json --data data.npz", "absent.json"),
        ("sensitivity net.onnx --table net.calib.json --data absent.npz", "no data at absent.npz"),
        (
            "sensitivity net.onnx --table net.calib.json --data data.npz --labels absent.npy",
            "no labels at absent.npy",
        ),
        (
            "sensitivity net.onnx --table net.calib.json --data data.npz --recipe some",
            "the recipe is 'some'",
        ),
    ],
)
def test_each_refusal_is_a_sentence_and_leaves_no_file(line, message, folder, capfd):
    before = sorted(folder.iterdir())
    assert run(line.split()) == 1
    printed = capfd.readouterr()
    assert message in printed.err
    assert printed.err.startswith("Error: ")
    assert "bug" not in printed.err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "line",
    [
        "quantize net.onnx --table net.calib.json --data data.npz --max-drop -1",
        "quantize net.onnx --table net.calib.json --data data.npz --min-sqnr much",
        "sensitivity net.onnx --data data.npz",
        "sensitivity net.onnx --table net.calib.json",
        "sensitivity net.onnx --table net.calib.json --data data.npz --samples 0",
    ],
)
def test_misspelt_options_are_usage_errors(line, folder):
    assert run(line.split()) == 2


def test_random_data_is_warned_of(folder, caplog):
    assert run(["quantize", "net.onnx", "--table", "random.calib.json", "-o", "r.onnx"]) == 0
    assert "the table was made of random data" in caplog.text
