"""The accuracy gate: the fewest layers in float, a held-out half, and an honest miss."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from edgeattn.artifacts import read_manifest
from edgeattn.calibration import gate as gate_module
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.gate import search_keep_float
from edgeattn.calibration.goal import Goal
from edgeattn.calibration.judge import OutputJudge
from edgeattn.calibration.labelled import load_samples
from edgeattn.calibration.quantize import quantize
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import AccuracyError, DataError, SpecError, TableError
from edgeattn.graph.files import input_specs, load_graph
from edgeattn.graph.passes.insert_qdq import insert_qdq
from tests.graphs import save
from tests.planted import LAYERS, planted, samples


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return save(planted(), tmp_path_factory.mktemp("gate") / "net.onnx")


@pytest.fixture(scope="module")
def table(graph):
    return calibrate(graph, samples(60), method="minmax")


def gate_of(path):
    return read_manifest(path).report["gate"]


def sqnr_db(path, x):
    return OutputJudge(planted(), {"x": x}).sqnr_db(load_graph(path))


def labels_of(x):
    return OutputJudge(planted(), {"x": x}).reference["y"].argmax(axis=1)


def test_the_planted_layer_alone_stays_in_float(graph, table, tmp_path):
    x = samples(40, seed=1)
    path = quantize(graph, tmp_path / "q.onnx", table=table, data=x, min_sqnr=30)
    gate = gate_of(path)
    assert gate["met"]
    assert gate["kept_in_float"] == ["planted"]
    assert read_manifest(path).options["keep_float"] == ["planted"]
    assert gate["of_nodes"] == len(LAYERS)
    assert gate["samples"] == "20 searched on, 20 held out"
    assert min(part["sqnr_db"] for part in gate["figures"].values()) >= 30
    assert sqnr_db(path, samples(200, seed=9)) > 29
    assert sqnr_db(quantize(graph, tmp_path / "all.onnx", table=table), x) < 15


def test_layers_that_were_in_the_way_go_back_to_int8(graph, table, tmp_path, monkeypatch):
    monkeypatch.setattr(gate_module.Ranking, "order", ["y", "third", "planted", "first"])
    x = samples(40, seed=1)
    path = quantize(graph, tmp_path / "q.onnx", table=table, data=x, min_sqnr=30)
    assert gate_of(path)["kept_in_float"] == ["planted"]


def test_a_goal_that_is_met_already_keeps_nothing(graph, table, tmp_path):
    x = samples(40, seed=1)
    path = quantize(graph, tmp_path / "q.onnx", table=table, data=x, min_sqnr=-20)
    assert gate_of(path)["kept_in_float"] == []
    assert gate_of(path)["trials"] == 2


def test_accuracy_is_a_goal_too(graph, table, tmp_path):
    x = samples(300, seed=2)
    path = quantize(
        graph, tmp_path / "q.onnx", table=table, data={"x": x, "label": labels_of(x)}, max_drop=3
    )
    gate = gate_of(path)
    assert gate["kept_in_float"] == ["planted"]
    assert gate["figures"]["held_out"]["float_top1"] == 100
    assert gate["figures"]["held_out"]["drop"] <= 3
    assert gate["samples"].endswith("; one sample is 0.67 points of those searched on")


def test_a_goal_out_of_reach_leaves_the_best_graph_and_an_error(graph, table, tmp_path):
    x, output = samples(40, seed=1), tmp_path / "q.onnx"
    with pytest.raises(AccuracyError, match=r"the goal min_sqnr 300 dB cannot be met: .* 3 of 4"):
        quantize(graph, output, table=table, data=x, min_sqnr=300)
    gate = gate_of(output)
    assert not gate["met"]
    best = max(
        OutputJudge(planted(), {"x": x}).sqnr_db(
            insert_qdq(
                planted(), CalibTable.load(table).quant_scales, keep_float=set(LAYERS) - {layer}
            )[0]
        )
        for layer in LAYERS
    )
    assert sqnr_db(output, x) == pytest.approx(best, abs=1e-6)


def test_what_holds_on_the_searched_half_alone_is_not_enough(graph, table):
    x = samples(40, seed=1)
    x[1::2] = samples(20, seed=3) * 20  # nothing saturates Tanh in the half that is searched on
    data = load_samples(iter([x]), input_specs(planted()))
    scales = CalibTable.load(table).quant_scales

    def make(kept):
        return insert_qdq(planted(), scales, "linear", kept)[0]

    found = search_keep_float(
        planted(), make, Goal(min_sqnr=30), data, recipe="linear", scales=scales
    )
    assert found.met
    assert {"planted"} < set(found.keep_float)
    assert "took part in the choice" in found.report["samples"]
    assert found.report["figures"]["held_out"]["sqnr_db"] >= 30


def test_few_samples_are_all_searched_on_and_that_is_said(graph, table, tmp_path):
    path = quantize(graph, tmp_path / "q.onnx", table=table, data=samples(7), min_sqnr=30)
    assert gate_of(path)["figures"].keys() == {"searched"}
    assert "none held out" in gate_of(path)["samples"]


def test_layers_kept_by_hand_stay_and_are_not_counted(graph, table, tmp_path):
    path = quantize(
        graph,
        tmp_path / "q.onnx",
        table=table,
        data=samples(40, seed=1),
        min_sqnr=30,
        keep_float=["third"],
    )
    assert gate_of(path)["kept_in_float"] == ["planted"]
    assert read_manifest(path).options["keep_float"] == ["planted", "third"]


def test_the_gate_judges_what_the_other_options_make_of_the_graph(graph, table, tmp_path):
    x = samples(40, seed=1)
    path = quantize(
        graph,
        tmp_path / "q.onnx",
        table=table,
        data=x,
        min_sqnr=30,
        precision="int8+fp16",
        correct_bias=True,
    )
    assert gate_of(path)["kept_in_float"] == ["planted"]
    assert gate_of(path)["figures"]["searched"]["sqnr_db"] >= 30


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_sqnr": 30}, SpecError, "judged on real inputs, and there are none"),
        ({"min_sqnr": 30, "max_drop": 1}, SpecError, "either min_sqnr or max_drop"),
        ({"min_sqnr": float("nan"), "data": 1}, SpecError, "expected a finite number"),
        ({"max_drop": -1, "data": 1}, SpecError, "no negative one"),
        ({"min_sqnr": 30, "precision": "fp16", "data": 1}, SpecError, "out of INT8"),
        ({"labels": [1]}, SpecError, "labels serve min_sqnr and max_drop only"),
        ({"samples": 3}, SpecError, "samples serve min_sqnr and max_drop only"),
        ({"max_drop": 1, "data": samples(20)}, DataError, "the data has no labels"),
    ],
)
def test_options_that_make_no_goal_are_refused(options, error, message, graph, table, tmp_path):
    with pytest.raises(error, match=message):
        quantize(graph, tmp_path / "q.onnx", table=table, **options)
    assert not (tmp_path / "q.onnx").exists()


def test_no_goal_rests_on_random_data(graph, tmp_path, caplog):
    table = calibrate(graph, None, tmp_path / "t.calib.json", random=8, method="minmax")
    with pytest.raises(TableError, match="made of random data"):
        quantize(graph, tmp_path / "q.onnx", table=table, data=samples(20), min_sqnr=3)
    with caplog.at_level(logging.WARNING):
        quantize(graph, tmp_path / "q.onnx", table=table)
    assert "the table was made of random data" in caplog.text


def test_the_search_is_the_same_each_time(graph, table, tmp_path):
    reports = [
        gate_of(
            quantize(graph, tmp_path / name, table=table, data=samples(30, seed=4), min_sqnr=32)
        )
        for name in ("a.onnx", "b.onnx")
    ]
    assert reports[0] == reports[1]
    assert np.isfinite(reports[0]["figures"]["held_out"]["sqnr_db"])
