"""A build fuses the window attention that a graph writes out, and says what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn.artifacts import read_manifest
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.quantize import quantize
from edgeattn.engine import fusing
from edgeattn.engine.build import build
from edgeattn.engine.load import load
from edgeattn.engine.rebuild import rebuild, typed_graph
from edgeattn.engine.sources import find_sources
from edgeattn.errors import TableError
from edgeattn.graph.files import load_graph
from edgeattn.graph.fuse import fuse
from edgeattn.graph.op import attention_nodes
from tests import foreign_attention
from tests.graphs import classifier, save

SHAPE = (1, foreign_attention.ROWS, foreign_attention.COLS, foreign_attention.CHANNELS)
IMAGES = np.random.default_rng(2).standard_normal((8, *SHAPE[1:])).astype(np.float32)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "swin.onnx"
    onnx.save(foreign_attention.windowed(), path)
    return path


def table_of(graph: Path) -> Path:
    return calibrate(graph, {"x": IMAGES}, graph.with_suffix(".calib.json"), method="minmax")


def relative_error(engine: Path) -> float:
    with load(engine) as opened:
        found = opened.run({"x": IMAGES[:1]})["y"]
    wanted = foreign_attention.expected(IMAGES[:1])
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_a_graph_of_somebody_else_is_fused_and_computes_the_same(graph):
    engine = build(graph, engine="cpu", verify=True)
    manifest = read_manifest(engine)
    assert manifest.options["fuse"] is True
    assert manifest.report["attention_nodes_lowered"] == 2
    assert manifest.report["fusion"]["fused"] == 2
    assert [each["fused"] for each in manifest.report["fusion"]["attentions"]] == [True, True]
    assert manifest.parents["graph"].file == "swin.onnx"
    assert relative_error(engine) < 1e-5


def test_verify_compares_with_the_graph_as_it_was_given(graph, monkeypatch):
    def spoil(model, **asked):
        spoilt = onnx.ModelProto()
        spoilt.CopyFrom(model)
        weight = next(w for w in spoilt.graph.initializer if w.name == "out_weight")
        wrong = onnx.numpy_helper.from_array(2 * foreign_attention.OUT, "out_weight")
        weight.CopyFrom(wrong)
        return spoilt, {"fused": 2}

    monkeypatch.setattr("edgeattn.engine.typed.fuse_for_build", spoil)
    with pytest.raises(Exception, match="from what the graph computes"):
        build(graph, engine="cpu", verify=True)


def test_nothing_is_fused_where_that_is_not_wanted(graph):
    engine = build(graph, engine="cpu", fuse=False)
    manifest = read_manifest(engine)
    assert manifest.options["fuse"] is False
    assert "fusion" not in manifest.report
    assert manifest.report["attention_nodes_lowered"] == 0
    assert relative_error(engine) < 1e-5


def test_a_half_type_is_written_into_the_fused_graph(graph):
    engine = build(graph, engine="cpu", precision="fp16")
    manifest = read_manifest(engine)
    assert manifest.report["fusion"]["fused"] == 2
    assert manifest.report["attention_nodes_lowered"] == 2
    assert manifest.options["precision"] == "fp16"
    assert set(manifest.parents) == {"graph"}
    assert manifest.parents["graph"].file == "swin.onnx"
    assert 0 < relative_error(engine) < 1e-2


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_table_belongs_to_the_graph_as_it_is_written(graph, precision):
    engine = build(graph, engine="cpu", table=table_of(graph), precision=precision)
    report = read_manifest(engine).report
    assert report["attention_nodes_lowered"] == 0
    assert (report["fusion"]["found"], report["fusion"]["fused"]) == (2, 0)
    assert "calibrate the fused graph" in report["fusion"]["skipped"]
    assert relative_error(engine) < 0.2


def test_a_fused_graph_is_calibrated_and_quantized_like_an_exported_one(graph):
    fused = fuse(graph)
    table = table_of(fused)
    engine = build(fused, engine="cpu", table=table, precision="int8")
    report = read_manifest(engine).report
    assert report["attention_nodes_lowered"] == 2
    assert "fusion" not in report
    assert relative_error(engine) < 0.2
    with pytest.raises(TableError, match="belongs to another graph"):
        build(graph, engine="cpu", table=table, precision="int8")


def test_a_quantized_graph_is_built_as_it_is_and_this_is_said(graph):
    typed = quantize(graph, table=table_of(graph))
    report = read_manifest(build(typed, engine="cpu")).report
    assert report["attention_nodes_lowered"] == 0
    assert (report["fusion"]["found"], report["fusion"]["left"]) == (2, 2)
    assert "the graph is quantized" in report["fusion"]["skipped"]


def test_a_graph_with_attention_nodes_is_left_as_it_is(graph, monkeypatch):
    fused = fuse(graph)
    monkeypatch.setattr(fusing, "fuse_window_attention", None)
    report = read_manifest(build(fused, engine="cpu")).report
    assert report["attention_nodes_lowered"] == 2
    assert "fusion" not in report


def test_a_graph_without_a_softmax_is_not_even_looked_at(tmp_path, monkeypatch):
    graph = save(classifier(), tmp_path / "net.onnx")
    monkeypatch.setattr(fusing, "fuse_window_attention", None)
    monkeypatch.setattr(fusing, "AttentionProducts", None)
    assert "fusion" not in read_manifest(build(graph, engine="cpu")).report


def test_what_attention_was_left_is_told_with_its_reason(tmp_path):
    graph = tmp_path / "mixed.onnx"
    onnx.save(foreign_attention.windowed(last_is_global=True), graph)
    manifest = build(graph, engine="cpu", dry_run=True)
    fusion = manifest.report["fusion"]
    assert (fusion["found"], fusion["fused"], fusion["left"]) == (2, 1, 1)
    assert "every token" in fusion["attentions"][1]["reason"]


@pytest.mark.parametrize("options", [{}, {"fuse": False}, {"precision": "fp16"}], ids=str)
def test_an_engine_is_built_again_as_it_was(graph, options):
    engine = build(graph, engine="cpu", **options)
    first = read_manifest(engine)
    output = graph.parent / "again" / engine.name
    output.parent.mkdir()
    sources = find_sources(engine, first)
    again = rebuild(engine, sources, output)
    assert again.files == first.files
    assert again.options == first.options
    assert again.report.get("fusion") == first.report.get("fusion")


def test_the_typed_graph_of_an_engine_is_the_one_that_was_lowered(graph, tmp_path):
    plain = build(graph, engine="cpu")
    sources = find_sources(plain, read_manifest(plain))
    assert typed_graph(plain, sources, tmp_path) == graph
    half = build(graph, tmp_path / "half.engine", engine="cpu", precision="fp16")
    folder = tmp_path / "typed"
    folder.mkdir()
    typed = typed_graph(half, sources, folder)
    assert typed.parent == folder
    assert len(attention_nodes(load_graph(typed))) == 2


def test_progress_counts_the_same_steps_whatever_is_fused(graph):
    told = []
    build(graph, engine="cpu", precision="fp16", progress=lambda *step: told.append(step))
    assert [done for done, _, _ in told] == [0, 1, 2, 3, 4][: len(told)]
    assert {total for _, total, _ in told} == {4}
    assert told[0][2] == "read the graph, fuse attention"
