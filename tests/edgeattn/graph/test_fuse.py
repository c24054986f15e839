"""`edgeattn.fuse`: a graph file to one with attention nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import edgeattn
from edgeattn.artifacts import Manifest, read_manifest
from edgeattn.errors import ArtifactError, GraphError
from edgeattn.graph import files
from edgeattn.graph.files import embedded_manifest, graph_sha256, load_graph
from edgeattn.graph.fuse_report import fusion_line
from edgeattn.graph.op import attention_nodes, spec_of_node
from edgeattn.graph.verify import run_graph
from tests import foreign_attention, graphs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foreign_attention.save_graphs(tmp_path)
    return tmp_path


def images():
    shape = (1, foreign_attention.ROWS, foreign_attention.COLS, foreign_attention.CHANNELS)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_the_new_graph_computes_what_the_old_one_does_with_a_node_per_attention(folder):
    path = edgeattn.fuse("swin.onnx")
    assert path.name == "swin.fused.onnx"
    model = load_graph(path)
    specs = [spec_of_node(node).head_groups[0] for node in attention_nodes(model)]
    assert [(s.window_size, s.shift_size) for s in specs] == [((3, 3), (0, 0)), ((3, 3), (1, 1))]
    x = images()
    (found,) = run_graph(model, {"x": x})
    wanted = foreign_attention.expected(x)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_its_manifest_names_its_parent_and_what_became_of_each_attention(folder):
    path = edgeattn.fuse("mixed.onnx", "out.onnx")
    manifest = read_manifest(path)
    assert manifest.parents["graph"].file == "mixed.onnx"
    assert manifest.parents["graph"].sha256 == graph_sha256("mixed.onnx")
    embedded = embedded_manifest(load_graph(path), "out.onnx")
    assert embedded is not None
    assert embedded.report == manifest.report
    report = manifest.report
    assert (report["found"], report["fused"], report["left"]) == (3, 2, 1)
    assert report["nodes_after"] == len(load_graph(path).graph.node) < report["nodes_before"]
    assert report["nodes_before"] == len(load_graph("mixed.onnx").graph.node)
    assert [each["fused"] for each in report["attentions"]] == [True, True, False]
    assert report["attentions"][1]["groups"] == [
        {"heads": 2, "mode": "block", "window": [3, 3], "shift": [1, 1]}
    ]
    assert report["attentions"][1]["map_size"] == [6, 9]
    assert 0 <= report["max_error"] < 1e-4
    assert "every token" in report["attentions"][2]["reason"]


def test_a_graph_keeps_what_its_manifest_says_of_its_inputs(folder):
    model = foreign_attention.windowed()
    options = {"inputs": [{"name": "x", "preprocess": None}]}
    files.save_graph(model, "known.onnx", Manifest("graph", options=options))
    manifest = read_manifest(edgeattn.fuse("known.onnx"))
    assert manifest.options["inputs"] == options["inputs"]


def test_a_graph_without_attention_is_written_as_it_was_read(folder):
    path = edgeattn.fuse("plain.onnx")
    x = np.random.default_rng(0).standard_normal((2, graphs.FEATURES)).astype(np.float32)
    np.testing.assert_array_equal(
        run_graph(load_graph(path), {"x": x})[0],
        run_graph(load_graph("plain.onnx"), {"x": x})[0],
    )
    assert "nothing to fuse" in fusion_line(read_manifest(path).report)


def test_global_attention_is_fused_where_that_is_asked_for(folder):
    path = edgeattn.fuse("mixed.onnx", global_attention=True)
    last = attention_nodes(load_graph(path))[-1]
    assert spec_of_node(last).head_groups[0].window_size == (0, 0)
    assert read_manifest(path).options["global_attention"] is True


def test_where_all_are_required_a_graph_with_one_that_is_left_is_refused_unwritten(folder):
    before = sorted(folder.iterdir())
    with pytest.raises(GraphError, match=r"1 of 3 attentions cannot be fused: .* \(1\)"):
        edgeattn.fuse("mixed.onnx", require_all=True)
    assert sorted(folder.iterdir()) == before
    assert edgeattn.fuse("swin.onnx", require_all=True).is_file()
    assert edgeattn.fuse("plain.onnx", require_all=True).is_file()


def test_a_dry_run_tells_the_same_and_writes_nothing(folder):
    before = sorted(folder.iterdir())
    manifest = edgeattn.fuse("mixed.onnx", dry_run=True)
    assert sorted(folder.iterdir()) == before
    assert manifest.report == read_manifest(edgeattn.fuse("mixed.onnx")).report


def test_weights_beside_a_graph_are_read_and_go_beside_the_new_one(folder, monkeypatch):
    model = foreign_attention.windowed()
    onnx.save(model, "big.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert len(files.graph_files("big.onnx")) == 2
    monkeypatch.setattr(files, "MAX_INLINE_BYTES", 100)
    path = edgeattn.fuse("big.onnx")
    read_manifest(path)  # vouches for all files
    assert (folder / "big.fused.onnx.data").is_file()
    x = images()
    (found,) = run_graph(load_graph(path), {"x": x})
    wanted = foreign_attention.expected(x)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_nothing_is_left_half_written_when_writing_fails(folder, monkeypatch):
    before = sorted(folder.iterdir())

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(ArtifactError, match="No space left"):
        edgeattn.fuse("swin.onnx")
    assert sorted(folder.iterdir()) == before


def test_the_graph_itself_is_no_output(folder):
    with pytest.raises(ArtifactError, match="is the graph to fuse"):
        edgeattn.fuse("swin.onnx", "swin.onnx")


def test_progress_goes_through_three_steps(folder):
    told = []
    edgeattn.fuse("swin.onnx", progress=lambda *step: told.append(step))
    assert [(done, total) for done, total, _ in told] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_the_line_names_the_two_most_frequent_reasons():
    reasons = ["a", "b", "b", "c"]
    report = {
        "found": 5,
        "fused": 1,
        "left": 4,
        "nodes_before": 90,
        "nodes_after": 70,
        "max_error": 1.25e-7,
        "attentions": [{"fused": True, "reason": ""}]
        + [{"fused": False, "reason": reason} for reason in reasons],
    }
    assert fusion_line(report) == (
        "1 of 5 fused, 90 nodes became 70, relative error at most 1.2e-07; left as written: "
        "b (2); a (1); and 1 more, see edgeattn fuse --explain"
    )
