"""Opening a TensorRT engine's file: what belongs here runs, all else is refused in one sentence.

TensorRT's runtime is played by `tests.tensorrt_runtime_double`, the GPU by the stand-in of pycuda:
outputs are bytes that the test planted.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import Manifest, atomic_artifact, sha256_of_bytes
from edgeattn.cli.main import run
from edgeattn.engine.load import engine_target, load
from edgeattn.engine.tensorrt import load as load_module
from edgeattn.engine.tensorrt import run as run_module
from edgeattn.engine.tensorrt.load import TensorRtRunOptions
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.errors import ArtifactError, EngineError
from edgeattn.profiling.compare import compare
from edgeattn.profiling.modes import MODES
from edgeattn.profiling.profile import DEVICE_MODE, HOST_MODE, profile
from tests import tensorrt_runtime_double
from tests.edgeattn.profiling.comparison.made import report, times
from tests.graphs import classifier, from_text
from tests.graphs import save as save_graph
from tests.pycuda_standin import Ledger
from tests.tensorrt_runtime_double import DataType, Script, Tensor

X = Tensor("x", DataType.FLOAT, (-1, 3), (((1, 3), (8, 3)),))
Y = Tensor("y", DataType.FLOAT, (-1, 2), is_input=False)
LIBRARY = b"a plugin library"


def plant(known: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"y": np.full((known["x"][0], 2), 7, np.float32)}


def write(path: Path, *, options: TensorRtOptions | None = None, **report: Any) -> Path:
    """Write an engine of TensorRT 10.3 and the stand-in's GPU; the report may say otherwise."""
    options = options or TensorRtOptions()
    gpu = {"name": "Stand-in", "architecture": 87, "driver_cuda": "12.6"}
    manifest = Manifest(
        "engine",
        target="tensorrt",
        options={"tensorrt": options.to_dict()},
        report={"tensorrt": "10.3", "gpu": gpu, "plugin": []} | report,
    )
    with atomic_artifact(path, manifest) as (plan,):
        plan.write_bytes(b"a plan")
    return path


@pytest.fixture
def script(gpu: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    script = Script(gpu, (X, Y), plant)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_runtime_double.install(script))
    monkeypatch.setattr(load_module, "find_plugin_library", lambda major: None)
    monkeypatch.setattr(run_module, "load_plugin", lambda registry, path: loaded.append(path))
    loaded.clear()
    yield script
    gc.collect()


loaded: list[Path] = []


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write(tmp_path / "net.engine")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libedgeattn_plugin.so"
    path.write_bytes(LIBRARY)
    return path


def kept(path: Path) -> list[dict[str, str]]:
    return [{"file": str(path), "sha256": sha256_of_bytes(LIBRARY)}]


def refused(engine: Path, said: str, **options: Any) -> str:
    with pytest.raises(EngineError, match=said) as caught:
        load(engine, tensorrt=TensorRtRunOptions(**options) if options else None)
    return caught.value.hint


def test_an_engine_that_belongs_here_runs(script, engine):
    with load(engine) as loaded_engine:
        found = loaded_engine.run({"x": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(found["y"], np.full((2, 2), 7))


def test_a_size_without_a_choice_is_fixed(script, engine, tmp_path, monkeypatch):
    script.tensors = (Tensor("x", DataType.FLOAT, (-1, -1), (((1, 3), (1, 5)),)), Y)
    with load(engine) as opened:
        (spec,) = opened.inputs
    assert (spec.shape[0], isinstance(spec.shape[1], str)) == (1, True)
    monkeypatch.chdir(tmp_path)
    np.savez("in.npz", x=np.zeros((3, 4), np.float32))
    assert (
        run(["run", "net.engine", "--inputs", "in.npz", "--outputs", "out.npz"]) == 0
    )  # one by one
    with np.load("out.npz") as outputs:
        assert outputs["y"].shape == (3, 2)


def test_it_is_run_as_asked(script, engine):
    with load(engine, tensorrt=TensorRtRunOptions(cuda_graph=False, contexts=2)) as opened:
        assert opened.settings["cuda_graph"] is False
        assert opened.settings["contexts"] == 2


@pytest.mark.parametrize("version", ["10.3", "10.3.0.30"])
def test_builds_of_one_version_run_each_others_engines(script, tmp_path, version):
    load(write(tmp_path / "net.engine", tensorrt=version)).close()


@pytest.mark.parametrize("version", ["10.3.1", "10.7", "11.1"])
def test_an_engine_of_another_tensorrt_is_refused(script, tmp_path, version):
    engine = write(tmp_path / "net.engine", tensorrt=version)
    said = f"was built with TensorRT {version}, and 10.3 is installed here; expected {version}"
    assert "--version-compatible" in refused(engine, said)
    assert script.plan == b""  # TensorRT was not asked


@pytest.mark.parametrize(("version", "runs"), [("10.1", True), ("10.7", False), ("9.3", False)])
def test_a_version_compatible_engine_runs_on_newer_minors_alone(script, tmp_path, version, runs):
    options = TensorRtOptions(version_compatible=True)
    engine = write(tmp_path / "net.engine", options=options, tensorrt=version)
    if runs:
        load(engine).close()
        assert script.runtime["engine_host_code_allowed"] is True
    else:
        refused(engine, f"expected {version} or a newer {version.partition('.')[0]}.x")


def gpu_of(name: str, architecture: int) -> dict[str, Any]:
    return {"name": name, "architecture": architecture, "driver_cuda": "12.6"}


def test_an_engine_of_another_gpu_is_refused(script, tmp_path):
    engine = write(tmp_path / "net.engine", gpu=gpu_of("NVIDIA H200", 90))
    said = r"was built on NVIDIA H200 \(sm_90\), and this GPU is Stand-in \(sm_87\)"
    assert "build it again here" in refused(engine, said)


def test_an_engine_of_a_like_gpu_runs_with_a_warning(script, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        load(write(tmp_path / "net.engine", gpu=gpu_of("Orin NX", 87))).close()
    assert "was built on Orin NX and not on this Stand-in" in caplog.text


@pytest.mark.parametrize(
    ("level", "architecture", "runs"),
    [
        ("ampere+", 90, True),
        ("ampere+", 87, True),
        ("same_compute_capability", 87, True),
        ("same_compute_capability", 86, False),
        ("none", 86, False),
    ],
)
def test_compatible_engines_run_where_they_may(script, tmp_path, level, architecture, runs):
    engine = write(
        tmp_path / "net.engine",
        options=TensorRtOptions(hardware_compatibility=level),
        gpu=gpu_of("another", architecture),
    )
    if runs:
        load(engine).close()
    else:
        refused(engine, "was built on another")


def test_the_library_of_the_build_is_found_where_it_was(script, tmp_path, library):
    load(write(tmp_path / "net.engine", plugin=kept(library))).close()
    assert loaded == [library]


def test_a_library_that_moved_is_found_in_the_cache_by_its_hash(
    script, tmp_path, library, monkeypatch
):
    monkeypatch.setattr(load_module, "find_plugin_library", lambda major: library)
    load(write(tmp_path / "net.engine", plugin=kept(Path("/gone.so")))).close()
    assert loaded == [library]


def test_a_library_that_is_named_must_be_that_of_the_build(script, tmp_path, library):
    engine = write(tmp_path / "net.engine", plugin=kept(Path("/gone.so")))
    load(engine, tensorrt=TensorRtRunOptions(plugin=library)).close()
    assert loaded == [library]
    other = tmp_path / "other.so"
    other.write_bytes(b"another library")
    hint = refused(engine, f"the plugin library {other} is not the one", plugin=other)
    assert "--plugin" in hint


def test_a_library_that_changed_is_refused(script, tmp_path, library):
    engine = write(tmp_path / "net.engine", plugin=kept(library))
    library.write_bytes(b"compiled anew")
    assert "build the engine again" in refused(engine, "their hashes differ")


def test_a_library_that_is_gone_is_named_with_what_to_do(script, tmp_path):
    engine = write(tmp_path / "net.engine", plugin=kept(Path("/gone.so")))
    assert "edgeattn plugin build" in refused(engine, r"and /gone.so is not there")


def test_a_library_inside_the_engine_is_not_looked_for(script, tmp_path):
    options = TensorRtOptions(embed_plugin=True, version_compatible=True)
    load(write(tmp_path / "net.engine", options=options, plugin=kept(Path("/gone.so")))).close()
    assert loaded == []


def test_a_library_for_an_engine_that_needs_none_is_refused(script, engine, library):
    refused(engine, "needs none", plugin=library)


@pytest.mark.parametrize("lacking", ["tensorrt", "gpu", "plugin"])
def test_a_manifest_that_does_not_say_how_it_was_built_is_refused(script, tmp_path, lacking):
    engine = write(tmp_path / "net.engine", **{lacking: None})
    with pytest.raises(ArtifactError, match="does not say how the engine was built"):
        load(engine)


def test_a_plan_that_was_replaced_is_refused(script, engine):
    engine.write_bytes(b"another plan")
    with pytest.raises(ArtifactError, match="their hashes differ"):
        load(engine)


def test_options_of_the_other_kind_of_engine_are_refused(script, engine, tmp_path):
    with pytest.raises(EngineError, match=r"threads were given, and .* the engine tensorrt"):
        load(engine, threads=2)
    graph = save_graph(classifier(), tmp_path / "net.onnx")
    with pytest.raises(EngineError, match=r"options of TensorRT were given, and .* engine cpu"):
        load(graph, tensorrt=TensorRtRunOptions())
    assert (engine_target(engine), engine_target(graph)) == ("tensorrt", "cpu")


def test_a_profile_says_what_its_latency_holds(script, engine, tmp_path):
    query = {"x": np.zeros((1, 3), np.float32)}
    report = profile(engine, query, duration_s=0, warm_up_ms=0)
    assert report.mode == DEVICE_MODE
    assert report.settings["engine"] == "tensorrt"
    graph = save_graph(classifier(batch=1), tmp_path / "net.onnx")
    assert profile(graph, duration_s=0, warm_up_ms=0).mode == HOST_MODE


def test_random_inputs_have_the_shapes_that_the_engine_was_tuned_for(script, tmp_path, capsys):
    profiles = [{"min": {"x": [1, 3]}, "opt": {"x": [4, 3]}, "max": {"x": [8, 3]}}]
    engine = write(tmp_path / "net.engine", profiles=profiles)
    assert profile(engine, duration_s=0, warm_up_ms=0).inputs == {"x": (4, 3)}
    given = profile(engine, duration_s=0, warm_up_ms=0, shapes={"x": (2, 3)})
    assert given.inputs == {"x": (2, 3)}
    text = "g (float[n,3] z) => (float[n,2] y) <float[3,2] w = {1,0,0,1,1,1}> { y = MatMul(z, w) }"
    graph = save_graph(from_text(text), tmp_path / "net.onnx")
    assert compare(graph, engine, latency=False).num_samples == 4


def test_two_kinds_of_engines_are_compared_each_with_its_options(script, engine, tmp_path):
    text = "g (float[n,3] x) => (float[n,2] y) <float[3,2] w = {1,0,0,1,1,1}> { y = MatMul(x, w) }"
    graph = save_graph(from_text(text), tmp_path / "net.onnx")
    inputs = {"x": np.ones((2, 3), np.float32)}
    options = TensorRtRunOptions(cuda_graph=False)
    found = compare(graph, engine, inputs, threads=1, tensorrt=options, duration_s=0, warm_up_ms=0)
    assert found.outputs["y"].max_abs_error == 5  # 7 was planted, and it is 2
    assert found.mode == f"{HOST_MODE}; against {DEVICE_MODE}"
    with pytest.raises(EngineError, match="options of TensorRT were given"):
        compare(graph, graph, inputs, tensorrt=options)


@pytest.mark.parametrize(("mode", "cuda_graph"), [("trtexec-10", False), ("trtexec-11", True)])
def test_an_engine_beside_a_report_is_loaded_as_the_reports_mode_measures(
    script, engine, mode, cuda_graph
):
    measured = report(times(20), mode=MODES[mode].sentence, inputs={"x": (2, 3)})
    asked = TensorRtRunOptions(cuda_graph=not cuda_graph)
    found = compare(measured, engine, tensorrt=asked, duration_s=0, warm_up_ms=0, board=False)
    assert found.b.mode == found.a.mode
    assert found.b.inputs == {"x": (2, 3)}
    on = found.b.settings["cuda_graph"] or "cuda_graph_fallback" in found.b.settings
    assert on is cuda_graph


def test_the_command_line_runs_it_as_asked(script, engine, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("in.npz", x=np.zeros((5, 3), np.float32))
    line = "run net.engine --inputs in.npz --outputs out.npz --noCudaGraph --useProfile 0"
    assert run(line.split()) == 0
    with np.load("out.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], np.full((5, 2), 7))
    line = "profile --loadEngine=net.engine --shapes x:2x3 --duration 0 --warmUp 0 --no-cuda-graph"
    assert run(line.split()) == 0
    assert "cuda_graph False" in capsys.readouterr().out
    assert run(["run", "net.engine", "--inputs", "in.npz", "--outputs", "o.npz", "--device", "9"])
    assert "GPU 9" in capsys.readouterr().err
