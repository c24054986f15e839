"""The layers of a TensorRT engine in one call, from its file and what stands beside it.

TensorRT's runtime is played by `tests.tensorrt_runtime_double`, which tells a recorded printout of
the inspector and recorded times, and computes nothing.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import Manifest, Parent, atomic_artifact
from edgeattn.calibration.quantize import quantize
from edgeattn.engine.load import load
from edgeattn.engine.tensorrt import gpu
from edgeattn.engine.tensorrt.built_from import lower_again
from edgeattn.engine.tensorrt.lowering import lower_for_tensorrt
from edgeattn.engine.tensorrt.memory import MemoryState
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import DataError, EngineError
from edgeattn.graph.files import graph_sha256, load_graph
from edgeattn.profiling.layers.engine_layers import engine_layers
from tests import tensorrt_runtime_double
from tests.graphs import classifier, save
from tests.pycuda_standin import Ledger
from tests.tensorrt_printouts import ATTENTION, FIXTURES, HEAD, text_of, window_block
from tests.tensorrt_runtime_double import DataType, Script, Tensor

TIMES = json.loads((FIXTURES / "profile" / "iprofiler_window_plugin_10x.json").read_text())
X = np.zeros((1, 56, 56, 96), np.float32)


def plant(known: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"logits": np.zeros((3136, 3), np.float32)}


@pytest.fixture
def script(gpu: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    script = Script(
        gpu,
        (
            Tensor("x", DataType.FLOAT, X.shape),
            Tensor("logits", DataType.FLOAT, (3136, 3), is_input=False),
        ),
        plant,
        layers=[(name, ms) for name, ms in TIMES["Layers"]],
        information=text_of("window_plugin_int8_10x"),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_runtime_double.install(script))
    yield script
    gc.collect()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(window_block().model, tmp_path / "net.onnx")


def write(graph: Path, **report: Any) -> Path:
    """Write an engine as if it had been built from a graph on the stand-in's GPU."""
    version = TensorRtVersion.parse("10.3")
    precision = lower_for_tensorrt(window_block().model, version).precision
    gpu_identity = {"name": "Stand-in", "architecture": 87, "driver_cuda": "12.6"}
    manifest = Manifest(
        "engine",
        {"graph": Parent(graph.name, graph_sha256(graph))},
        target="tensorrt",
        options={"precision": precision, "tensorrt": TensorRtOptions().to_dict()},
        report={"tensorrt": "10.3", "gpu": gpu_identity, "plugin": [], "attention_way": "plugin"}
        | report,
    )
    with atomic_artifact(graph.with_name("net.engine"), manifest) as (plan,):
        plan.write_bytes(b"a plan")
    return graph.with_name("net.engine")


def layers_of(engine: Path, **keywords: Any) -> Any:
    with load(engine) as loaded:
        return engine_layers(loaded, {"x": X}, **keywords)


def flops_of(profile: Any, node: str) -> int | None:
    (row,) = [row for row in profile.rows if node in row.nodes]
    flops: int | None = row.flops
    return flops


def test_times_inspector_and_the_graph_beside_the_engine_are_joined(script, graph):
    steps = []
    profile = layers_of(
        write(graph), whole_ms=0.25, progress=lambda done, total, what: steps.append(what)
    )
    assert [row.name for row in profile.rows] == [name for name, _ in TIMES["Layers"]]
    assert profile.whole_ms == 0.25
    assert profile.runs == 50
    # 64 windows of 49 tokens, 3 heads of 32: two products, and a softmax.
    assert flops_of(profile, ATTENTION) == 64 * 3 * 49**2 * (4 * 32 + 5)
    assert flops_of(profile, HEAD) == 2 * 3136 * 96 * 3
    assert "not counted" not in profile.note
    assert profile.roofs is None  # nobody knows what the stand-in can do
    assert steps == ["measure the layers", "join the layers with the model"]


def test_the_latency_of_a_query_is_measured_where_it_is_not_given(script, graph):
    profile = layers_of(write(graph))
    assert profile.whole_ms == pytest.approx(script.compute_ms + 2 * script.ledger.copy_ms)


def test_without_its_graph_an_engine_has_times_and_modules_and_says_what_is_missing(script, graph):
    engine = write(graph)
    graph.unlink()
    profile = layers_of(engine, whole_ms=0.25)
    assert flops_of(profile, ATTENTION) is None
    assert any(row.module == ("blocks.0", "attn") for row in profile.rows)
    assert "Operations are not counted: the graph net.onnx that" in profile.note
    save(classifier(), graph)
    assert "their hashes differ" in layers_of(engine, whole_ms=0.25).note


@pytest.mark.parametrize("fails", ["create_engine_inspector", "get_engine_information"])
def test_an_engine_that_tells_nothing_keeps_its_times(fails, script, graph):
    script.fails = {fails}
    profile = layers_of(write(graph), whole_ms=0.25)
    assert [row.name for row in profile.rows] == [name for name, _ in TIMES["Layers"]]
    assert {row.kind for row in profile.rows} == {""}
    assert "Only names and times are known: TensorRT" in profile.note


def test_an_engine_that_was_built_to_tell_names_alone_says_so(script, graph):
    script.information = text_of("names_only_10x")
    assert "profiling verbosity layer_names" in layers_of(write(graph), whole_ms=0.25).note


@pytest.mark.parametrize(
    ("memory_mib", "module_name", "gb_s"),
    [(62795, "Jetson AGX Orin 64 GB", 204.8), (30622, "Jetson AGX Orin 32 GB", 204.8)],
)
def test_model_and_memory_of_the_board_decide_the_ceiling(
    memory_mib, module_name, gb_s, script, graph, tmp_path, monkeypatch
):
    device_tree = tmp_path / "model"
    device_tree.write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
    monkeypatch.setattr(gpu, "_DEVICE_TREE", device_tree)
    state = MemoryState(memory_mib << 20, 0, 0, is_shared=True, gpu_total_bytes=1 << 30)
    monkeypatch.setattr(gpu, "read_memory", lambda device: state)
    profile = layers_of(write(graph), whole_ms=0.25)
    assert module_name in profile.ceiling
    assert profile.roofs["gb_s"] == gb_s
    assert profile.rows[0].bound == "memory"
    # Nothing is known of this one.
    device_tree.write_bytes(b"A board of somebody's\0")
    profile = layers_of(write(graph), whole_ms=0.25)
    assert (profile.ceiling, profile.roofs) == ("", None)


def test_what_fails_is_said_as_the_engine_says_it(script, graph):
    with load(write(graph)) as loaded:
        with pytest.raises(DataError, match="the input x is missing"):
            engine_layers(loaded, {}, 0.25)
        script.fails = {"report_to_profiler"}
        with pytest.raises(EngineError, match="does not report the times of its layers"):
            engine_layers(loaded, {"x": X}, 0.25)


def test_a_graph_that_was_quantized_on_the_way_is_quantized_again(tmp_path):
    """The engine's graph is not the file, whose weights are twice as wide."""
    graph = save(classifier(batch=2), tmp_path / "net.onnx")
    quantize(graph, tmp_path / "typed.onnx", precision="fp16")
    version = TensorRtVersion.parse("10.3")
    for precision, source in (("fp16", tmp_path / "typed.onnx"), ("fp32", graph)):
        manifest = Manifest(
            "engine",
            {"graph": Parent(graph.name, graph_sha256(graph))},
            options={"precision": precision},
            report={"tensorrt": "10.3", "attention_way": "plugin"},
        )
        found = lower_again(tmp_path / "net.engine", manifest)
        assert found.precision == precision
        assert found.model.graph == lower_for_tensorrt(load_graph(source), version).model.graph
