"""Where the time of the CPU engine's queries goes: real sessions, small graphs."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
from onnx import numpy_helper

from edgeattn.artifacts import Manifest
from edgeattn.engine.base import QueryTimes
from edgeattn.engine.build import build
from edgeattn.engine.cpu import CpuEngine
from edgeattn.engine.load import load
from edgeattn.engine.random_inputs import random_inputs
from edgeattn.errors import DataError, EngineError
from edgeattn.profiling.layers.cpu import profile_cpu_layers
from edgeattn.profiling.layers.profiler_cost import fitted_cost_ms, profiler_cost_ms
from edgeattn.profiling.layers.roofline import Ceiling
from edgeattn.profiling.layers.rows import LayerProfile
from tests.graphs import from_text, int8_chain, save

QUICK = {"iterations": 4}


def engine_of(model, **options) -> CpuEngine:
    return CpuEngine(model.SerializeToString(), Manifest("engine", target="cpu"), **options)


@pytest.fixture(scope="module")
def tiny_profile(tmp_path_factory) -> LayerProfile:
    from edgeattn.graph.export import export
    from tests.tiny import INPUT, tiny

    folder = tmp_path_factory.mktemp("tiny")
    export(tiny(), INPUT, folder / "tiny.onnx")
    with load(build(folder / "tiny.onnx", threads=1)) as engine:
        return profile_cpu_layers(engine, random_inputs(engine.inputs, None, 0), **QUICK)


def test_layers_are_rolled_up_to_modules_and_head_groups(tiny_profile):
    labels = []

    def collect(modules):
        for module in modules:
            labels.append(module.label)
            collect(module.children)

    collect(tiny_profile.modules)
    windows = "block 1 / attention (windows 4×3, neighborhood 3)"
    assert {"stem", "block 0", "block 1 / norm", windows, "head"} <= {
        label.replace("blocks", "block") for label in labels
    }
    assert "block 0 / attention / group 0 (window 4×3, shift 2×1)" in labels
    assert "block 0 / attention / group 1 (window neighborhood 3)" in labels
    assert "other" not in labels


def test_every_layer_has_its_nodes_its_cost_and_its_time(tiny_profile):
    products = [row for row in tiny_profile.rows if "MatMul" in row.kind or row.kind == "Gemm"]
    assert products
    for row in products:
        assert row.nodes
        assert row.flops > 0
        assert row.bytes > 0
        assert row.precision == "float32"
        assert row.ceiling_share is None  # nobody measured this processor
    assert sum(row.ms for row in tiny_profile.rows) == pytest.approx(tiny_profile.total_ms)
    assert sum(module.ms for module in tiny_profile.modules) == pytest.approx(tiny_profile.total_ms)
    assert tiny_profile.whole_ms > 0
    assert tiny_profile.runs >= 4
    assert tiny_profile.roofs is None
    assert "in turns with queries that nobody looked into" in tiny_profile.note
    share = 100 * tiny_profile.total_ms / tiny_profile.whole_ms
    assert f"The layers sum to {share:.1f} % of the whole." in tiny_profile.note


def test_the_profile_survives_json(tiny_profile):
    values = json.loads(json.dumps(tiny_profile.to_dict(), allow_nan=False))
    assert LayerProfile.from_dict(values) == tiny_profile


def heavy() -> CpuEngine:
    """Make an engine whose time lies in nodes, not between them."""
    text = (
        "g (float[256,256] x) => (float[256,256] y) {"
        " a = MatMul (x, x) b = Tanh (a) c = MatMul (b, x) d = Tanh (c) y = MatMul (d, x) }"
    )
    return engine_of(from_text(text), threads=1)


def test_the_layers_sum_to_the_whole():
    x = {"x": np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)}
    with heavy() as engine:
        # Other programs slow the one down and not the other: the best of a few tries counts.
        ratios = []
        for _ in range(5):
            profile = profile_cpu_layers(engine, x, iterations=20)
            ratios.append(profile.total_ms / profile.whole_ms)
            if abs(ratios[-1] - 1) < 0.05:
                break
        assert abs(ratios[-1] - 1) < 0.05, ratios


@pytest.mark.slow
def test_the_modules_of_mswin_tiny_sum_to_the_whole(tmp_path):
    from edgeattn.graph.export import export

    export("mswin_tiny", output=tmp_path / "tiny.onnx")
    with load(build(tmp_path / "tiny.onnx", engine="cpu"), threads=1) as engine:
        inputs = random_inputs(engine.inputs, None, 0)
        ratios = []
        for _ in range(5):  # as above
            profile = profile_cpu_layers(engine, inputs, iterations=40)
            ratios.append(sum(module.ms for module in profile.modules) / profile.whole_ms)
            if abs(ratios[-1] - 1) < 0.05:
                break
    assert abs(ratios[-1] - 1) < 0.05, ratios
    assert "other" not in {module.label for module in profile.modules}
    stage = next(module for module in profile.modules if module.path == ("stages.2",))
    block = next(module for module in stage.children if module.path[-1] == "blocks.1")
    labels = {module.label for module in block.children}
    assert "stage 2 / block 1 / attention (windows 4, 8)" in labels


def test_times_are_scaled_to_a_latency_that_was_measured_before():
    x = {"x": np.zeros((256, 256), np.float32)}
    with heavy() as engine:
        profile = profile_cpu_layers(engine, x, whole_ms=1000.0, **QUICK)
    assert profile.whole_ms == 1000.0
    assert 300 < profile.total_ms < 3000
    assert "Times are scaled by" in profile.note
    assert profile.rows[0].share == pytest.approx(profile.rows[0].ms / 1000.0)


def test_a_ceiling_gives_shares():
    x = {"x": np.zeros((256, 256), np.float32)}
    with heavy() as engine:
        ceiling = Ceiling("this machine", 1000.0, {"float32": 1e6})
        profile = profile_cpu_layers(engine, x, ceiling=ceiling, **QUICK)
    product = profile.rows[0]
    assert profile.ceiling == "this machine"
    assert profile.roofs == {"gb_s": 1000.0, "gflop_s": {"float32": 1e6}}
    assert product.bound == "memory"
    assert 0 < product.ceiling_share < 1


def test_integer_kernels_are_int8(tmp_path):
    engine_file = build(save(int8_chain(2, batch=1), tmp_path / "net.onnx"), threads=1)
    with load(engine_file) as engine:
        profile = profile_cpu_layers(engine, random_inputs(engine.inputs, None, 0), **QUICK)
    kinds = {row.kind: row.precision for row in profile.rows}
    if engine.settings["int8_arithmetic"] == "unfused":
        assert kinds["MatMul"] == "float32"
    else:
        assert kinds["MatMulIntegerToFloat"] == "int8"


def test_a_batch_of_samples_that_run_apart_is_told(tmp_path):
    model = from_text("g (float[3,512] x) => (float[3,512] y) { y = MatMul (x, w) }")
    weight = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    with load(build(save(model, tmp_path / "net.onnx"), threads=2)) as engine:
        assert engine.samples_apart
        profile = profile_cpu_layers(engine, random_inputs(engine.inputs, None, 0), **QUICK)
    assert "one was profiled alone" in profile.note
    assert profile.total_ms == pytest.approx(profile.whole_ms)
    (row,) = [row for row in profile.rows if row.nodes]
    assert row.flops == 2 * 512 * 512  # of one sample


def test_the_engine_itself_is_left_alone():
    x = {"x": np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)}
    with heavy() as engine:
        before = engine.run(x)["y"]
        profile_cpu_layers(engine, x, **QUICK)
        np.testing.assert_array_equal(engine.run(x)["y"], before)


def test_a_profiled_query_computes_what_the_engine_does_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    x = {"x": np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)}
    with heavy() as engine:
        query = engine.bind_profiled(x)
        query()
        np.testing.assert_array_equal(query.outputs()["y"], engine.run(x)["y"])
        times = [query.timed(), query.timed()]
        session = query.finish(times[1:])
        query.close()
    assert [node.op_type for node in session.nodes] == ["MatMul", "Tanh"] * 2 + ["MatMul"]
    assert all(len(node.times_ms) == 1 for node in session.nodes)
    inside = sum(node.times_ms[0] for node in session.nodes)
    assert 0 < inside <= (times[1].end_compute_ns - times[1].start_compute_ns) / 1e6
    assert list(tmp_path.iterdir()) == []


def test_bodies_of_control_flow_are_not_counted_twice():
    text = """
        g (bool c, float[4096] x) => (float[4096] y) {
            y = If (c) <
                then_branch = yes () => (float[4096] t) { s = Tanh (x) t = Sin (s) },
                else_branch = no () => (float[4096] e) { e = Neg (x) }
            >
        }
    """
    inputs = {"c": np.array(True), "x": np.zeros(4096, np.float32)}
    with engine_of(from_text(text), threads=1) as engine:
        query = engine.bind_profiled(inputs)
        session = query.finish([query.timed() for _ in range(3)])
    assert [node.op_type for node in session.nodes] == ["If"]


def test_a_profile_that_lacks_runs_is_refused():
    with heavy() as engine:
        query = engine.bind_profiled({"x": np.zeros((256, 256), np.float32)})
        query.timed()
        query._starts_ns.append(1)  # as if ONNX Runtime had dropped one
        with pytest.raises(EngineError, match="holds 2 runs of 3"):
            query.finish([QueryTimes(*[1] * 8)])


def test_inputs_that_do_not_fit_are_refused():
    with heavy() as engine:
        with pytest.raises(DataError, match="missing"):
            engine.bind_profiled({})
        with pytest.raises(DataError, match="iterations"):
            profile_cpu_layers(engine, {"x": np.zeros((256, 256), np.float32)}, iterations=0)
    with pytest.raises(EngineError, match="closed"):
        engine.bind_profiled({"x": np.zeros((256, 256), np.float32)})


def test_the_cost_is_the_least_with_which_nodes_do_not_take_longer_than_the_query():
    reported = [1.0, 3.0, 5.0]
    assert fitted_cost_ms(reported, 9.0, 0.25, 2.0) == 0.25  # they do not
    assert fitted_cost_ms(reported, 6.0, 0.25, 2.0) == pytest.approx(1.0)
    assert fitted_cost_ms(reported, 4.0, 0.25, 2.5) == pytest.approx(2.0)  # one is all cost
    assert fitted_cost_ms(reported, 4.0, 0.25, 1.5) == 1.5  # no more than a query takes longer
    assert fitted_cost_ms(reported, 1.0, 0.25, 0.1) == 0.25
    assert fitted_cost_ms([], 1.0, 0.25, 2.0) == 0.25


def test_the_profiler_costs_some_microseconds_a_node():
    cost_us = 1e3 * statistics.median(profiler_cost_ms() for _ in range(3))
    assert 0.1 < cost_us < 100
