"""Layers, inspection and repeated builds of an engine on TensorRT itself.

For machines with TensorRT and a GPU; on a Jetson, the board's ceiling besides.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeattn.artifacts import read_manifest
from edgeattn.engine.build import build
from edgeattn.engine.load import load
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.engine.tensorrt.run import TensorRtEngine
from edgeattn.profiling.layers.engine_layers import engine_layers
from edgeattn.profiling.repeat import repeat_builds
from edgeattn.profiling.repeated_builds import RepeatedBuilds
from tests.tensorrt_graphs import CHANNELS, EXPORTED_SHAPE, block, save

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]

X = np.random.default_rng(0).standard_normal(EXPORTED_SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("block")
    graph = save(block(), folder / "block.onnx")
    return build(graph, engine="tensorrt", tensorrt=TensorRtRequest(attention="native"))


def test_a_loaded_engine_tells_its_layers_at_the_shapes_of_a_query(engine):
    with load(engine) as loaded:
        assert isinstance(loaded, TensorRtEngine)
        info = loaded.inspect({"x": X})
        before = loaded.run({"x": X})["y"]
        np.testing.assert_array_equal(loaded.run({"x": X})["y"], before)
    assert info.verbosity == "detailed"
    tensors = [tensor for layer in info.layers for tensor in (*layer.inputs, *layer.outputs)]
    inputs = [tensor for tensor in tensors if tensor.name == "x"]
    assert inputs, sorted({tensor.name for tensor in tensors})
    assert inputs[0].dims == (*EXPORTED_SHAPE[:3], CHANNELS)
    assert inputs[0].dtype == "float32"


def test_the_layers_of_a_query_have_times_nodes_and_costs(engine):
    with load(engine) as loaded:
        profile = engine_layers(loaded, {"x": X})
    assert profile is not None
    print(json.dumps(profile.to_dict(), indent=1))  # noqa: T201 - of failed tests
    assert "not counted" not in profile.note
    assert 0 < profile.whole_ms < 100
    # The profiler's events take time, but not that of ten queries.
    assert 0.1 * profile.whole_ms < profile.total_ms < 10 * profile.whole_ms
    assert any("head/MatMul" in row.nodes for row in profile.rows)
    assert any(row.flops for row in profile.rows)
    assert all(row.kind for row in profile.rows)


@pytest.mark.jetson
def test_a_board_gives_its_ceiling(engine):
    with load(engine) as loaded:
        profile = engine_layers(loaded, {"x": X})
    assert profile is not None
    assert "Jetson" in profile.ceiling


def test_settings_say_how_the_processor_waits(engine):
    with load(engine) as loaded:
        assert loaded.settings["wait"]
        assert loaded.settings["stream"] == "non-blocking"


def test_builds_are_repeated_as_the_first_was_made(engine):
    first = read_manifest(engine)
    found = repeat_builds(engine, 2, duration_s=0.5, warm_up_ms=100)
    print("\n".join(found.sentences))  # noqa: T201 - of failed tests
    assert [row.role for row in found.rows] == ["present", "again", "build", "build"]
    assert all(row.layers for row in found.rows)
    assert all(row.differing is not None for row in found.rows)
    assert found.rows[1].differing == 0
    assert RepeatedBuilds.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    now = read_manifest(engine)  # whole, whichever it is
    assert now.files["block.engine"] == found.kept.sha256
    assert now.parents == first.parents
    if found.replaced:
        assert now.report["timing_cache"]["state"] == "off"
    else:
        assert now == first
    with load(engine) as loaded:
        loaded.run({"x": X})
