"""A bundle holds what it was told, the same bytes each time, and nothing that does not fit."""

from __future__ import annotations

import json
import os
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import edgeattn
from edgeattn.arrays import read_arrays
from edgeattn.artifacts import sha256_of_file
from edgeattn.bundle.read import Bundle
from edgeattn.bundle.write import write_bundle
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.errors import ArtifactError, BuildError, DataError, EdgeAttnError, TableError
from edgeattn.graph import files as graph_files
from edgeattn.graph.files import graph_sha256, input_specs, load_graph
from edgeattn.plugin.source import plugin_source
from tests.edgeattn.bundle.bundles import attention, listing
from tests.graphs import classifier, logits_of
from tests.graphs import save as save_graph


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `net.onnx`, its table `net.calib.json` and `net.int8.onnx`."""
    folder = tmp_path_factory.mktemp("quantized")
    graph = save_graph(classifier(), folder / "net.onnx")
    x = np.random.default_rng(0).standard_normal((16, 5)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    table = edgeattn.calibrate(graph, folder / "x.npz", method="minmax")
    edgeattn.quantize(graph, table=table)
    return folder


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    """Read all files of a bundle: role and content by name."""
    with Bundle.open(path) as bundle:
        return {e.name: (e.role, bundle.read(e.name)) for e in bundle.manifest.entries}


def test_a_bundle_holds_the_graph_as_it_is(made: Path) -> None:
    found = contents(made / "net.zip")
    assert found["graph/graph.onnx"] == ("graph", (made / "net.onnx").read_bytes())
    with Bundle.open(made / "net.zip") as bundle:
        assert bundle.manifest.name == "net"
        parents = bundle.manifest.manifest.parents
    assert (parents["graph"].file, parents["graph"].sha256) == (
        "net.onnx",
        graph_sha256(made / "net.onnx"),
    )


def test_equal_files_give_equal_bytes(folder: Path) -> None:
    before = (folder / "net.zip").read_bytes()
    os.utime(folder / "net.onnx", (1e9, 1e9))
    time.sleep(0.01)
    write_bundle(folder / "net.onnx", engine="cpu")
    assert (folder / "net.zip").read_bytes() == before
    signed = (folder / "signed.zip").read_bytes()
    write_bundle(
        folder / "net.onnx",
        folder / "again.zip",
        engine="cpu",
        key=folder / "key.pem",
        labels=folder / "labels.txt",
    )
    assert (folder / "again.zip").read_bytes() == signed  # Ed25519 signs without chance


def test_inputs_are_described_for_programs_without_onnx(made: Path) -> None:
    role, content = contents(made / "net.zip")["preprocess.json"]
    assert role == "preprocess"
    specs = [asdict(spec) for spec in input_specs(load_graph(made / "net.onnx"))]
    assert json.loads(content) == {"inputs": json.loads(json.dumps(specs))}


def test_golden_tensors_are_npz_files(made: Path, tmp_path: Path) -> None:
    found = contents(made / "net.zip")
    arrays = []
    for name in ("inputs", "outputs"):
        (tmp_path / name).write_bytes(found[f"golden/{name}.npz"][1])
        with zipfile.ZipFile(tmp_path / name) as archive:  # undated: equal arrays, equal bytes
            assert {info.date_time[0] for info in archive.infolist()} == {1980}
        arrays.append(read_arrays(tmp_path / name))
    np.testing.assert_allclose(arrays[1]["logits"], logits_of(arrays[0]["x"]), rtol=1e-5)


def test_labels_say_which_output_they_are_of(made: Path) -> None:
    found = contents(made / "signed.zip")
    assert found["labels.txt"] == ("labels", b"cat\ndog\nowl\n")
    expected = {"kind": "classification", "output": "logits", "labels": "labels.txt"}
    assert json.loads(found["postprocess.json"][1]) == expected


@pytest.mark.parametrize("text", ["cat\r\ndog\r\n owl ", "cat\n\ndog\nowl\n\n"])
def test_labels_of_any_editor_are_taken(folder: Path, text: str) -> None:
    (folder / "labels.txt").write_bytes(text.encode())
    write_bundle(folder / "net.onnx", engine="cpu", labels=folder / "labels.txt")
    assert contents(folder / "net.zip")["labels.txt"][1] == b"cat\ndog\nowl\n"


def test_a_table_and_a_graph_in_float_travel_with_a_quantized_graph(
    quantized: Path, tmp_path: Path
) -> None:
    manifest = write_bundle(
        quantized / "net.int8.onnx",
        tmp_path / "b.zip",
        table=quantized / "net.calib.json",
        portable=quantized / "net.onnx",
    )
    found = contents(tmp_path / "b.zip")
    assert found["graph/graph.onnx"][1] == (quantized / "net.int8.onnx").read_bytes()
    assert found["portable/portable.onnx"][1] == (quantized / "net.onnx").read_bytes()
    assert found["calib.json"] == ("table", (quantized / "net.calib.json").read_bytes())
    assert set(manifest.manifest.parents) == {"graph", "portable", "table"}
    off = manifest.manifest.report["off_the_portable_graph"]["logits"]
    assert 0 < off["rms"] < 0.05


def test_a_precision_is_written_on_the_way(quantized: Path, tmp_path: Path) -> None:
    write_bundle(
        quantized / "net.onnx",
        tmp_path / "b.zip",
        precision="int8",
        table=quantized / "net.calib.json",
    )
    found = contents(tmp_path / "b.zip")
    assert found["graph/graph.onnx"][1] == (quantized / "net.int8.onnx").read_bytes()
    assert found["portable/portable.onnx"][1] == (quantized / "net.onnx").read_bytes()


def test_attention_is_written_in_standard_operators_for_others(tmp_path: Path) -> None:
    graph = attention(tmp_path / "net.onnx")
    manifest = write_bundle(graph, plugin="none")
    content = contents(tmp_path / "net.zip")
    (tmp_path / "portable.onnx").write_bytes(content["portable/portable.onnx"][1])
    session = onnxruntime.InferenceSession(tmp_path / "portable.onnx")
    golden = {}
    for name in ("inputs", "outputs"):
        (tmp_path / f"{name}.npz").write_bytes(content[f"golden/{name}.npz"][1])
        golden[name] = read_arrays(tmp_path / f"{name}.npz")
    found = session.run(None, {"x": golden["inputs"]["x"][:1]})
    np.testing.assert_allclose(found[0], golden["outputs"]["y"][:1], rtol=1e-4, atol=1e-5)
    assert manifest.manifest.report == {"golden_samples": len(golden["inputs"]["x"])}


def test_the_plugins_source_travels_where_the_graph_needs_it(tmp_path: Path) -> None:
    graph = attention(tmp_path / "net.onnx")
    write_bundle(graph)
    sources = {
        name.removeprefix("plugin/source/"): content
        for name, (role, content) in contents(tmp_path / "net.zip").items()
        if role == "plugin-source"
    }
    root = plugin_source()
    assert {"CMakeLists.txt", "include/edgeattn/edgeattn.h", "cmake/source_hash.cmake"} < set(
        sources
    )
    assert all((root / name).read_bytes() == content for name, content in sources.items())
    compiled = [p for folder in ("launch", "trt") for p in (root / folder).rglob("*.c*")]
    assert {p.relative_to(root).as_posix() for p in compiled} < set(sources)
    for without in (
        {"plugin": "none"},
        {"engine": "cpu"},
        {"tensorrt": TensorRtRequest(attention="native")},
    ):
        write_bundle(graph, **without)  # type: ignore[arg-type]
        roles = {role for role, _ in contents(tmp_path / "net.zip").values()}
        assert "plugin-source" not in roles


def test_a_graph_without_attention_needs_no_plugin(quantized: Path, tmp_path: Path) -> None:
    write_bundle(quantized / "net.onnx", tmp_path / "b.zip")
    assert {role for role, _ in contents(tmp_path / "b.zip").values()} == {
        "graph",
        "preprocess",
        "golden-inputs",
        "golden-outputs",
    }


def test_golden_samples_have_the_shapes_that_the_engine_is_tuned_for(
    quantized: Path, tmp_path: Path
) -> None:
    profile = ShapeProfile(min={"x": (1, 5)}, opt={"x": (3, 5)}, max={"x": (8, 5)})
    request = TensorRtRequest(TensorRtOptions(profiles=(profile,)))
    manifest = write_bundle(
        quantized / "net.onnx", tmp_path / "b.zip", tensorrt=request, targets=["jetson-thor"]
    )
    assert manifest.manifest.report["golden_samples"] == 9
    assert manifest.build["tensorrt"]["options"]["profiles"] == [profile.to_dict()]
    assert manifest.manifest.target == "jetson-thor"


def test_weights_beyond_2_gb_travel_in_their_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_files, "MAX_INLINE_BYTES", 10)
    weight = np.random.default_rng(0).standard_normal((5, 300)).astype(np.float32)
    model = classifier(weight=weight)
    del model.graph.node[1]
    model.graph.node[0].output[0] = "logits"
    del model.graph.initializer[1]
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 300
    graph = save_graph(model, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx.data").exists()
    write_bundle(graph, tmp_path / "b.zip")
    found = contents(tmp_path / "b.zip")
    assert found["graph/net.onnx.data"] == ("weights", (tmp_path / "net.onnx.data").read_bytes())
    with edgeattn.load(tmp_path / "b.zip") as engine:
        x = np.ones((2, 5), np.float32)
        np.testing.assert_allclose(engine.run({"x": x})["logits"], x @ weight, rtol=1e-5)


# --- refusals -------------------------------------------------------------------------------------


def refused(
    said: str, error: type[EdgeAttnError], graph: Path, output: Path, **options: Any
) -> str:
    before = listing(output.parent)
    with pytest.raises(error, match=said) as caught:
        write_bundle(graph, output, **options)
    assert listing(output.parent) == before
    assert "\n" not in caught.value.message
    return caught.value.hint


def test_a_table_of_another_graph_is_refused(quantized: Path, tmp_path: Path) -> None:
    table = tmp_path / "other.calib.json"
    values = json.loads((quantized / "net.calib.json").read_text())
    values["manifest"]["tools"] = {}
    table.write_text(json.dumps(values))
    said = "was quantized with another table than .*: their hashes differ"
    graph, output = quantized / "net.int8.onnx", tmp_path / "b.zip"
    assert "net.calib.json" in refused(said, TableError, graph, output, table=table)


def test_a_table_for_a_graph_in_float_is_refused(quantized: Path, tmp_path: Path) -> None:
    hint = refused(
        "was not quantized with a table",
        TableError,
        quantized / "net.onnx",
        tmp_path / "b.zip",
        table=quantized / "net.calib.json",
    )
    assert "--precision int8" in hint


def test_a_portable_graph_of_another_model_is_refused(quantized: Path, tmp_path: Path) -> None:
    weight = np.zeros((5, 4), np.float32)
    model = classifier(weight=weight)
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(weight[0], "bias"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    other = save_graph(model, tmp_path / "other.onnx")
    said = r"is not that of the model: it yields logits \(8, 4\); expected logits \(8, 3\)"
    options = {"portable": other}
    refused(said, ArtifactError, quantized / "net.int8.onnx", tmp_path / "b.zip", **options)
    model.graph.input[0].name = "z"
    model.graph.node[0].input[0] = "z"
    save_graph(model, other)
    said = "is not that of the model: the engine has no input x"
    refused(said, ArtifactError, quantized / "net.int8.onnx", tmp_path / "b.zip", **options)


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"cat\ndog\n", "names 2 classes; expected as many"), (b"\xff\xfe", "are no UTF-8 text")],
)
def test_labels_that_do_not_fit_are_refused(
    quantized: Path, tmp_path: Path, text: bytes, said: str
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_bytes(text)
    refused(said, DataError, quantized / "net.onnx", tmp_path / "b.zip", labels=labels)


def test_an_option_of_one_machine_is_refused(quantized: Path, tmp_path: Path) -> None:
    request = TensorRtRequest(TensorRtOptions(timing_cache=Path("t")))
    graph, output = quantized / "net.onnx", tmp_path / "b.zip"
    refused("belongs to one machine", BuildError, graph, output, tensorrt=request)


def test_a_name_that_is_none_is_refused(quantized: Path, tmp_path: Path) -> None:
    graph, output = quantized / "net.onnx", tmp_path / "b.zip"
    refused("is no name for a file", ArtifactError, graph, output, name="my net")


def test_the_graph_is_not_written_over(folder: Path) -> None:
    graph = folder / "net.onnx"
    refused("is the graph to pack", ArtifactError, graph, graph)
    (folder / "link.zip").symlink_to(graph)
    refused("is the graph to pack", ArtifactError, graph, folder / "link.zip")


@pytest.mark.parametrize(
    ("file", "name"),
    [("my net.int8.onnx", "my-net"), ("\u00fc.onnx", "graph"), (".x.onnx", "graph")],
)
def test_a_bundle_is_called_as_its_graph(folder: Path, file: str, name: str) -> None:
    (folder / "net.onnx").rename(folder / file)
    assert write_bundle(folder / file, folder / "b.zip", engine="cpu").name == name


def test_a_missing_graph_and_a_missing_folder_are_named(quantized: Path, tmp_path: Path) -> None:
    refused("there is no file", ArtifactError, tmp_path / "none.onnx", tmp_path / "b.zip")
    with pytest.raises(ArtifactError, match="there is no folder"):
        write_bundle(quantized / "net.onnx", tmp_path / "none/b.zip")


def test_a_bundle_that_is_there_stays_if_the_next_one_fails(folder: Path) -> None:
    before = sha256_of_file(folder / "net.zip")
    with pytest.raises(DataError):
        write_bundle(folder / "net.onnx", golden_inputs={"x": np.zeros((1, 5), np.float32)})
    assert sha256_of_file(folder / "net.zip") == before
