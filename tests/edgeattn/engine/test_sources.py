"""The files that an engine was made from are found by name and believed by hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn.artifacts import Manifest, Parent, sha256_of_file
from edgeattn.engine.sources import find_sources
from edgeattn.errors import ArtifactError
from edgeattn.graph.files import graph_sha256
from tests.graphs import classifier, save


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(classifier(), tmp_path / "net.onnx")


def manifest_of(**files: Path) -> Manifest:
    hashes = {"graph": graph_sha256, "table": sha256_of_file}
    parents = {role: Parent(path.name, hashes[role](path)) for role, path in files.items()}
    return Manifest("engine", parents)


def test_a_graph_and_a_table_beside_the_engine_are_found(graph):
    table = graph.with_name("t.calib.json")
    table.write_text("{}")
    found = find_sources(graph.with_name("e.engine"), manifest_of(graph=graph, table=table))
    assert (found.graph, found.table) == (graph, table)
    assert find_sources(graph.with_name("e.engine"), manifest_of(graph=graph)).table is None


def test_the_folder_given_is_looked_into_where_the_one_of_the_engine_has_no_such_file(graph):
    manifest = manifest_of(graph=graph)
    engine = graph.parent / "engines" / "e.engine"
    engine.parent.mkdir()
    assert find_sources(engine, manifest, graph.parent).graph == graph
    with pytest.raises(ArtifactError, match=r"net\.onnx that .*e\.engine was built from") as error:
        find_sources(engine, manifest)
    assert manifest.parents["graph"].sha256[:12] in error.value.hint
    # Another graph of the same name beside the engine is passed over.
    save(classifier(weight=np.ones((5, 3), np.float32)), engine.with_name("net.onnx"))
    assert find_sources(engine, manifest, graph.parent).graph == graph


@pytest.mark.parametrize("role", ["graph", "table"])
def test_another_file_of_the_same_name_is_refused(role, graph):
    table = graph.with_name("t.calib.json")
    table.write_text("{}")
    manifest = manifest_of(graph=graph, table=table)
    save(classifier(3), graph) if role == "graph" else table.write_text("{ }")
    file = graph if role == "graph" else table
    with pytest.raises(ArtifactError, match=f"{file.name} is not the {role} .* hashes differ"):
        find_sources(graph.with_name("e.engine"), manifest)


def test_a_changed_file_of_weights_makes_another_graph(graph):
    model = classifier()
    onnx.save(
        model, str(graph), save_as_external_data=True, location="net.onnx.data", size_threshold=0
    )
    manifest = manifest_of(graph=graph)
    assert find_sources(graph.with_name("e.engine"), manifest).graph == graph
    weights = graph.with_name("net.onnx.data")
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(ArtifactError, match="hashes differ"):
        find_sources(graph.with_name("e.engine"), manifest)


def test_a_manifest_names_a_file_and_no_place(graph):
    manifest = Manifest("engine", {"graph": Parent("../../net.onnx", graph_sha256(graph))})
    assert find_sources(graph.with_name("e.engine"), manifest).graph == graph


def test_an_engine_whose_manifest_names_no_graph_has_no_sources(graph):
    with pytest.raises(ArtifactError, match="does not name the graph"):
        find_sources(graph.with_name("e.engine"), Manifest("engine"))
