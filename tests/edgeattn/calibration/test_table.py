"""The table's file: a round trip, and a refusal for each way in which it can be wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from edgeattn.artifacts import Manifest, Parent
from edgeattn.calibration.table import CalibTable, TensorRange, ValueSummary
from edgeattn.errors import TableError
from edgeattn.graph.files import graph_sha256
from tests.graphs import WEIGHT, classifier, save

SEEN = ValueSummary(4.0, 1000, 0.25, {"50": 0.5, "99": 2.0, "99.9": 3.5}, (0.5, 4.0, 0.0))
RANGES = {
    "x": TensorRange.from_amax(2.5, "percentile", SEEN),
    "h/1: odd name": TensorRange.from_amax(0.0, "minmax"),
    "other": TensorRange.from_amax(1.0, "minmax", ValueSummary(1.0)),
}
SCHEMA = Path(__file__).parents[3] / "docs" / "calib-table.schema.json"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(classifier(), tmp_path / "net.onnx")


@pytest.fixture
def table(graph: Path) -> CalibTable:
    parents = {"graph": Parent("net.onnx", graph_sha256(graph)), "data": Parent("images", "0" * 64)}
    return CalibTable("auto", RANGES, Manifest("table", parents, options={"samples": 8}))


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


def fits_schema(values: object) -> bool:
    return Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(values)


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
    tensors = {
        f"t{i}": TensorRange.from_amax(float(value), "minmax") for i, value in enumerate(amax)
    }
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


@pytest.mark.parametrize("version", [0, 1, 3, "2", None, 2.5])
def test_an_unknown_format_version_is_refused(values, tmp_path, version):
    values["manifest"]["format_version"] = version
    refused(values, tmp_path, f"has format version {version}; this edgeattn reads version 2")
    assert not fits_schema(values)


def test_a_table_of_the_first_version_is_refused_in_one_sentence(values, tmp_path):
    values["manifest"]["format_version"] = 1
    values["tensors"] = {"x": {"amax": 2.5, "quant_scale": 2.5 / 127}}
    with pytest.raises(TableError, match="this edgeattn reads version 2") as error:
        load(values, tmp_path)
    assert error.value.hint == "make the file again, or install the edgeattn that made it"


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
    values["tensors"]["x"][key] = float(text) if len(text) < 10 else int(text)
    assert text == "NaN" or not fits_schema(values)


@pytest.mark.parametrize("scale", [0, 0.0, -0.0, 1e-60])
def test_a_scale_that_is_not_positive_in_float32_is_refused(values, tmp_path, scale):
    values["tensors"]["x"]["quant_scale"] = scale
    refused(values, tmp_path, "expected a positive float32")
    assert not fits_schema(values)


@pytest.mark.parametrize("share", [0.99, 1 + 2**-20, 127.0])
def test_a_scale_that_is_not_that_of_its_amax_is_refused(values, tmp_path, share):
    values["tensors"]["x"]["quant_scale"] *= share
    refused(values, tmp_path, "quant_scale in the entry x .* expected .*, amax / 127")


@pytest.mark.parametrize("value", ["0.5", None, True, [1.0], {}])
@pytest.mark.parametrize("path", ["amax", "quant_scale", "observed amax", "observed count"])
def test_what_is_no_number_is_refused(values, tmp_path, path, value):
    *outer, key = path.split()
    entry = values["tensors"]["x"]
    (entry["observed"] if outer else entry)[key] = value
    refused(values, tmp_path, "expected a(t least 1| number)")
    assert not fits_schema(values)


@pytest.mark.parametrize("where", [[], ["tensors", "x"], ["tensors", "x", "observed"]])
def test_missing_and_unknown_keys_are_refused(values, tmp_path, where):
    required = {0: "method", 2: "quant_scale", 3: "amax"}[len(where)]

    def changed():
        copy = json.loads(json.dumps(values))
        target = copy
        for key in where:
            target = target[key]
        return copy, target

    extra, target = changed()
    target["surprise"] = 1
    lacking, target = changed()
    del target[required]
    refused(extra, tmp_path, "surprise")
    refused(lacking, tmp_path, f"expected .*{required}")
    assert not fits_schema(extra)
    assert not fits_schema(lacking)


@pytest.mark.parametrize("method", ["", None, 3, ["minmax"]])
@pytest.mark.parametrize("where", ["table", "entry"])
def test_a_method_without_a_name_is_refused(values, tmp_path, where, method):
    (values if where == "table" else values["tensors"]["x"])["method"] = method
    refused(values, tmp_path, "method in .* expected a name")
    assert not fits_schema(values)


@pytest.mark.parametrize(
    ("change", "reason", "in_schema"),
    [
        ({"count": 0}, "count in .* is 0; expected at least 1", True),
        ({"count": 1.5}, "expected at least 1", True),
        ({"count": -8}, "expected at least 1", True),
        ({"amax": -1.0}, "expected a finite magnitude", True),
        ({"clipped_percent": -0.1}, "expected 0 to 100", True),
        ({"clipped_percent": 100.5}, "expected 0 to 100", True),
        ({"channel_amax": 4.0}, "channel_amax in .* is 4.0; expected a list", True),
        ({"channel_amax": [4.0, "1"]}, "1 in channel_amax .* expected a number", True),
        ({"channel_amax": [4.0, -1.0]}, "expected a finite magnitude", True),
        ({"channel_amax": [1.0, 3.5]}, "is 3.5; expected its amax, 4.0", False),
        ({"percentiles": [0.5]}, "expected magnitudes by percent", True),
        ({"percentiles": {"p99": 0.5}}, "expected magnitudes by percent", True),
        ({"percentiles": {"0": 0.5}}, "expected magnitudes by percent", False),
        ({"percentiles": {"100.1": 0.5}}, "expected magnitudes by percent", False),
        ({"percentiles": {"99": -0.5}}, "expected a finite magnitude", True),
        ({"percentiles": {"99": 2.0, "99.9": 1.0}}, "do not rise", False),
        ({"percentiles": {"99.9": 1.0, "9.9": 2.0}}, "do not rise", False),
        ({"percentiles": {"99": 4.5}}, "do not rise to at most its amax", False),
        (
            {"amax": 2.5, "percentiles": {}, "channel_amax": []},
            "clips 0.25 % of the values, but none is above",
            False,
        ),
    ],
)
def test_a_summary_that_cannot_be_is_refused(values, tmp_path, change, reason, in_schema):
    values["tensors"]["x"]["observed"] |= change
    refused(values, tmp_path, reason)
    assert fits_schema(values) != in_schema


def test_a_saved_table_fits_the_schema(values):
    assert fits_schema(values)
    assert values["tensors"]["x"]["observed"]["percentiles"] == SEEN.percentiles
    assert values["tensors"]["other"]["observed"] == {"amax": 1.0}
    assert "observed" not in values["tensors"]["h/1: odd name"]


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-40, np.nan, np.inf, 1e37])
def test_a_scale_without_a_finite_range_is_no_range(scale):
    with pytest.raises(ValueError, match="not a scale of a finite range"):
        TensorRange.from_quant_scale(scale)


def test_scales_found_elsewhere_survive_the_file_to_the_last_bit(table, tmp_path):
    bits = np.random.default_rng(0).integers(2**23, 0x7C000000, 300, np.uint32)
    scales = bits.view(np.float32).astype(np.float64)
    tensors = {f"t{i}": TensorRange.from_quant_scale(scale) for i, scale in enumerate(scales)}
    found = CalibTable.load(replace(table, tensors=tensors).save(tmp_path / "a.json"))
    np.testing.assert_array_equal(list(found.quant_scales.values()), scales)
    assert {entry.method for entry in found.tensors.values()} == {"imported"}


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"', "{}"])
def test_other_json_is_refused(tmp_path, text):
    refused(text, tmp_path, "expected manifest, method, tensors")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda v: v["manifest"].update(kind="graph", format_version=1),
            "is not a calibration table of a graph",
        ),
        (lambda v: v["manifest"]["parents"].pop("graph"), "is not a calibration table of a graph"),
        (lambda v: v["manifest"].update(parents=[]), "malformed manifest"),
        (lambda v: v.update(manifest=3), "is not an edgeattn manifest"),
        (lambda v: v.update(tensors=[]), "does not map tensors to their ranges"),
    ],
)
def test_a_table_of_something_else_is_refused(values, tmp_path, change, reason):
    change(values)
    path = tmp_path / "net.calib.json"
    path.write_text(json.dumps(values))
    with pytest.raises(TableError, match=reason):
        CalibTable.load(path)
    assert not fits_schema(values)
