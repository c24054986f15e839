"""`quantize --balance` and `--correct-bias` as a user types them, by a table of `calibrate`."""

from __future__ import annotations

import json

import numpy as np
import pytest

import edgeattn
from edgeattn.artifacts import read_manifest
from edgeattn.calibration.table import CalibTable
from edgeattn.cli.main import run
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.files import load_graph
from edgeattn.graph.passes.balance_channels import balance_channels
from tests import graph_runs
from tests.graphs import save
from tests.quantization import BLOCK, block_weights, floats, with_weights


def typed(line: str) -> int:
    return run(line.split())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A graph with outlier channels, its data and its table."""
    weights = block_weights()
    weights["gain"][[2, 5]] *= np.float32(40)
    for name in ("wq", "wk", "wv"):
        weights[name] /= np.sqrt(weights["gain"])[:, None]
    save(with_weights(BLOCK, weights), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=floats(40, 4, 8))
    monkeypatch.chdir(tmp_path)
    assert typed("calibrate net.onnx --data data.npz --method minmax") == 0
    return tmp_path


def quantized(line: str) -> str:
    assert typed(f"quantize net.onnx --table net.calib.json {line} -o q.onnx") == 0
    return "q.onnx"


def decibels(path: str) -> float:
    x = {"x": floats(30, 4, 8)}
    float_graph, graph = load_graph("net.onnx"), load_graph(path)
    return sqnr_db(graph_runs.run(float_graph, x)[0], graph_runs.run(graph, x)[0])


def test_balancing_needs_no_data_and_raises_a_graph_with_outliers(folder, capfd):
    plain = decibels(quantized(""))
    capfd.readouterr()
    assert decibels(quantized("--balance 0.5 --explain")) > plain + 3
    out = capfd.readouterr().out
    assert "its 8 channels are balanced with q, k, v" in out
    assert read_manifest(folder / "q.onnx").options["balance"] == 0.5


def test_calibrating_the_balanced_graph_finds_the_same_scales(folder):
    table = CalibTable.load("net.calib.json")
    balanced = balance_channels(load_graph("net.onnx"), table.channel_amax, 0.5)
    save(balanced.model, folder / "balanced.onnx")
    again = CalibTable.load(edgeattn.calibrate("balanced.onnx", "data.npz", method="minmax"))
    for name, amax in balanced.amax.items():
        assert again.tensors[name].amax == amax


def test_biases_are_corrected_with_the_data_given(folder, capfd):
    quantized("--correct-bias --data data.npz --explain")
    assert "bias: takes away the mean error of INT8" in capfd.readouterr().out
    manifest = read_manifest(folder / "q.onnx")
    assert manifest.options["correct_bias"] is True
    assert manifest.parents["data"].file == "data.npz"


def test_both_go_together_and_print_one_json_object(folder, capfd):
    capfd.readouterr()
    quantized("--balance 0.5 --correct-bias --data data.npz --json")
    printed = json.loads(capfd.readouterr().out)
    assert printed["report"]["correction_samples"] == 32


def test_correcting_without_data_is_refused_in_one_sentence(folder, capfd):
    assert typed("quantize net.onnx --table net.calib.json --correct-bias") == 1
    assert (
        "Error: biases are corrected by running data, and there is none" in capfd.readouterr().err
    )


@pytest.mark.parametrize("value", ["-0.1", "1.5", "much"])
def test_a_balance_out_of_range_is_a_usage_error(folder, value, capfd):
    assert typed(f"quantize net.onnx --table net.calib.json --balance {value}") == 2
    assert "--balance" in capfd.readouterr().err


def test_an_imported_table_cannot_balance(folder, capfd):
    quantized("")
    assert typed("calibrate net.onnx --from-qdq q.onnx -o imported.calib.json") == 0
    assert typed("quantize net.onnx --table imported.calib.json --balance 0.5 -o b.onnx") == 1
    err = capfd.readouterr().err
    assert "hint: calibrate the graph again; imported tables have none" in err
    assert not (folder / "b.onnx").exists()
