"""Repeated builds of a TensorRT engine: which is kept, and what is said of its kernels.

TensorRT's runtime is played by `tests.tensorrt_runtime_double`: what a query of each plan lasts is
scripted, and so is what the inspector tells. The builds are played too; `rebuild_contract.py` has
what they ask of TensorRT.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from edgeattn.artifacts import Manifest, Parent, atomic_artifact, read_manifest
from edgeattn.engine.base import Engine
from edgeattn.engine.load import load
from edgeattn.engine.sources import Sources
from edgeattn.engine.tensorrt import memory
from edgeattn.engine.tensorrt.load import TensorRtRunOptions
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.verify_check import VerifyCheck
from edgeattn.errors import BuildError, EngineError
from edgeattn.graph.files import graph_sha256
from edgeattn.profiling import measure as loop_module
from edgeattn.profiling import repeat, side_by_side
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.repeat import repeat_builds
from edgeattn.profiling.side_by_side import engines_at_once
from tests import tensorrt_runtime_double
from tests.graphs import classifier, save
from tests.pycuda_standin import Ledger
from tests.tensorrt_runtime_double import DataType, Script, Tensor

QUICK: dict[str, Any] = {"iterations": 8, "duration_s": 0.0, "warm_up_ms": 0.0}
THERE = b"the plan that was there"


def inspector(**tactics: str) -> str:
    """Make what the inspector tells of layers with these tactics."""
    layers = [
        {"Name": name, "LayerType": "gemm", "TacticName": tactic, "Inputs": [], "Outputs": []}
        for name, tactic in tactics.items()
    ]
    return json.dumps({"Layers": layers, "Bindings": ["x", "y"]})


def manifest_of(graph: Path) -> Manifest:
    return Manifest(
        "engine",
        {"graph": Parent(graph.name, graph_sha256(graph))},
        target="tensorrt",
        options={"tensorrt": TensorRtOptions().to_dict()},
        report={
            "tensorrt": "10.3",
            "gpu": {"name": "Stand-in", "architecture": 87, "driver_cuda": "12.6"},
            "plugin": [],
            "attention_way": "plugin",
            "device_memory_bytes": 1000,
        },
    )


def write(path: Path, manifest: Manifest, plan: bytes) -> Path:
    with atomic_artifact(path, manifest) as (file,):
        file.write_bytes(plan)
    return path


class Builds:
    """Plays the builds: each yields the next of the plans, and a log beside it."""

    def __init__(self) -> None:
        self.plans: list[bytes] = []
        self.plugins: list[Path | None] = []
        self.verified: list[Any] = []
        self.verdict: Literal["ok", "failed"] = "ok"

    def rebuild(
        self,
        engine: Path,
        sources: Sources,
        output: Path,
        *,
        plugin: Path | None = None,
        progress: Any = None,
    ) -> Manifest:
        assert read_manifest(engine).target == "tensorrt"
        self.plugins.append(plugin)
        write(output, manifest_of(sources.graph), self.plans.pop(0))
        output.with_name(f"{output.name}.log").write_text(f"of {output.parent.name}")
        return read_manifest(output)

    def verify(self, engine: Engine, graph: Path, *, shapes: Any) -> list[VerifyCheck]:
        """Judge an engine; the double computes nothing that could be."""
        self.verified.append((graph.name, shapes))
        checks = [("finite", "ok", "fine"), ("reference", self.verdict, "y is far off")]
        return [VerifyCheck(name, verdict, detail) for name, verdict, detail in checks]  # type: ignore[arg-type]


@pytest.fixture
def script(gpu: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    def plant(known: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"y": np.zeros((2, 2), np.float32)}

    script = Script(
        gpu,
        (
            Tensor("x", DataType.FLOAT, (2, 3)),
            Tensor("y", DataType.FLOAT, (2, 2), is_input=False),
        ),
        plant,
        information=inspector(a="gemm_64", b="gemm_64"),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_runtime_double.install(script))
    monkeypatch.setattr(loop_module, "_TURN_NS", 1_000_000)
    yield script
    gc.collect()


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Builds:
    builds = Builds()
    monkeypatch.setattr(repeat, "rebuild", builds.rebuild)
    monkeypatch.setattr(repeat, "typed_graph", lambda engine, sources, folder: sources.graph)
    monkeypatch.setattr(repeat, "verify_engine", builds.verify)
    return builds


@pytest.fixture
def engine(script: Script, tmp_path: Path) -> Path:
    graph = save(classifier(batch=2), tmp_path / "net.onnx")
    return write(tmp_path / "net.engine", manifest_of(graph), THERE)


def longer(measurement: Measurement, nanoseconds: int) -> Measurement:
    """Add to what each query computes."""
    times = (t._replace(end_compute_ns=t.end_compute_ns + nanoseconds) for t in measurement.times)
    return replace(measurement, times=tuple(times))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_fastest_of_several_builds_takes_the_place_of_the_engine(script, builds, engine):
    script.compute_ms = 1.5  # 2 ms with the copies
    builds.plans = [b"slow", b"fast", b"as it was"]
    script.of_plan = {b"slow": {"compute_ms": 2.5}, b"fast": {"compute_ms": 1.1}}
    found = repeat_builds(engine, 3, **QUICK)
    assert [round(row.ratio, 6) for row in found.rows] == [1.0, 1.0, 1.5, 0.8, 1.0]
    assert [row.kept for row in found.rows] == [False, False, False, True, False]
    assert found.replaced
    assert found.spread_percent == pytest.approx(100 * (1.5 / 0.8 - 1))
    assert found.noise_percent == pytest.approx(0)
    assert found.confirmed is not None
    assert found.confirmed.ratio == pytest.approx(0.8)
    assert found.mode.startswith("device: ")
    assert engine.read_bytes() == b"fast"
    manifest = read_manifest(engine)  # its hash is right
    assert manifest.report["fastest_of"]["builds"] == 3
    assert manifest.report["fastest_of"]["ratio"] == pytest.approx(0.8)
    assert engine.with_name("net.engine.log").read_text() == "of 2"
    assert files(engine.parent) == {
        *("net.onnx", "net.onnx.json", "net.engine", "net.engine.json", "net.engine.log")
    }
    with load(engine) as loaded:
        loaded.run({"x": np.zeros((2, 3), np.float32)})
    assert "Build 2 took the place" in found.sentences[-1]
    assert builds.verified == [("net.onnx", ({"x": (2, 3)},))]


def test_a_faster_build_that_is_wrong_is_not_kept(script, builds, engine):
    builds.plans, builds.verdict = [b"fast"], "failed"
    script.of_plan = {b"fast": {"compute_ms": 1.1}}
    found = repeat_builds(engine, 1, **QUICK)
    assert found.confirmed is not None
    assert not found.replaced
    assert engine.read_bytes() == THERE
    assert "the fastest build is wrong (reference: y is far off)" in found.sentences[-1]


def test_a_faster_build_that_cannot_be_checked_is_not_kept_and_the_rest_is_told(
    script, builds, engine, monkeypatch
):
    def refuse(*_: Any, **__: Any) -> list[VerifyCheck]:
        raise EngineError("ONNX Runtime has no kernel for a node")

    monkeypatch.setattr(repeat, "verify_engine", refuse)
    builds.plans = [b"fast"]
    script.of_plan = {b"fast": {"compute_ms": 1.1}}
    found = repeat_builds(engine, 1, **QUICK)
    assert (found.replaced, len(found.rows)) == (False, 3)
    assert engine.read_bytes() == THERE
    assert "cannot be checked (ONNX Runtime has no kernel for a node)" in found.sentences[-1]


def test_what_tensorrt_said_before_a_build_failed_is_kept_beside_the_engine(
    script, engine, monkeypatch
):
    def fails(path: Path, sources: Sources, output: Path, **keywords: Any) -> Manifest:
        log = output.with_name("net.engine.log")
        log.write_text("out of memory")
        raise BuildError("TensorRT built no engine", f"all that it said is in {log}")

    engine.with_name("net.engine.log").write_text("of the first build")
    monkeypatch.setattr(repeat, "rebuild", fails)
    with pytest.raises(BuildError, match="built no engine") as error:
        repeat_builds(engine, 1, **QUICK)
    kept = engine.with_name("net.engine.repeat.log")
    assert error.value.hint == f"all that it said is in {kept}"
    assert kept.read_text() == "out of memory"
    assert engine.with_name("net.engine.log").read_text() == "of the first build"
    assert engine.read_bytes() == THERE


def test_slower_builds_leave_the_engine_where_it_is(script, builds, engine):
    before = engine.with_name("net.engine.json").read_bytes()
    builds.plans = [b"slow", b"slower"]
    script.of_plan = {plan: {"compute_ms": 1.6} for plan in builds.plans}
    found = repeat_builds(engine, 2, **QUICK)
    assert (found.replaced, found.confirmed, found.identical) == (False, None, False)
    assert engine.read_bytes() == THERE
    assert engine.with_name("net.engine.json").read_bytes() == before
    assert not engine.with_name("net.engine.log").exists()


def test_a_build_that_is_faster_by_no_more_than_the_engine_differs_from_itself_is_noise(
    script, builds, engine, monkeypatch
):
    """The same engine, loaded again, is 10 % slower; a build that is 5 % faster proves nothing."""
    calls = []
    measure = side_by_side.measure_interleaved

    def with_noise(queries: Any, **loop: Any) -> Any:
        measured = measure(queries, **loop)
        calls.append(sorted(queries))
        return measured | {"again": longer(measured["again"], 200_000)}

    monkeypatch.setattr(side_by_side, "measure_interleaved", with_noise)
    builds.plans = [b"fast"]
    script.of_plan = {b"fast": {"compute_ms": 1.4}}
    found = repeat_builds(engine, 1, **QUICK)
    assert found.rows[2].ratio == pytest.approx(0.95)
    assert found.noise_percent == pytest.approx(10)
    assert (found.replaced, len(calls)) == (False, 1)
    assert "no more than noise" in found.sentences[0]
    assert engine.read_bytes() == THERE


def test_a_build_that_was_fast_by_chance_is_measured_once_more_and_not_kept(
    script, builds, engine, monkeypatch
):
    calls = []
    measure = side_by_side.measure_interleaved

    def luckily(queries: Any, **loop: Any) -> Any:
        measured = measure(queries, **loop)
        calls.append(sorted(queries))
        return measured | {"1": longer(measured["1"], 100_000 if len(calls) > 1 else -600_000)}

    monkeypatch.setattr(side_by_side, "measure_interleaved", luckily)
    builds.plans = [b"lucky", b"as it was"]
    found = repeat_builds(engine, 2, **QUICK)
    assert calls == [["", "1", "2", "again"], ["", "1", "again"]]
    assert found.rows[2].ratio == pytest.approx(0.7)
    assert found.confirmed is not None
    assert found.confirmed.ratio == pytest.approx(1.05)
    assert not found.replaced
    assert engine.read_bytes() == THERE
    assert "not surely faster a second time" in found.sentences[-1]


def test_noise_that_shows_in_the_second_measurement_alone_counts_too(
    script, builds, engine, monkeypatch
):
    calls = []
    measure = side_by_side.measure_interleaved

    def with_late_noise(queries: Any, **loop: Any) -> Any:
        measured = measure(queries, **loop)
        calls.append(sorted(queries))
        return measured | {"again": longer(measured["again"], 200_000 * (len(calls) - 1))}

    monkeypatch.setattr(side_by_side, "measure_interleaved", with_late_noise)
    builds.plans = [b"fast"]
    script.of_plan = {b"fast": {"compute_ms": 1.4}}  # 5 % less, and the noise is 10 %
    found = repeat_builds(engine, 1, **QUICK)
    assert len(calls) == 2
    assert found.confirmed is not None
    assert found.confirmed.ratio == pytest.approx(0.95)
    assert not found.replaced
    assert "not surely faster a second time" in found.sentences[-1]


def test_kernels_that_differ_are_counted_and_the_first_are_named(script, builds, engine):
    builds.plans = [b"other tactic", b"same kernels", b"other fusion"]
    script.of_plan = {
        b"other tactic": {"information": inspector(a="gemm_64", b="gemm_128")},
        b"other fusion": {"information": inspector(**{f"c{i}": "gemm_64" for i in range(30)})},
    }
    found = repeat_builds(engine, 3, **QUICK)
    assert [row.layers for row in found.rows] == [2, 2, 2, 2, 30]
    assert [row.differing for row in found.rows] == [0, 0, 1, 0, 32]
    assert [len(row.differences) for row in found.rows] == [0, 0, 1, 0, 20]
    (change,) = found.rows[2].differences
    assert (change.layer, change.present, change.build) == ("b", "gemm_64", "gemm_128")
    assert "in 2 of 3 builds, in up to 32 layers; it has 2." in found.sentences[1]
    assert json.loads(json.dumps(found.to_dict()))["rows"][2]["differences"] == [
        {"layer": "b", "present": "gemm_64", "build": "gemm_128"}
    ]


def test_engines_that_tell_nothing_are_measured_all_the_same(script, builds, engine):
    script.fails = {"get_engine_information"}
    builds.plans = [b"another"]
    found = repeat_builds(engine, 1, **QUICK)
    assert [(row.layers, row.differing) for row in found.rows] == [(None, None)] * 3
    assert not any("kernels" in sentence for sentence in found.sentences)


def test_a_mode_decides_how_the_engines_are_loaded_and_what_counts(script, builds, engine):
    builds.plans = [b"another"]
    found = repeat_builds(engine, 1, mode="trtexec-11", **QUICK)
    assert found.mode.startswith("trtexec-11: ")
    assert found.rows[0].latency.p50_ms == pytest.approx(1.5)  # without the copies


def test_the_plugin_library_that_loads_the_engine_also_builds_it(script, builds, engine):
    builds.plans = [b"another"]
    plugin = engine.with_name("libplugin.so")
    with pytest.raises(EngineError, match="needs none"):
        repeat_builds(engine, 1, tensorrt=TensorRtRunOptions(plugin=plugin), **QUICK)
    repeat_builds(engine, 1, tensorrt=TensorRtRunOptions(contexts=2), **QUICK)
    assert builds.plugins == [None]


def test_half_of_the_gpus_free_memory_is_for_engines(script, engine, monkeypatch):
    manifest = read_manifest(engine)
    each = 1000 + 2 * len(THERE)
    for free, at_once in ((None, 2), (2 * 7 * each, 7), (2 * 7 * each - 1, 6), (each, 2)):
        state = memory.MemoryState(1 << 40, 1 << 40, 0, False, free, 1 << 40)
        monkeypatch.setattr(memory, "read_memory", lambda device, state=state: state)
        assert engines_at_once(engine, manifest) == at_once
    several = 1000 * 3 + 2 * len(THERE)
    state = memory.MemoryState(1 << 40, 1 << 40, 0, False, 2 * 5 * several, 1 << 40)
    monkeypatch.setattr(memory, "read_memory", lambda device: state)
    assert engines_at_once(engine, manifest, contexts=3) == 5
