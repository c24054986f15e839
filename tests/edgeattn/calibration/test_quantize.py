"""Quantization from file to file: the arithmetic, the manifest and the refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from edgeattn.artifacts import Manifest, manifest_path, read_manifest, sha256_of_file
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.quantize import quantize
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import ArtifactError, GraphError, SpecError, TableError
from edgeattn.graph.files import (
    embedded_manifest,
    graph_sha256,
    input_specs,
    load_graph,
    save_graph,
)
from edgeattn.graph.placement import RECIPES
from tests.graphs import save
from tests.quantization import (
    block,
    block_weights,
    fake_quantized,
    fake_quantized_matrix,
    floats,
    run_block,
    with_weights,
)

PREPROCESS = {"mean": [0.5], "std": [0.1], "resize": 0}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    inputs = [{"name": "x", "shape": ["batch", 4, 8], "preprocess": PREPROCESS}]
    options = {"model": "block", "inputs": inputs}
    return save_graph(block(), tmp_path / "net.onnx", Manifest("graph", options=options))


@pytest.fixture
def table(graph: Path) -> Path:
    return calibrate(graph, floats(40, 4, 8))


def run_as_written(path: Path, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_calibrated_graph_computes_what_fake_quantization_says(graph, table):
    path = quantize(graph, table=table)
    assert path == graph.parent / "net.int8.onnx"
    x = floats(3, 4, 8)
    scales = CalibTable.load(table).quant_scales
    expected = run_block(
        x,
        block_weights(),
        lambda name, values: fake_quantized(values, scales[name]),
        fake_quantized_matrix,
    )
    np.testing.assert_allclose(run_as_written(path, x), expected, atol=2e-5)


def test_the_manifest_names_the_parents_and_keeps_how_images_become_inputs(graph, table):
    path = quantize(graph, table=table)
    manifest = read_manifest(path)
    assert manifest.parents["graph"].file == "net.onnx"
    assert manifest.parents["graph"].sha256 == graph_sha256(graph)
    assert manifest.parents["table"].file == "net.calib.json"
    assert manifest.parents["table"].sha256 == sha256_of_file(table)
    assert manifest.options["precision"] == "int8"
    assert manifest.options["recipe"] == "linear"
    assert manifest.options["model"] == "block"
    model = load_graph(path)
    assert embedded_manifest(model, "net").report == manifest.report
    assert input_specs(model) == input_specs(load_graph(graph))
    assert input_specs(model)[0].preprocess.std == (0.1,)


def test_the_report_counts_and_explains_each_decision(graph, table):
    report = read_manifest(quantize(graph, table=table)).report
    assert report["quantized_nodes"] == 6
    assert report["quantized_tensors"] == 4 + 6
    assert report["float_nodes"] == 8
    decisions = report["decisions"]
    assert len(decisions) == 6 * 2 + 12
    assert all(decision["reason"] for decision in decisions)
    assert next(d["node"] for d in decisions if not d["quantized"]) == "norm"
    weights = block_weights()
    found = {d["tensor"]: d["sqnr_db"] for d in decisions if d["sqnr_db"] is not None}
    assert sorted(found) == ["w1", "w2", "wk", "wo", "wq", "wv"]
    for name, value in found.items():
        weight = weights[name].astype(np.float64)
        weight = weight.T if name == "w1" else weight
        noise = fake_quantized_matrix(name, weight) - weight
        expected = 10 * np.log10(np.sum(weight**2) / np.sum(noise**2))
        assert value == pytest.approx(expected, abs=1e-3)
    assert report["weight_sqnr_db"]["worst"] == min(found.values())
    assert found[report["weight_sqnr_db"]["worst_tensor"]] == min(found.values())


def test_a_weight_without_rounding_noise_is_no_obstacle(tmp_path):
    weight = np.diag(np.full(6, 127.0)).astype(np.float32)
    model = with_weights("g (float[N,6] x) => (float[N,6] y) { y = MatMul(x, w) }", {"w": weight})
    graph = save(model, tmp_path / "net.onnx")
    report = read_manifest(quantize(graph, table=calibrate(graph, floats(3, 6)))).report
    assert report["weight_sqnr_db"] == {}
    assert json.loads(manifest_path(tmp_path / "net.int8.onnx").read_text())["kind"] == "graph"


def test_the_file_shrinks_to_a_quarter(tmp_path):
    weights = {"w": floats(300, 300), "v": floats(300, 300)}
    text = (
        "g (float[N,300] x) => (float[N,300] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    )
    graph = save(with_weights(text, weights), tmp_path / "net.onnx")
    path = quantize(graph, table=calibrate(graph, floats(3, 300)))
    assert path.stat().st_size < graph.stat().st_size / 3.8
    onnx.checker.check_model(str(path), full_check=True)


def test_a_table_of_other_weights_is_refused(graph, table, tmp_path):
    model = load_graph(graph)
    raw = bytearray(model.graph.initializer[0].raw_data)
    raw[0] ^= 1
    model.graph.initializer[0].raw_data = bytes(raw)
    other = save(model, tmp_path / "other.onnx")
    before = left_behind(tmp_path)
    with pytest.raises(TableError, match="the table belongs to another graph"):
        quantize(other, table=table)
    assert left_behind(tmp_path) == before


def test_a_table_with_another_set_of_tensors_is_refused(graph, table):
    values = json.loads(table.read_text())
    for change, reason in (
        (lambda t: t.pop("sum"), "1 of 4 tensors have no scale, the first is sum"),
        (lambda t: t.update(other=t["norm"]), "there is a scale of other"),
    ):
        changed = json.loads(json.dumps(values))
        change(changed["tensors"])
        table.write_text(json.dumps(changed))
        with pytest.raises(TableError, match=reason):
            quantize(graph, table=table)


@pytest.mark.parametrize("precision", ["int4", "fp8", "fp16+int8", ""])
def test_another_precision_is_refused_with_those_that_are_supported(graph, table, precision):
    with pytest.raises(SpecError, match=r"the precision is '.*'; this version supports int8"):
        quantize(graph, table=table, precision=precision)


def test_an_unknown_recipe_is_refused_with_those_that_are_known(graph, table):
    reason = "the recipe is 'all'; this version supports linear, attention, full"
    with pytest.raises(SpecError, match=reason):
        quantize(graph, table=table, recipe="all")


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_table_serves_every_recipe(graph, table, recipe):
    path = quantize(graph, table=table, recipe=recipe)
    manifest = read_manifest(path)
    assert manifest.options["recipe"] == recipe
    scales = CalibTable.load(table).quant_scales | {"probabilities": 1 / 127}
    x = floats(3, 4, 8)
    expected = run_block(
        x,
        block_weights(),
        lambda name, values: fake_quantized(values, np.float32(scales[name])),
        fake_quantized_matrix,
        recipe,
    )
    np.testing.assert_allclose(run_as_written(path, x), expected, atol=2e-5)
    tensors = {"linear": 4, "attention": 4 + 4, "full": 4 + 4 + 1}[recipe]  # sum is there already
    assert manifest.report["quantized_tensors"] == tensors + 6


def test_what_tensorrt_would_not_compute_as_written_is_reported(graph, tmp_path):
    assert (
        read_manifest(quantize(graph, table=calibrate(graph, floats(9, 4, 8)))).report[
            "tensorrt_faults"
        ]
        == []
    )
    text = "g (float[1,8,5,5] x) => (float[A,B,C,D] y) { h = Relu(x) y = Conv(h, w) z = MatMul%s }"
    model = with_weights(text % "Integer(a, b)", {"w": floats(4, 8, 1, 1)})
    for name in "ab":
        model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2), np.int8), name))
    other = save(model, tmp_path / "other.onnx")
    report = read_manifest(quantize(other, table=calibrate(other, floats(3, 8, 5, 5)))).report
    assert report["tensorrt_faults"] == [
        "z: TensorRT has no MatMulInteger; it takes QuantizeLinear and DequantizeLinear"
    ]


def test_nodes_stay_in_float_by_name_and_are_said_to(graph, table):
    path = quantize(graph, table=table, keep_float=["hidden", "out"])
    manifest = read_manifest(path)
    assert manifest.options["keep_float"] == ["hidden", "out"]
    kept = {d["node"]: d for d in manifest.report["decisions"] if "as asked" in d["reason"]}
    assert sorted(kept) == ["hidden", "out"]
    assert not any(decision["quantized"] for decision in kept.values())
    model = load_graph(path)
    assert {t.name for t in model.graph.initializer} >= {"w1", "w2"}
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 2


def test_a_node_that_is_not_there_cannot_be_kept_in_float(graph, table):
    with pytest.raises(SpecError, match="there is no node named 'hidde'") as caught:
        quantize(graph, table=table, keep_float=["hidde"])
    assert "did you mean hidden" in caught.value.hint


def test_a_graph_is_not_written_over_itself(graph, table):
    content = graph.read_bytes()
    with pytest.raises(ArtifactError, match="is the graph to quantize"):
        quantize(graph, graph, table=table)
    assert graph.read_bytes() == content


def test_missing_files_and_folders_are_refused(graph, table, tmp_path):
    with pytest.raises(ArtifactError, match="there is no file"):
        quantize(tmp_path / "absent.onnx", table=table)
    with pytest.raises(TableError, match="there is no file"):
        quantize(graph, table=tmp_path / "absent.json")
    with pytest.raises(ArtifactError, match="there is no folder"):
        quantize(graph, tmp_path / "nowhere" / "q.onnx", table=table)
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises((GraphError, TableError)):
        quantize(graph, table=table)
    assert left_behind(tmp_path) == ["net.calib.json", "net.onnx", "net.onnx.json"]


def test_progress_reaches_its_end(graph, table):
    calls = []
    quantize(graph, table=table, progress=lambda done, total, what: calls.append((done, total)))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
