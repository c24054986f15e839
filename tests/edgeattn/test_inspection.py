"""`inspect` says what any file of the toolkit is, and refuses what it does not know."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import edgeattn
from edgeattn.artifacts import Manifest, Parent, atomic_artifact, sha256_of_file
from edgeattn.calibration.table import CalibTable
from edgeattn.calibration.trt_cache import trt_cache_from_table
from edgeattn.errors import (
    ArtifactError,
    EdgeAttnError,
    GraphError,
    MissingDependencyError,
    TableError,
)
from edgeattn.graph import files
from edgeattn.graph.files import graph_sha256, load_graph
from edgeattn.graph.op import make_attention_node
from edgeattn.inspection import describe
from edgeattn.models.weights_io import save_weights
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.graphs import classifier, from_text, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each kind, made one from the other."""
    folder = tmp_path_factory.mktemp("described")
    x = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    graph = save(classifier(), folder / "net.onnx")
    np.savez(folder / "x.npz", x=x)
    table = edgeattn.calibrate(graph, folder / "x.npz")
    edgeattn.build(edgeattn.quantize(graph, table=table), threads=1)
    engine = edgeattn.build(graph, threads=1)
    edgeattn.profile(engine, {"x": x}, duration_s=0.01, output=folder / "net.profile.json")
    return folder


def described(path: Path) -> dict[str, Any]:
    """Describe a file in values that JSON can hold."""
    values = describe(path)
    assert json.loads(json.dumps(values, allow_nan=False)).keys() == values.keys()
    assert values["file"] == path.name
    assert values["size_bytes"] == path.stat().st_size
    return values


def test_a_graph_is_described_by_its_inputs_nodes_and_weights(folder: Path) -> None:
    values = described(folder / "net.onnx")
    assert values["kind"] == "graph"
    assert values["sha256"] == graph_sha256(folder / "net.onnx")
    assert values["opsets"] == {"ai.onnx": 20, "edgeattn": 1}
    assert values["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 5]}]
    assert values["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 3]}]
    assert (values["nodes"], values["operators"]) == (2, {"MatMul": 1, "Add": 1})
    assert values["weights_bytes"] == 4 * (5 * 3 + 3)
    assert values["attention"] == []
    assert values["manifest"]["format_version"] == 1


def test_a_path_may_be_text(folder: Path) -> None:
    assert describe(str(folder / "net.onnx")) == describe(folder / "net.onnx")


def test_attention_is_described_by_its_head_groups(tmp_path: Path) -> None:
    spec = AttentionSpec(4, 3, (HeadGroup(2, (4, 3), (2, 1)), HeadGroup(1, 0, head_offset=2)))
    model = from_text("g (float[1,8,8,36] x) => (float[1,8,8,12] y) { n = Neg(x) }")
    model.graph.node.append(make_attention_node(spec, ["n"], "y", "layer.attention"))
    (node,) = described(save(model, tmp_path / "net.onnx"))["attention"]
    assert node["name"] == "layer.attention"
    assert [g["window_size"] for g in node["groups"]] == [(4, 3), (0, 0)]
    assert node["groups"][0] == {
        "num_heads": 2,
        "window_size": (4, 3),
        "shift_size": (2, 1),
        "head_offset": 0,
        "mode": "block",
        "dilation": (1, 1),
        "causal": False,
    }


def test_a_foreign_graph_has_no_manifest_and_may_hold_anything(tmp_path: Path) -> None:
    model = from_text("g (float[N, ?] x, float[2] w) => (float[N, M] y) { y = Mul(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "w"))
    sequence = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)
    model.graph.output.append(sequence)
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    values = described(path)
    assert "manifest" not in values
    assert values["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", "dim1"]}]
    assert values["outputs"][1] == {"name": "list", "dtype": "unknown", "shape": []}


def test_the_hash_of_a_large_graph_holds_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_INLINE_BYTES", 10)
    weight = np.zeros((5, 300), np.float32)
    path = save(classifier(weight=weight), tmp_path / "net.onnx")
    values = described(path)
    assert values["weights_bytes"] == weight.nbytes + 4 * 3
    assert values["sha256"] == graph_sha256(path) != sha256_of_file(path)


def test_a_quantized_graph_names_its_parents(folder: Path) -> None:
    values = described(folder / "net.int8.onnx")
    assert values["manifest"]["options"]["precision"] == "int8"
    parents = values["manifest"]["parents"]
    assert parents["graph"]["sha256"] == graph_sha256(folder / "net.onnx")
    assert parents["table"]["sha256"] == sha256_of_file(folder / "net.calib.json")
    assert values["operators"]["QuantizeLinear"] >= 1


def test_a_table_is_described_by_its_method_and_ranges(folder: Path) -> None:
    values = described(folder / "net.calib.json")
    table = CalibTable.load(folder / "net.calib.json")
    assert (values["kind"], values["tensors"]) == ("table", 1)
    assert values["method"] == table.method == values["manifest"]["options"]["method"]
    assert values["ranges"] == [{"tensor": "x", **table.tensors["x"].to_dict()}]


def test_a_calibration_cache_is_described_whatever_it_is_called(folder: Path) -> None:
    cache = trt_cache_from_table(CalibTable.load(folder / "net.calib.json"), "10.3")
    for name in ("net.cache", "calib.txt", "calibration"):
        values = described(cache.save(folder / name))
        assert (values["kind"], values["tensors"]) == ("trt_calib_cache", 1)
        assert values["header"] == "TRT-100300-EntropyCalibration2"
        assert "manifest" not in values


def test_a_cache_that_a_calibrator_keeps_is_described_with_its_manifest(tmp_path: Path) -> None:
    manifest = Manifest(
        "trt_calib_cache", {"graph": Parent("net.onnx", "0")}, report={"samples": 8}
    )
    with atomic_artifact(tmp_path / "net.cache", manifest) as (file,):
        file.write_bytes(b"TRT-100300-MinMaxCalibration\nx: 3c010204\n")
    values = described(tmp_path / "net.cache")
    assert values["manifest"]["report"] == {"samples": 8}
    (tmp_path / "net.cache").write_bytes(b"TRT-100300-MinMaxCalibration\nx: 3f800000\n")
    with pytest.raises(ArtifactError, match="their hashes differ"):
        describe(tmp_path / "net.cache")


@pytest.mark.parametrize("name", ["net.engine", "net.int8.engine"])
def test_an_engine_is_described_by_what_it_was_built_for(folder: Path, name: str) -> None:
    values = described(folder / name)
    assert values["kind"] == "engine"
    assert values["sha256"] == sha256_of_file(folder / name)
    assert values["manifest"]["target"] == "cpu"
    source = name.replace("engine", "onnx")
    assert values["manifest"]["parents"]["graph"]["sha256"] == graph_sha256(folder / source)


def test_a_truncated_engine_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("net.engine", "net.engine.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "net.engine").write_bytes((folder / "net.engine").read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="hashes differ"):
        describe(tmp_path / "net.engine")


def test_a_report_is_described_by_its_figures(folder: Path) -> None:
    values = described(folder / "net.profile.json")
    assert values["kind"] == "report"
    assert values["latency"]["p50_ms"] > 0
    assert values["inputs"] == {"x": [8, 5]}
    engine = sha256_of_file(folder / "net.engine")
    assert values["manifest"]["parents"]["engine"]["sha256"] == engine


def test_a_manifest_beside_a_file_is_described_as_what_it_describes(folder: Path) -> None:
    values = described(folder / "net.engine.json")
    assert (values["kind"], values["manifest"]["target"]) == ("engine", "cpu")


def test_weights_are_described_by_their_tensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(torch.nn.Linear(3, 2), path, {"recipe": "none"})
    values = described(path)
    assert values["kind"] == "weights"
    assert values["tensors"] == {"weight": [2, 3], "bias": [2]}
    assert (values["parameters"], values["metadata"]) == (8, {"recipe": "none"})


def test_without_safetensors_weights_tell_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(torch.nn.Linear(3, 2), path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingDependencyError, match="needs safetensors") as error:
        describe(path)
    assert error.value.hint == 'pip install "edgeattn[export]"'


REFUSED: dict[str, tuple[bytes, type[EdgeAttnError], str]] = {
    "net.onnx": (b"a text", GraphError, r"net\.onnx is not (a whole|an) ONNX"),
    "net.pt": (pickle.dumps({"w": 1.0}), GraphError, r"net\.pt is not (a whole|an) ONNX"),
    "net.engine": (b"", GraphError, r"net\.engine is not"),
    "empty.json": (b"", ArtifactError, "is not a file of the toolkit"),
    "list.json": (b"[1]", ArtifactError, "is not a file of the toolkit"),
    "other.json": (b'{"name": "package"}', ArtifactError, "is not an edgeattn manifest"),
    "number.json": (b'{"manifest": 3}', ArtifactError, "is not an edgeattn manifest"),
    "later.json": (
        b'{"manifest": {"kind": "report", "format_version": 2}}',
        ArtifactError,
        "has format version 2; this edgeattn reads version 1",
    ),
    "table.json": (
        b'{"manifest": {"kind": "table", "format_version": 1}, "tensors": 3}',
        EdgeAttnError,
        r"table\.json",
    ),
    "cut.cache": (b"TRT-100300-EntropyCalibration2\nx: 3c01", TableError, "line 2 of .*cut.cache"),
    "cut.safetensors": (b"\x10\0\0\0\0\0\0\0{}", ArtifactError, "is not a whole safetensors file"),
    "empty.safetensors": (b"", ArtifactError, "is not a whole safetensors file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_file_of_the_toolkit_is_refused(tmp_path: Path, name: str) -> None:
    content, error, message = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message) as raised:
        describe(tmp_path / name)
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("name", ["none.onnx", "none.json", "none.engine", "none.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=f"there is no file .*{name}"):
        describe(tmp_path / name)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is a folder; expected a file"):
        describe(tmp_path)


def test_a_graph_with_a_malformed_manifest_is_refused(tmp_path: Path) -> None:
    model = load_graph(save(classifier(), tmp_path / "net.onnx"))
    helper.set_model_props(model, {files.MANIFEST_KEY: '{"kind": "graph", "format_version": 9}'})
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ArtifactError, match=r"net\.onnx has format version 9"):
        describe(tmp_path / "net.onnx")
