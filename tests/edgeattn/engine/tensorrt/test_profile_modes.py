"""The modes of `profile` on a TensorRT engine: each loads it as it measures it.

TensorRT's runtime is played by `tests.tensorrt_runtime_double`, the GPU by the stand-ins of pycuda
and cuda-python: they drive control flow and compute nothing.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import Manifest, atomic_artifact
from edgeattn.cli.main import run
from edgeattn.engine.load import load
from edgeattn.engine.tensorrt.load import TensorRtRunOptions
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.errors import EngineError
from edgeattn.profiling.profile import profile
from tests import tensorrt_runtime_double
from tests.pycuda_standin import Ledger
from tests.tensorrt_runtime_double import DataType, Script, Tensor

X = Tensor("x", DataType.FLOAT, (-1, 3), (((1, 3), (8, 3)),))
Y = Tensor("y", DataType.FLOAT, (-1, 2), is_input=False)
INPUTS = {"x": np.ones((2, 3), np.float32)}
QUICK: dict[str, Any] = {"iterations": 4, "duration_s": 0, "warm_up_ms": 0}


def plant(known: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"y": np.full((known["x"][0], 2), 7, np.float32)}


@pytest.fixture
def engine(gpu: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write an engine of TensorRT 10.3 and the stand-in's GPU, an integrated one."""
    gpu.integrated = True
    script = Script(gpu, (X, Y), plant)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_runtime_double.install(script))
    identity = {"name": "Stand-in", "architecture": 87, "driver_cuda": "12.6"}
    manifest = Manifest(
        "engine",
        target="tensorrt",
        options={"tensorrt": TensorRtOptions().to_dict()},
        report={"tensorrt": "10.3", "gpu": identity, "plugin": []},
    )
    with atomic_artifact(tmp_path / "net.engine", manifest) as (plan,):
        plan.write_bytes(b"a plan")
    yield tmp_path / "net.engine"
    gc.collect()


@pytest.mark.parametrize(
    ("mode", "graph", "zero_copy"),
    [(None, True, True), ("device", True, True), ("application", True, True),
     ("trtexec-10", False, False), ("trtexec-11", True, False)],
)  # fmt: skip
def test_a_mode_decides_how_the_engine_is_loaded(
    engine: Path, mode: str | None, graph: bool, zero_copy: bool
) -> None:
    report = profile(engine, INPUTS, mode=mode, **QUICK)
    assert report.mode.startswith(f"{mode or 'device'}: ")
    assert (report.settings["cuda_graph"], report.settings["zero_copy"]) == (graph, zero_copy)
    assert report.end_to_end is not None
    assert report.end_to_end.num_samples == 4


def test_trtexec_11_counts_the_computation_alone(engine: Path) -> None:
    report = profile(engine, INPUTS, mode="trtexec-11", **QUICK)
    assert report.latency == report.compute
    assert report.h2d.max_ms == report.d2h.max_ms == 0
    for entry in report.export_times:
        assert entry["startH2dMs"] == entry["endH2dMs"] == entry["startComputeMs"]


def test_a_loaded_engine_must_be_what_the_mode_measures(engine: Path) -> None:
    refused = pytest.raises(EngineError, match="zero_copy=True, and the mode trtexec-11")
    with load(engine) as loaded, refused:
        profile(loaded, INPUTS, mode="trtexec-11", **QUICK)
    with load(engine, tensorrt=TensorRtRunOptions(cuda_graph=False, zero_copy=False)) as loaded:
        assert profile(loaded, INPUTS, mode="trtexec-10", **QUICK).latency.num_samples == 4


def test_streams_have_contexts_of_their_own(engine: Path) -> None:
    report = profile(engine, INPUTS, streams=3, **QUICK)
    assert (report.settings["contexts"], report.settings["streams"]) == (3, 3)
    assert report.latency.num_samples == 12
    with load(engine) as loaded:
        shared = profile(loaded, INPUTS, streams=2, **QUICK)
    assert any("2 queries shared 1 execution context" in text for text in shared.warnings)


@pytest.mark.parametrize(
    ("mode", "flag"),
    [("trtexec-10", "--cuda-graph"), ("trtexec-10", "--useCudaGraph"),
     ("trtexec-11", "--no-cuda-graph"), ("trtexec-11", "--noCudaGraph"),
     ("trtexec-10", "--zero-copy"), ("trtexec-11", "--zero-copy")],
)  # fmt: skip
def test_a_flag_that_contradicts_the_mode_is_refused(
    engine: Path, capsys: pytest.CaptureFixture[str], mode: str, flag: str
) -> None:
    assert run(["profile", str(engine), "--mode", mode, flag]) == 2
    assert f"--mode {mode} measures with" in capsys.readouterr().err


def test_a_flag_that_agrees_is_taken(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["profile", str(engine), "--shapes", "x:2x3", "--iterations=4", "--duration=0"]
    assert run([*line, "--warmUp=0", "--mode=trtexec-10", "--no-cuda-graph"]) == 0
    printed = capsys.readouterr()
    assert "cuda_graph False" in printed.out
    assert "end to end" in printed.out
