"""An engine that is built once more is built as it was, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import Manifest, manifest_path, read_manifest, write_json
from edgeattn.calibration.collect import calibrate
from edgeattn.engine.build import build
from edgeattn.engine.load import load
from edgeattn.engine.rebuild import rebuild, typed_graph
from edgeattn.engine.sources import find_sources
from edgeattn.engine.verify import verify_engine
from edgeattn.errors import BuildError
from tests.graphs import classifier, int8_chain, save


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(classifier(), tmp_path / "net.onnx")


def again(engine: Path) -> Manifest:
    """Build an engine once more, in a folder of its own."""
    output = engine.parent / "again" / engine.name
    output.parent.mkdir()
    sources = find_sources(engine, read_manifest(engine))
    manifest = rebuild(engine, sources, output)
    assert read_manifest(output) == manifest
    return manifest


def rewrite(engine: Path, **changes: Any) -> None:
    """Change what the manifest of an engine says."""
    manifest = read_manifest(engine)
    write_json(manifest_path(engine), replace(manifest, **changes).to_dict())


def table_of(graph: Path) -> Path:
    path = graph.with_name("t.calib.json")
    data = {"x": np.random.default_rng(0).standard_normal((16, 5)).astype(np.float32)}
    calibrate(graph, data, path, method="minmax")
    return path


@pytest.mark.parametrize(
    "options",
    [{}, {"threads": 1}, {"precision": "fp16"}, {"verify": True}],
    ids=["plain", "threads", "fp16 on the way", "verified"],
)
def test_a_cpu_engine_has_the_same_bytes_and_options_again(options, graph):
    engine = build(graph, engine="cpu", **options)
    manifest, first = again(engine), read_manifest(engine)
    assert manifest.files == first.files
    assert manifest.options == first.options
    assert manifest.parents == first.parents
    assert ("verify" in manifest.report) is ("verify" in options)


def test_a_graph_that_was_quantized_on_the_way_is_quantized_again(graph):
    engine = build(graph, engine="cpu", table=table_of(graph), precision="int8")
    manifest = again(engine)
    assert manifest.files == read_manifest(engine).files
    assert manifest.options["precision"] == "int8"
    assert set(manifest.parents) == {"graph", "table"}


def test_a_graph_that_was_quantized_before_is_built_as_it_is(tmp_path):
    graph = save(int8_chain(1), tmp_path / "net.onnx")
    engine = build(graph, engine="cpu")
    assert again(engine).files == read_manifest(engine).files


def test_what_comes_out_otherwise_is_refused_with_both_values(graph):
    engine = build(graph, engine="cpu", threads=1)
    inputs = [{**read_manifest(engine).options["inputs"][0], "dtype": "float64"}]
    rewrite(engine, options=read_manifest(engine).options | {"inputs": inputs})
    with pytest.raises(BuildError, match=r"cannot be built as it was: inputs was .*float64.* and"):
        again(engine)


@pytest.mark.parametrize("precision", [None, "int8", "fp16"])
def test_an_engine_computes_its_typed_graph(precision, graph, tmp_path):
    table = table_of(graph) if precision == "int8" else None
    engine = build(graph, engine="cpu", table=table, precision=precision)
    folder = tmp_path / "typed"
    folder.mkdir()
    typed = typed_graph(engine, find_sources(engine, read_manifest(engine)), folder)
    assert (typed == graph) is (precision is None)
    with load(engine) as loaded:
        checks = verify_engine(loaded, typed)
    assert {check.verdict for check in checks} == {"ok", "skipped"}
