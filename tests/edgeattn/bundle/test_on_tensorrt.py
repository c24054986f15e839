"""A bundle on a machine with TensorRT: built, verified, sealed, run, refused when it is stale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeattn
from edgeattn.artifacts import read_manifest
from edgeattn.engine import seal
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.errors import StaleEngineError
from tests.edgeattn.bundle.bundles import attention
from tests.graphs import classifier
from tests.graphs import save as save_graph

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]

PROFILE = ShapeProfile(min={"x": (1, 5)}, opt={"x": (3, 5)}, max={"x": (8, 5)})


def test_a_bundle_becomes_a_sealed_engine(tmp_path: Path) -> None:
    graph = save_graph(classifier(), tmp_path / "net.onnx")
    request = TensorRtRequest(TensorRtOptions(profiles=(PROFILE,), no_timing_cache=True))
    edgeattn.write_bundle(graph, tensorrt=request, engine="tensorrt")
    engine = edgeattn.build_from_bundle(tmp_path / "net.zip", verify=True)
    manifest = read_manifest(engine)
    assert manifest.target == "tensorrt"
    (check,) = manifest.report["seal"]["golden"]
    assert check["verdict"] == "ok", check
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    with edgeattn.load(engine) as gpu, edgeattn.load(tmp_path / "net.zip") as cpu:
        found, expected = gpu.run({"x": x})["logits"], cpu.run({"x": x})["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("plugin", ["source", "none"])
def test_attention_runs_in_the_plugin_that_the_bundle_brought(tmp_path: Path, plugin: str) -> None:
    graph = attention(tmp_path / "net.onnx")
    way = "plugin" if plugin == "source" else "native"
    edgeattn.write_bundle(
        graph,
        plugin=plugin,  # type: ignore[arg-type]
        tensorrt=TensorRtRequest(attention=way),  # type: ignore[arg-type]
        engine="tensorrt",
    )
    engine = edgeattn.build_from_bundle(tmp_path / "net.zip")
    report = read_manifest(engine).report
    used = [Path(entry["file"]) for entry in report["plugin"]]
    assert used == ([engine.with_name("net.plugin.so")] if plugin == "source" else [])
    assert all(library.is_file() for library in used)
    edgeattn.load(engine).close()


def test_a_stale_engine_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = save_graph(classifier(2), tmp_path / "net.onnx")
    edgeattn.write_bundle(graph, engine="tensorrt")
    real = seal.place_of
    with monkeypatch.context() as patched:
        elsewhere = lambda target: real(target) | {"machine": "vax"}  # noqa: E731
        patched.setattr("edgeattn.bundle.install.place_of", elsewhere)
        engine = edgeattn.build_from_bundle(tmp_path / "net.zip")
    with pytest.raises(StaleEngineError, match="was verified on a processor"):
        edgeattn.load(engine)
    edgeattn.load(engine, rebuild_if_needed=True).close()
    edgeattn.load(engine).close()
