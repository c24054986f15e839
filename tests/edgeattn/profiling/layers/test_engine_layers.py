"""The layers of any engine in one call; `tests/edgeattn/engine/tensorrt` has TensorRT's."""

from __future__ import annotations

from typing import Any

from edgeattn.artifacts import Manifest
from edgeattn.engine.build import build
from edgeattn.engine.load import load
from edgeattn.engine.random_inputs import random_inputs
from edgeattn.profiling.layers import engine_layers as module
from edgeattn.profiling.layers.engine_layers import engine_layers
from edgeattn.profiling.layers.roofline import Ceiling
from tests.graphs import from_text, save


def test_layers_of_a_cpu_engine_are_compared_with_what_its_threads_can_do(tmp_path, monkeypatch):
    asked, steps = [], []

    def ceiling(threads: int) -> Ceiling:
        asked.append(threads)
        return Ceiling("this one", 10.0, {"float32": 50.0})

    monkeypatch.setattr(module, "cpu_ceiling", ceiling)
    text = (
        "g (float[64,512] x, float[512,512] w) => (float[64,512] y) "
        "{ h = MatMul(x, w) y = Relu(h) }"
    )
    engine = build(save(from_text(text), tmp_path / "net.onnx"), engine="cpu", threads=1)
    with load(engine) as loaded:
        inputs = random_inputs(loaded.inputs, None, 0)
        report = lambda done, total, what: steps.append((done, total))  # noqa: E731
        profile = engine_layers(loaded, inputs, 7.0, report)
        measured = engine_layers(loaded, inputs)
        bare = engine_layers(loaded, inputs, 7.0, measure_ceiling=False)
    assert asked == [1, 1]
    assert bare is not None
    assert bare.ceiling == ""
    assert profile is not None
    assert (profile.whole_ms, profile.ceiling) == (7.0, "this one")
    assert {row.kind for row in profile.rows} == {"MatMul", "Relu"}
    assert steps == [(0, 2), (1, 2)]
    assert measured is not None
    assert 0 < measured.whole_ms != 7.0


def test_an_engine_of_another_kind_has_no_layers_to_look_into():
    class Other:
        manifest = Manifest("engine", target="npu")

    other: Any = Other()
    assert engine_layers(other, {}) is None
