"""ONNX files: whole ones come back, broken ones are refused, large ones have weights beside."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.artifacts import Manifest, Parent, read_manifest, sha256_of_bytes, sha256_of_file
from edgeattn.errors import ArtifactError, EdgeAttnError, GraphError, SpecError
from edgeattn.graph import files
from edgeattn.graph.files import (
    MANIFEST_KEY,
    embedded_manifest,
    graph_sha256,
    input_specs,
    load_graph,
    save_graph,
    value_dtype,
    value_shape,
    weights_bytes,
)
from edgeattn.inputs import ImagePreprocess, InputSpec
from tests.graphs import classifier, from_text, logits_of, save

MANIFEST = Manifest("graph", {"model": Parent("net", "0" * 64)}, report={"nodes": 2})
WIDTH = 60
LARGEST = 4 * WIDTH * WIDTH  # bytes of a weight that does not fill its last page
PAGE = 4096
X = np.random.default_rng(3).standard_normal((4, 5)).astype(np.float32)


def without_props(model: onnx.ModelProto) -> bytes:
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    for tensor in bare.graph.initializer:
        tensor.ClearField("data_location")  # reading weights from their own file sets the default
    return bare.SerializeToString(deterministic=True)


def wide() -> onnx.ModelProto:
    """Two weights that go to their own file, and one too small for it."""
    rng = np.random.default_rng(5)
    shapes = {"a": (WIDTH, WIDTH), "b": (WIDTH, 5), "c": (5,)}
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    model = from_text(
        f"g (float[N, {WIDTH}] x) => (float[N, 5] y) "
        "{ p = MatMul(x, a) q = MatMul(p, b) y = Add(q, c) }"
    )
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    return model


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A graph that counts as large: its weights lie beside it."""
    monkeypatch.setattr(files, "MAX_INLINE_BYTES", 1000)
    return save_graph(wide(), tmp_path / "net.onnx", MANIFEST)


# --- round trip -----------------------------------------------------------------------------------


def test_a_graph_comes_back_with_its_manifest_inside_and_beside(tmp_path: Path) -> None:
    path = save_graph(classifier(), tmp_path / "net.onnx", MANIFEST)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json"]
    loaded = load_graph(path)
    assert without_props(loaded) == without_props(classifier())
    assert embedded_manifest(loaded, "net.onnx") == MANIFEST
    beside = read_manifest(path)
    assert beside.files == {"net.onnx": sha256_of_file(path)}
    assert (beside.parents, beside.report) == (MANIFEST.parents, MANIFEST.report)


def test_saving_keeps_other_properties_and_replaces_an_older_manifest(tmp_path: Path) -> None:
    model = classifier()
    helper.set_model_props(model, {"author": "somebody", MANIFEST_KEY: "old"})
    loaded = load_graph(save_graph(model, tmp_path / "net.onnx", MANIFEST))
    assert {p.key for p in loaded.metadata_props} == {"author", MANIFEST_KEY}
    assert embedded_manifest(loaded, "net.onnx") == MANIFEST


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (save_graph(wide(), tmp_path / f"{i}.onnx", MANIFEST) for i in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_INLINE_BYTES", 1000)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_move_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_graph(wide(), tmp_path / "net.onnx", MANIFEST)
    assert not list(tmp_path.iterdir())


# --- files that are no whole graph ----------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused_or_has_its_graph_whole(tmp_path: Path) -> None:
    whole = save_graph(classifier(), tmp_path / "net.onnx", MANIFEST).read_bytes()
    graph = load_graph(tmp_path / "net.onnx").graph
    cut = tmp_path / "cut.onnx"
    messages = []
    for end in range(len(whole)):
        cut.write_bytes(whole[:end])
        try:
            assert load_graph(cut).graph == graph
        except GraphError as err:
            messages.append(err.message)
    # What follows the graph in the file, its opsets and its properties, may be lost in whole.
    assert len(messages) >= len(whole) - 3
    assert all("cut.onnx is not" in message and "\n" not in message for message in messages)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"This is a text file, not a graph.\n",
        b"\x00" * 64,
        bytes(range(256)),
        pickle.dumps({"weight": [1.0, 2.0]}),
        b"PK\x03\x04 an archive",
        onnx.ModelProto(ir_version=10).SerializeToString(),
        helper.make_model(helper.make_graph([], "empty", [], [])).SerializeToString(),
    ],
    ids=["empty", "text", "zeros", "bytes", "pickle", "archive", "no graph", "no node"],
)
def test_a_file_that_is_no_graph_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    for read in (load_graph, graph_sha256):
        with pytest.raises(GraphError, match=r"net\.onnx is not (a whole|an) ONNX") as error:
            read(path)
        assert "\n" not in error.value.message


def test_a_graph_that_names_no_opset_is_refused(tmp_path: Path) -> None:
    model = classifier()
    del model.opset_import[:]
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="names no opset"):
        load_graph(path)


def test_a_missing_graph_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        load_graph(tmp_path / "net.onnx")
    with pytest.raises(ArtifactError, match="is a folder"):
        load_graph(tmp_path)


# --- large graphs ---------------------------------------------------------------------------------


def test_weights_beyond_the_limit_go_to_their_own_file(large: Path) -> None:
    folder = large.parent
    names = ["net.onnx", "net.onnx.data", "net.onnx.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert read_manifest(large).files.keys() == {"net.onnx", "net.onnx.data"}
    assert without_props(load_graph(large)) == without_props(wide())
    onnx.checker.check_model(large, full_check=True)
    tensors = {t.name: t for t in onnx.load(large, load_external_data=False).graph.initializer}
    offsets = {
        name: {e.key: e.value for e in tensor.external_data} for name, tensor in tensors.items()
    }
    assert offsets["a"] == {"location": "net.onnx.data", "offset": "0", "length": str(LARGEST)}
    assert int(offsets["b"]["offset"]) == 4 * PAGE  # files are mapped in pages
    assert not offsets["c"]  # too small to be worth a page


def test_onnx_runtime_reads_the_weights_beside_a_graph(large: Path) -> None:
    x = np.random.default_rng(6).standard_normal((2, WIDTH)).astype(np.float32)
    session = ort.InferenceSession(large, providers=["CPUExecutionProvider"])
    weights = {t.name: numpy_helper.to_array(t) for t in wide().graph.initializer}
    expected = x.astype(np.float64) @ weights["a"] @ weights["b"] + weights["c"]
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-4)


def test_weights_that_are_not_stored_as_raw_bytes_stay_in_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_INLINE_BYTES", 1000)
    model = wide()
    weight = numpy_helper.to_array(model.graph.initializer[0])
    del model.graph.initializer[0]
    listed = helper.make_tensor("a", TensorProto.FLOAT, weight.shape, weight.ravel().tolist())
    model.graph.initializer.append(listed)
    loaded = load_graph(save_graph(model, tmp_path / "net.onnx", MANIFEST))
    back = {t.name: numpy_helper.to_array(t) for t in loaded.graph.initializer}
    np.testing.assert_array_equal(back["a"], weight)


def test_the_size_of_weights_counts_both_ways_of_storing_them() -> None:
    model = wide()
    raw = LARGEST + 4 * (WIDTH * 5 + 5)
    assert weights_bytes(model) == raw
    listed = helper.make_tensor("d", TensorProto.FLOAT, (100,), [1.0] * 100)
    model.graph.initializer.append(listed)
    assert 400 <= weights_bytes(model) - raw <= 420


def test_the_hash_of_a_small_graph_is_its_files(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "net.onnx")
    assert graph_sha256(path) == sha256_of_bytes(path.read_bytes())


@pytest.mark.parametrize("place", [0, LARGEST - 1, PAGE * 4 + 5])
def test_one_changed_byte_of_the_weights_changes_the_graphs_hash(large: Path, place: int) -> None:
    before, data = graph_sha256(large), large.with_name("net.onnx.data")
    changed = bytearray(data.read_bytes())
    changed[place] ^= 1
    data.write_bytes(changed)
    assert graph_sha256(large) != before
    with pytest.raises(ArtifactError, match=r"net\.onnx\.data is not the file"):
        read_manifest(large)


def test_a_copy_of_a_large_graph_has_its_hash(large: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for file in (large, large.with_name("net.onnx.data")):
        shutil.copy(file, folder / file.name)
    assert graph_sha256(folder / "net.onnx") == graph_sha256(large)


def test_missing_weights_are_named(large: Path) -> None:
    large.with_name("net.onnx.data").unlink()
    with pytest.raises(ArtifactError, match=r"there is no file .*net\.onnx\.data"):
        graph_sha256(large)
    with pytest.raises(ArtifactError, match=r"there is no file .*net\.onnx\.data") as error:
        load_graph(large)
    assert error.value.hint


@pytest.mark.parametrize("end", [0, 100, LARGEST - 1, LARGEST])
def test_truncated_weights_are_refused(large: Path, end: int) -> None:
    data = large.with_name("net.onnx.data")
    data.write_bytes(data.read_bytes()[:end])
    with pytest.raises(GraphError, match=r"the weights of .*net\.onnx cannot be read") as error:
        load_graph(large)
    assert "\n" not in error.value.message


def in_an_initializer(model: onnx.ModelProto) -> TensorProto:
    return model.graph.initializer[0]


def in_a_constant(model: onnx.ModelProto) -> TensorProto:
    node = model.graph.node.add()
    node.CopyFrom(helper.make_node("Constant", [], ["unused"], value=wide().graph.initializer[0]))
    return node.attribute[0].t


def in_control_flow(model: onnx.ModelProto) -> TensorProto:
    body = wide().graph
    node = helper.make_node("If", ["x"], ["unused"], then_branch=body, else_branch=body)
    model.graph.node.append(node)
    return model.graph.node[-1].attribute[0].g.initializer[0]


PLACES = [in_an_initializer, in_a_constant, in_control_flow]


def refer_to(tensor: TensorProto, **entries: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


@pytest.mark.parametrize("tensor_of", PLACES)
@pytest.mark.parametrize("location", ["../secret", "a/../../secret", "/etc/hostname", "{folder}"])
def test_weights_outside_the_graphs_folder_are_never_read(
    tmp_path: Path, location: str, tensor_of: Callable[[onnx.ModelProto], TensorProto]
) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * LARGEST)
    folder = tmp_path / "graphs"
    folder.mkdir()
    model = wide()
    refer_to(tensor_of(model), location=location.format(folder=tmp_path / "secret"))
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    for read in (load_graph, graph_sha256):
        with pytest.raises(GraphError, match="keeps weights outside its folder"):
            read(path)


def test_a_link_that_leads_outside_the_folder_is_not_followed(large: Path, tmp_path: Path) -> None:
    data = large.with_name("net.onnx.data")
    outside = tmp_path.parent / "outside.data"
    data.rename(outside)
    data.symlink_to(outside)
    with pytest.raises(EdgeAttnError, match=r"the weights of .* cannot be read"):
        load_graph(large)
    outside.unlink()


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "data", "offset": "-4"},
        {"location": "data", "offset": "four"},
        {"location": "data", "length": str(1 << 60)},
        {"location": "data", "offset": "0", "length": "-1"},
        {"location": "."},
        {"location": ""},
    ],
)
def test_an_impossible_place_of_weights_is_refused(tmp_path: Path, entries: dict[str, str]) -> None:
    (tmp_path / "data").write_bytes(b"\0" * LARGEST)
    model = wide()
    refer_to(model.graph.initializer[0], **entries)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EdgeAttnError, match=r"net\.onnx") as error:
        load_graph(path)
    assert "\n" not in error.value.message


@pytest.mark.parametrize("tensor_of", PLACES[1:])
def test_weights_of_constants_and_control_flow_count_in_the_hash(
    tmp_path: Path, tensor_of: Callable[[onnx.ModelProto], TensorProto]
) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"\0" * LARGEST)
    model = wide()
    refer_to(tensor_of(model), location="data")
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    load_graph(path)
    before = graph_sha256(path)
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    assert graph_sha256(path) != before


# --- manifests and inputs -------------------------------------------------------------------------


def test_a_foreign_graph_has_no_manifest() -> None:
    assert embedded_manifest(classifier(), "net.onnx") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds a malformed manifest"),
        ("{", "holds a malformed manifest"),
        ("[]", "is not an edgeattn manifest"),
        ('{"kind": "graph", "format_version": 99}', "has format version 99"),
        ('{"kind": "graph", "format_version": 1, "x": 1}', "holds a malformed manifest"),
    ],
)
def test_a_malformed_embedded_manifest_is_refused(text: str, message: str) -> None:
    model = classifier()
    helper.set_model_props(model, {MANIFEST_KEY: text})
    with pytest.raises(ArtifactError, match=rf"net\.onnx {message}"):
        embedded_manifest(model, "net.onnx")


def test_inputs_have_their_shape_type_and_preprocessing(tmp_path: Path) -> None:
    model = from_text(
        "g (float[batch, 3, H, 7] image, int64[] count, bfloat16[2, ?] x, float[5] w) "
        "=> (float[1] y) { y = Identity(w) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(5, np.float32), "w"))
    described = {"name": "image", "preprocess": {"mean": [0.5] * 3, "std": [1.0] * 3, "resize": 8}}
    manifest = Manifest("graph", options={"inputs": [described, {"name": "x"}]})
    loaded = load_graph(save_graph(model, tmp_path / "net.onnx", manifest))
    assert input_specs(loaded) == (
        InputSpec(("batch", 3, "H", 7), "image", "float32", ImagePreprocess([0.5] * 3, [1] * 3, 8)),
        InputSpec((), "count", "int64"),
        InputSpec((2, "dim1"), "x", "bfloat16"),
    )


@pytest.mark.parametrize(
    "described",
    [
        3,
        ["image"],
        [{"preprocess": {"mean": [0.5], "std": [1.0]}}],
        [{"name": "x", "preprocess": {"mean": [0.5]}}],
        [{"name": "x", "preprocess": {"mean": [0.5], "std": [0.0]}}],
        [{"name": "x", "preprocess": {"mean": ["a"], "std": [1.0]}}],
        [{"name": "x", "preprocess": ["mean"]}],
    ],
)
def test_a_manifest_that_describes_inputs_wrongly_is_refused(
    tmp_path: Path, described: Any
) -> None:
    manifest = Manifest("graph", options={"inputs": described})
    model = load_graph(save_graph(classifier(), tmp_path / "net.onnx", manifest))
    with pytest.raises(ArtifactError, match="describes its inputs wrongly"):
        input_specs(model)


def test_an_input_that_is_no_tensor_is_described_but_cannot_be_fed() -> None:
    model = classifier()
    sequence = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)
    model.graph.input.append(sequence)
    assert (value_dtype(sequence), value_shape(sequence)) == ("unknown", ())
    with pytest.raises(SpecError, match="input list has the type unknown"):
        input_specs(model)


@pytest.mark.parametrize(
    ("element", "name"),
    [
        (TensorProto.FLOAT, "float32"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.BFLOAT16, "bfloat16"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.INT8, "int8"),
        (TensorProto.INT64, "int64"),
        (TensorProto.BOOL, "bool"),
        (TensorProto.STRING, "string"),
    ],
)
def test_element_types_have_numpys_names(element: int, name: str) -> None:
    assert value_dtype(helper.make_tensor_value_info("x", element, [1])) == name


def test_results_of_the_graph_read_back_are_those_of_numpy(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "net.onnx")
    session = ort.InferenceSession(
        load_graph(path).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(session.run(None, {"x": X})[0], logits_of(X), rtol=1e-5)
