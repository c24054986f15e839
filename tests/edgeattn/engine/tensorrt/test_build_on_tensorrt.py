"""A build on TensorRT itself: progress, Ctrl-C, timings, profiles, options, and what it refuses.

For machines with TensorRT and a GPU. What an engine computes is the subject of other files.
"""

from __future__ import annotations

import _thread
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn.engine.tensorrt.build import TensorRtBuild, build_plan
from edgeattn.engine.tensorrt.lowering import lower_for_tensorrt
from edgeattn.engine.tensorrt.options import ImplicitInt8, ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.versions import installed_version
from edgeattn.errors import BuildError
from tests.graphs import classifier, from_text

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]

RANGE = ShapeProfile(min={"x": (1, 5)}, opt={"x": (4, 5)}, max={"x": (16, 5)})
PLANTED = "g (float[2, 3] x) => (float[2, 3] y) { h = Neg(x) y = NobodyKnowsThis(h) }"


@pytest.fixture
def timings(tmp_path: Path) -> Path:
    return tmp_path / "net.timing"


def build(
    folder: Path, timings: Path, model: onnx.ModelProto | None = None, **options: Any
) -> TensorRtBuild:
    wanted = {"profiles": (RANGE,), "timing_cache": timings} | options
    lowered = lower_for_tensorrt(model or classifier("batch"), installed_version())
    return build_plan(lowered, TensorRtOptions(**wanted), folder / "net.engine")


def test_a_build_tells_how_far_it_is_and_what_it_made(tmp_path, timings):
    seen = []
    lowered = lower_for_tensorrt(classifier("batch"), installed_version())
    built = build_plan(
        lowered,
        TensorRtOptions(profiles=(RANGE,), timing_cache=timings),
        tmp_path / "net.engine",
        progress=lambda *position: seen.append(position),
    )
    assert built.plan.stat().st_size == built.plan_bytes > 0
    assert json.loads(built.inspector)["Layers"]
    assert built.log.errors() == []
    assert any(0 < done <= 100 and what for done, _, what in seen[2:-1]), seen
    assert {path.name for path in tmp_path.iterdir()} <= {
        *("net.engine", "net.timing", ".net.timing.lock")
    }


def test_a_second_build_uses_the_timings_of_the_first(tmp_path, timings):
    assert build(tmp_path, timings).timing_cache["state"] == "new"
    size = timings.stat().st_size
    assert size > 0
    again = build(tmp_path, timings)
    assert again.timing_cache["state"] == "used"
    assert timings.stat().st_size >= size


def test_two_profiles_become_two_profiles(tmp_path, timings):
    import tensorrt as trt

    second = ShapeProfile(opt={"x": (32, 5)})
    built = build(tmp_path, timings, profiles=(RANGE, second))
    runtime = trt.Runtime(trt.Logger())
    engine = runtime.deserialize_cuda_engine(built.plan.read_bytes())
    assert engine.num_optimization_profiles == 2
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("x", 1)] == [(32, 5)] * 3


@pytest.mark.parametrize("content", [b"\x00\xff" * 500, b"no timings"])
def test_timings_that_are_none_are_moved_aside(content, tmp_path, timings, caplog):
    timings.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        built = build(tmp_path, timings)
    assert built.timing_cache["state"] == "recovered"
    assert [path.read_bytes() for path in tmp_path.glob("*.unusable")] == [content]
    assert "is of no use here" in caplog.text


def test_truncated_timings_do_no_harm(tmp_path, timings):
    build(tmp_path, timings)
    timings.write_bytes(timings.read_bytes()[:-7])
    assert build(tmp_path, timings).plan.exists()


def test_ctrl_c_ends_a_build_and_leaves_no_file(tmp_path, timings):
    def interrupt(done: int, total: int | None, what: str) -> None:
        if what not in ("starting TensorRT", "parsing the graph"):
            _thread.interrupt_main()

    lowered = lower_for_tensorrt(classifier("batch"), installed_version())
    options = TensorRtOptions(profiles=(RANGE,), timing_cache=timings, optimization_level=5)
    with pytest.raises(KeyboardInterrupt):
        build_plan(lowered, options, tmp_path / "net.engine", progress=interrupt)
    assert not (tmp_path / "net.engine").exists()
    assert build(tmp_path, timings).plan.exists()  # TensorRT is in order after it


def test_a_node_that_nobody_knows_is_named(tmp_path, timings):
    model = from_text(PLANTED)
    model.graph.node[1].name = "head/unknown"
    with pytest.raises(BuildError, match=r"head/unknown \(NobodyKnowsThis\)") as error:
        build(tmp_path, timings, model, profiles=())
    assert error.value.hint
    assert not (tmp_path / "net.engine").exists()


def test_sizes_that_no_operator_takes_are_explained(tmp_path, timings):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (2, 3))
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (2, 5))
    weight = onnx.numpy_helper.from_array(np.zeros((4, 5), np.float32), "w")
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BuildError, match="TensorRT"):
        build(tmp_path, timings, model, profiles=())


OPTIONS: dict[str, dict[str, Any]] = {
    "fast": {"optimization_level": 0, "avg_timing": 1, "max_aux_streams": 0},
    "small": {"workspace_mib": 16, "pools": {"tactic_shared_memory": 0.046875}},
    "sources": {"tactic_sources": ("JIT_CONVOLUTIONS", "EDGE_MASK_CONVOLUTIONS")},
    "refit": {"refit": True},
    "stripped": {"strip_weights": True},
    "names": {"profiling_verbosity": "layer_names"},
    "exact": {"tf32": False, "sparsity": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_tensorrt_takes_each_option(name, tmp_path, timings):
    built = build(tmp_path, timings, **OPTIONS[name])
    assert built.plan_bytes > 0
    assert built.log.errors() == []


def test_tensorrt_takes_the_options_that_its_version_has(tmp_path, timings):
    version = installed_version()
    options: dict[str, Any] = {}
    if version.has_max_num_tactics:
        options["max_tactics"] = 4
    if version.has_tiling:
        options["tiling"] = "fast"
    assert build(tmp_path, timings, **options).log.errors() == []


def test_a_version_compatible_engine_loads_again(tmp_path, timings):
    built = build(tmp_path, timings, version_compatible=True)
    assert built.log.errors() == []


def test_tensorrt_10_finds_int8_scales_by_itself(tmp_path, timings):
    if not installed_version().has_calibrators:
        pytest.skip("needs TensorRT 10 or older")
    data = np.random.default_rng(3).standard_normal((16, 5)).astype(np.float32)
    cache = tmp_path / "scales.cache"
    built = build(tmp_path, timings, implicit_int8=ImplicitInt8(data, cache=cache))
    assert built.plan_bytes > 0
    assert cache.read_text().startswith("TRT-")
