"""Loading: engines with their manifest, raw graphs in memory, nothing that cannot be trusted."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeattn.artifacts import (
    Manifest,
    atomic_artifact,
    manifest_path,
    read_manifest,
    write_json,
)
from edgeattn.engine import cpu_build
from edgeattn.engine.build import build
from edgeattn.engine.cpu_int8 import Int8Choice
from edgeattn.engine.cpu_session import open_session, session_options
from edgeattn.engine.load import load
from edgeattn.errors import ArtifactError, EdgeAttnError, EngineError, GraphError
from tests.graphs import WEIGHT, classifier, int8_chain, logits_of, save

X = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)


def describe(path: Path, manifest: Manifest) -> None:
    """Put another manifest, with right hashes, beside a file."""
    with atomic_artifact(path, manifest) as (copy,):
        copy.write_bytes(path.read_bytes())


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return build(save(classifier(), tmp_path / "net.onnx"), threads=1)


def test_a_raw_graph_is_lowered_in_memory(tmp_path: Path) -> None:
    graph = save(classifier(), tmp_path / "net.onnx")
    with load(graph, threads=1) as loaded:
        np.testing.assert_allclose(loaded.run({"x": X})["logits"], logits_of(X), rtol=1e-5)
        assert loaded.manifest.parents["graph"].file == "net.onnx"
        assert loaded.settings["threads"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "net.onnx.json"}


def test_given_threads_win(engine: Path) -> None:
    with load(engine, threads=2) as loaded:
        assert loaded.settings["threads"] == 2


def test_a_missing_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no file .*none.engine$"):
        load(tmp_path / "none.engine")


def test_an_engine_without_its_manifest_is_refused(engine: Path) -> None:
    manifest_path(engine).unlink()
    with pytest.raises(ArtifactError, match=r"net.engine.json is not beside it") as caught:
        load(engine)
    assert "build the engine again" in caught.value.hint


@pytest.mark.parametrize("keep", [0, 1, -1])
def test_a_truncated_engine_is_refused(engine: Path, keep: int) -> None:
    engine.write_bytes(engine.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="their hashes differ"):
        load(engine)


def test_a_renamed_engine_is_refused(engine: Path) -> None:
    renamed = engine.rename(engine.with_name("other.engine"))
    manifest_path(engine).rename(manifest_path(renamed))
    with pytest.raises(ArtifactError, match="is not the file that"):
        load(renamed)


def test_a_manifest_of_another_format_version_is_refused(engine: Path) -> None:
    values = json.loads(manifest_path(engine).read_text())
    write_json(manifest_path(engine), values | {"format_version": 99})
    with pytest.raises(ArtifactError, match="format version 99"):
        load(engine)


def test_an_engine_for_another_device_is_refused(engine: Path) -> None:
    describe(engine, Manifest("engine", target="abacus"))
    with pytest.raises(EngineError, match="is an engine for abacus"):
        load(engine)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "net.calib.json"
    table.write_text("{}")
    describe(table, Manifest("table"))
    with pytest.raises(ArtifactError, match="is a table; expected an engine"):
        load(table)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("name", ["net.engine", "net.onnx"])
def test_a_pickle_is_refused_and_never_executed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb()))
    describe(path, Manifest("engine", target="cpu"))
    with pytest.raises(EdgeAttnError, match=r"protobuf parsing failed|is not a whole ONNX file"):
        load(path)


def test_a_raw_graph_with_nan_weights_is_refused(tmp_path: Path) -> None:
    graph = save(classifier(weight=WEIGHT * np.float32("nan")), tmp_path / "net.onnx")
    with pytest.raises(GraphError, match="the weight weight holds 15 NaN"):
        load(graph)


def as_if_built_elsewhere(engine: Path) -> None:
    manifest = read_manifest(engine)
    report = manifest.report | {"cpu_features": ["avx2"], "int8_arithmetic": "unfused"}
    describe(engine, replace(manifest, report=report))


@pytest.fixture
def int8_engine(tmp_path: Path) -> Path:
    return build(save(int8_chain(3), tmp_path / "net.onnx"), threads=1)


def test_an_int8_engine_from_another_processor_is_tried_anew(int8_engine: Path) -> None:
    here = read_manifest(int8_engine)
    as_if_built_elsewhere(int8_engine)
    written = manifest_path(int8_engine).read_bytes()
    with load(int8_engine) as loaded:
        assert loaded.manifest.report == here.report
        assert loaded.settings["int8_arithmetic"] == here.report["int8_arithmetic"]
    assert manifest_path(int8_engine).read_bytes() == written


def test_an_int8_engine_of_another_release_of_the_runtime_is_tried_anew(int8_engine: Path) -> None:
    here = read_manifest(int8_engine)
    describe(
        int8_engine,
        replace(
            here,
            report=here.report | {"int8_arithmetic": "unfused"},
            tools=here.tools | {"onnxruntime": "1.0"},
        ),
    )
    with load(int8_engine) as loaded:
        assert loaded.manifest.report == here.report


def test_an_int8_engine_of_this_processor_is_taken_as_built(
    int8_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_build, "choose_arithmetic", lambda *args: pytest.fail("tried again"))
    load(int8_engine).close()


def test_an_unfused_choice_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = int8_chain(6, 128)
    x = np.random.default_rng(2).uniform(-3.5, 3.5, (64, 128)).astype(np.float32)
    expected = {}
    for arithmetic in ("fused", "unfused"):
        session = open_session(graph.SerializeToString(), session_options(1, arithmetic))
        (expected[arithmetic],) = session.run(None, {"x": x})
    assert (expected["fused"] != expected["unfused"]).any()
    for arithmetic in ("fused", "unfused"):
        choice = Int8Choice(arithmetic, "as the test says")
        monkeypatch.setattr(cpu_build, "choose_arithmetic", lambda *args, c=choice: c)
        engine = build(save(graph, tmp_path / "net.onnx"), threads=1)
        assert read_manifest(engine).report["int8_reason"] == "as the test says"
        with load(engine) as loaded:
            assert loaded.settings["int8_arithmetic"] == arithmetic
            (found,) = loaded.run({"x": x}).values()
        np.testing.assert_array_equal(found, expected[arithmetic])
