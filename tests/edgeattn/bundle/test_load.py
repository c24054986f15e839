"""`load` takes bundles too, and builds stale engines again if it is asked to."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import edgeattn
from edgeattn.artifacts import read_manifest
from edgeattn.bundle import load as load_module
from edgeattn.bundle.install import build_from_bundle
from edgeattn.bundle.load import engine_target
from edgeattn.bundle.write import write_bundle
from edgeattn.engine import seal
from edgeattn.engine.tensorrt.load import TensorRtRunOptions
from edgeattn.errors import ArtifactError, EngineError, StaleEngineError
from tests.edgeattn.bundle.bundles import listing
from tests.graphs import classifier, logits_of
from tests.graphs import save as save_graph

X = np.random.default_rng(3).standard_normal((2, 5)).astype(np.float32)


@pytest.mark.parametrize("name", ["net.zip", "signed.zip", "net.onnx", "sealed.engine"])
def test_bundles_graphs_and_engines_run(made: Path, name: str) -> None:
    with edgeattn.load(made / name, threads=1) as engine:
        np.testing.assert_allclose(engine.run({"x": X})["logits"], logits_of(X), rtol=1e-5)
    assert engine_target(made / name) == "cpu"


def test_a_bundle_writes_nothing_where_it_is(folder: Path) -> None:
    before = listing(folder)
    edgeattn.load(folder / "net.zip").close()
    assert listing(folder) == before


def test_a_bundle_is_held_to_a_key(made: Path) -> None:
    edgeattn.load(made / "signed.zip", public_key=made / "public.pem").close()
    with pytest.raises(ArtifactError, match="is not signed"):
        edgeattn.load(made / "net.zip", public_key=made / "public.pem")


def test_a_key_for_what_is_not_signed_is_refused(made: Path) -> None:
    with pytest.raises(EngineError, match="is no bundle: only bundles are signed"):
        edgeattn.load(made / "net.onnx", public_key=made / "public.pem")


def test_options_of_tensorrt_do_not_fit_a_bundle(made: Path) -> None:
    with pytest.raises(EngineError, match="runs on the CPU as it is") as caught:
        edgeattn.load(made / "net.zip", tensorrt=TensorRtRunOptions())
    assert "edgeattn build" in caught.value.hint


# --- building again -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def stale(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine that was sealed with another ONNX Runtime, beside its bundle."""
    real = seal.place_of
    with monkeypatch.context() as patched:
        elsewhere = lambda target: real(target) | {"onnxruntime": "0.1"}  # noqa: E731
        patched.setattr("edgeattn.bundle.install.place_of", elsewhere)
        return build_from_bundle(folder / "net.zip", folder / "net.engine")


def test_a_stale_engine_is_built_again_if_asked(
    stale: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StaleEngineError):
        edgeattn.load(stale)
    assert not caplog.records
    with edgeattn.load(stale, rebuild_if_needed=True) as engine:
        np.testing.assert_allclose(engine.run({"x": X})["logits"], logits_of(X), rtol=1e-5)
    (record,) = caplog.records
    assert "was verified with ONNX Runtime 0.1" in record.message
    assert record.message.endswith(": it is built again")
    assert read_manifest(stale).report["seal"]["onnxruntime"] == onnxruntime.__version__
    edgeattn.load(stale).close()


def test_of_several_that_need_it_one_builds_it_again(
    stale: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = []

    def build(*arguments: Any, **options: Any) -> Path:
        builds.append(threading.get_ident())
        time.sleep(0.2)  # time for the others to come
        return build_from_bundle(*arguments, **options)

    monkeypatch.setattr(load_module, "build_from_bundle", build)
    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(edgeattn.load, stale, rebuild_if_needed=True) for _ in range(3)]
        for each in loads:
            each.result().close()
    assert len(builds) == 1


def test_an_engine_that_is_not_stale_stays(folder: Path) -> None:
    before = (folder / "sealed.engine").stat().st_mtime_ns
    edgeattn.load(folder / "sealed.engine", rebuild_if_needed=True).close()
    assert (folder / "sealed.engine").stat().st_mtime_ns == before


def test_a_damaged_engine_is_not_taken_for_a_stale_one(folder: Path) -> None:
    path = folder / "sealed.engine"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="hashes differ"):
        edgeattn.load(path, rebuild_if_needed=True)


def refused(said: str, engine: Path, **options: Path) -> str:
    before = {name: (engine.parent / name).read_bytes() for name in listing(engine.parent)}
    with pytest.raises(ArtifactError, match=said) as caught:
        edgeattn.load(engine, rebuild_if_needed=True, **options)  # type: ignore[arg-type]
    assert {n: (engine.parent / n).read_bytes() for n in listing(engine.parent)} == before
    return caught.value.hint


def test_without_its_bundle_it_stays(stale: Path) -> None:
    (stale.parent / "net.zip").unlink()
    assert "--bundle" in refused(r"its bundle net\.zip is not beside it", stale)


def test_another_bundle_of_the_name_is_not_taken(stale: Path) -> None:
    shutil.copy(stale.parent / "signed.zip", stale.parent / "net.zip")
    refused("is not the bundle that .* was built from: their hashes differ", stale)


def test_another_bundle_is_taken_if_it_is_named(stale: Path, tmp_path: Path) -> None:
    weight = np.ones((5, 3), np.float32)
    graph = save_graph(classifier(2, weight), tmp_path / "other.onnx")
    write_bundle(graph, engine="cpu")
    with edgeattn.load(stale, rebuild_if_needed=True, bundle=tmp_path / "other.zip") as engine:
        bias = logits_of(np.zeros((2, 5)))
        np.testing.assert_allclose(engine.run({"x": X})["logits"], X @ weight + bias, rtol=1e-4)


def test_the_bundle_has_to_be_signed_if_a_key_is_given(stale: Path) -> None:
    refused("is not signed", stale, public_key=stale.parent / "public.pem")


def test_an_engine_without_a_bundle_is_not_built_from_one(folder: Path) -> None:
    from edgeattn.bundle.load import rebuild

    edgeattn.build(folder / "net.onnx", folder / "plain.engine", engine="cpu")
    with pytest.raises(ArtifactError, match="was not built from a bundle"):
        rebuild(folder / "plain.engine")
