"""The table's file: a round trip, and a refusal for each way in which it can be wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeattn.artifacts import Manifest, Parent
from edgeattn.calibration.table import CalibTable, TensorRange
from edgeattn.errors import TableError
from edgeattn.graph.files import graph_sha256
from tests.graphs import WEIGHT, classifier, save

RANGES = {"x": TensorRange.from_amax(2.5), "h/1: odd name": TensorRange.from_amax(0.0)}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(classifier(), tmp_path / "net.onnx")


@pytest.fixture
def table(graph: Path) -> CalibTable:
    parents = {"graph": Parent("net.onnx", graph_sha256(graph)), "data": Parent("images", "0" * 64)}
    return CalibTable("minmax", RANGES, Manifest("table", parents, options={"samples": 8}))


@pytest.fixture
def values(table: CalibTable, tmp_path: Path) -> dict:
    return json.loads(table.save(tmp_path / "net.calib.json").read_text())


def load(values: object, tmp_path: Path) -> CalibTable:
    path = tmp_path / "net.calib.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return CalibTable.load(path)


def refused(values: object, tmp_path: Path, reason: str) -> None:
    with pytest.raises(TableError, match=reason) as error:
        load(values, tmp_path)
    assert error.value.hint
    assert "\n" not in error.value.message


def test_a_table_comes_back_as_it_was(table, tmp_path):
    found = CalibTable.load(table.save(tmp_path / "a.calib.json"))
    assert found == table
    assert list(found.tensors) == list(table.tensors)
    assert found.quant_scales["x"] == np.float32(np.float32(2.5) / np.float32(127))
    assert found.quant_scales["h/1: odd name"] == 1.0


def test_the_same_table_is_the_same_file(table, tmp_path):
    first = table.save(tmp_path / "a.json").read_bytes()
    assert CalibTable.load(tmp_path / "a.json").save(tmp_path / "b.json").read_bytes() == first


def test_scales_survive_the_file_to_the_last_bit(table, tmp_path):
    amax = np.random.default_rng(0).uniform(0, 100, 50).astype(np.float32)
    tensors = {f"t{i}": TensorRange.from_amax(float(value)) for i, value in enumerate(amax)}
    path = replace(table, tensors=tensors).save(tmp_path / "a.json")
    scales = np.array(list(CalibTable.load(path).quant_scales.values()))
    np.testing.assert_array_equal(scales, (amax / np.float32(127)).astype(np.float64))


def test_the_parent_is_recognized_and_other_weights_are_refused(table, graph, tmp_path):
    table.check_parent(graph)
    weight = WEIGHT.copy()
    weight[0, 0] = np.nextafter(weight[0, 0], np.float32(9))
    other = save(classifier(weight=weight), tmp_path / "other.onnx")
    with pytest.raises(TableError, match="the table belongs to another graph") as error:
        table.check_parent(other)
    assert error.value.hint == "calibrate this graph"


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TableError, match="there is no file"):
        CalibTable.load(tmp_path / "absent.json")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(values, tmp_path, share):
    text = json.dumps(values)
    refused(text[: int(len(text) * share)], tmp_path, "is not a calibration table")


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_an_unknown_format_version_is_refused(values, tmp_path, version):
    values["manifest"]["format_version"] = version
    refused(values, tmp_path, "has format version")


def test_a_duplicate_key_is_refused(values, tmp_path):
    entry = json.dumps(values["tensors"]["x"])
    text = json.dumps(values).replace('"tensors": {', '"tensors": {"x": ' + entry + ", ")
    refused(text, tmp_path, "the key 'x' stands twice")


@pytest.mark.parametrize("key", ["amax", "quant_scale"])
@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1e400", "1" + 400 * "0", "1e39", "-1.0"]
)
def test_what_is_no_finite_magnitude_is_refused(values, tmp_path, key, text):
    values["tensors"]["x"][key] = "PLACE"
    reason = "is not a number" if text[-1] in "Ny" else f"{key} in the entry x .* expected a"
    refused(json.dumps(values).replace('"PLACE"', text), tmp_path, reason)


@pytest.mark.parametrize("scale", [0, 0.0, -0.0, 1e-60])
def test_a_scale_that_is_not_positive_in_float32_is_refused(values, tmp_path, scale):
    values["tensors"]["x"]["quant_scale"] = scale
    refused(values, tmp_path, "expected a positive float32")


@pytest.mark.parametrize("value", ["0.5", None, True, [1.0], {}])
def test_what_is_no_number_is_refused(values, tmp_path, value):
    values["tensors"]["x"]["amax"] = value
    refused(values, tmp_path, "expected a number")


@pytest.mark.parametrize("where", [[], ["tensors", "x"]], ids=["table", "entry"])
def test_missing_and_unknown_keys_are_refused(values, tmp_path, where):
    def target(copy):
        for key in where:
            copy = copy[key]
        return copy

    extra, lacking = json.loads(json.dumps(values)), json.loads(json.dumps(values))
    target(extra)["surprise"] = 1
    target(lacking).popitem()
    refused(extra, tmp_path, "surprise")
    refused(lacking, tmp_path, "expected")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"', "{}"])
def test_other_json_is_refused(tmp_path, text):
    refused(text, tmp_path, "expected manifest, method, tensors")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v["manifest"].update(kind="graph"), "is not a calibration table of a graph"),
        (lambda v: v["manifest"]["parents"].pop("graph"), "is not a calibration table of a graph"),
        (lambda v: v["manifest"].update(parents=[]), "malformed manifest"),
        (lambda v: v.update(manifest=3), "is not an edgeattn manifest"),
        (lambda v: v.update(tensors=[]), "does not name its method and tensors"),
        (lambda v: v.update(method=3), "does not name its method and tensors"),
    ],
)
def test_a_table_of_something_else_is_refused(values, tmp_path, change, reason):
    change(values)
    path = tmp_path / "net.calib.json"
    path.write_text(json.dumps(values))
    with pytest.raises(TableError, match=reason):
        CalibTable.load(path)
