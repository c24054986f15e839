"""A whole build, against a scripted double of the builder among NVIDIA's real classes.

Enums, logger, progress monitor and calibrators are the real ones of the version; the double
(`tests.tensorrt_builder_double`) plays what needs TensorRT itself, and computes nothing.
"""

from __future__ import annotations

import _thread
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import tensorrt as trt

from edgeattn.engine.tensorrt import build as build_module
from edgeattn.engine.tensorrt.build import build_plan
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.engine.tensorrt.memory import MemoryState
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.progress import Phases
from edgeattn.engine.tensorrt.versions import TensorRtVersion, installed_version
from edgeattn.errors import ArtifactError, BuildError, EngineError
from tests.graphs import classifier, from_text
from tests.tensorrt_builder_double import ranges_of, timings_text
from tests.tensorrt_builds import DYNAMIC, PROFILE, build, left_in, lowered

VERSION = installed_version()


# A build that goes well


def test_a_build_writes_the_plan_and_tells_what_it_was(script, tmp_path):
    script.says = {"build": [("info", "half way"), ("warning", "slow")]}
    seen = []
    log = CapturedLog()
    built = build_plan(
        lowered(),
        DYNAMIC,
        tmp_path / "net.engine",
        progress=lambda *position: seen.append(position),
        log=log,
    )
    assert (tmp_path / "net.engine").read_bytes() == script.plan
    assert left_in(tmp_path) == {"net.engine"}
    assert built.plan == tmp_path / "net.engine"
    assert built.plan_bytes == len(script.plan)
    assert built.device_memory_bytes == 4096
    assert built.inspector == '{"Layers": [], "Bindings": []}'
    assert built.used_plugin_libraries == ()
    assert built.log is log
    assert [line.text for line in log.warnings()] == ["slow"]
    assert built.seconds > 0
    assert (33, 100, "Building Engine") in seen
    assert [what for *_, what in seen][:2] == ["starting TensorRT", "parsing the graph"]
    assert seen[-1] == (100, 100, "reading the engine back")
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert script.calls == [
        "plugins",
        "start",
        f"network {strongly_typed}",
        "parse",
        "config",
        "profile",
        "cache",
        "build",
        "runtime",
        "load",
        "inspect",
    ]


def test_tensorrt_works_in_the_primary_context(script, tmp_path):
    build(tmp_path)
    assert script.contexts.keys() >= {"start", "parse", "build", "load", "inspect"}
    assert set(map(tuple, script.contexts.values())) == {(0,)}


def test_profiles_arrive_with_every_range(script, tmp_path):
    second = ShapeProfile(opt={"x": (2, 5)})
    build(tmp_path, TensorRtOptions(profiles=(PROFILE, second)))
    assert list(ranges_of(script.config)) == [
        {"x": ((1, 5), (4, 5), (8, 5))},
        {"x": ((2, 5), (2, 5), (2, 5))},
    ]
    assert script.inspected_at == {"x": (4, 5)}
    assert script.inspected_in is not None


def test_a_graph_without_free_dimensions_gets_no_profile(script, tmp_path):
    build(tmp_path, TensorRtOptions(), classifier(4))
    assert "profile" not in script.calls
    assert script.inspected_at == {}
    assert script.inspected_in is None


def test_values_of_a_shape_tensor_are_given_as_values(script, tmp_path):
    script.shape_tensors = {"sizes"}
    model = from_text("g (float[n, 4] x, int64[2] sizes) => (float[a, b] y) { y = Resh(x, sizes) }")
    profile = ShapeProfile(
        min={"x": (1, 4), "sizes": (1, 4)},
        opt={"x": (2, 4), "sizes": (4, 4)},
        max={"x": (3, 4), "sizes": (6, 4)},
    )
    build(tmp_path, TensorRtOptions(profiles=(profile,)), model)
    (ranges,) = ranges_of(script.config)
    assert ranges["sizes"] == ([1, 4], [4, 4], [6, 4])
    assert script.inspected_at == {"x": (2, 4), "sizes": ()}


def test_what_was_there_before_is_replaced_by_a_good_build(script, tmp_path):
    (tmp_path / "net.engine").write_bytes(b"old")
    build(tmp_path)
    assert (tmp_path / "net.engine").read_bytes() == script.plan


def test_verbose_messages_are_kept_where_somebody_looks_closely(script, tmp_path, caplog):
    script.says = {"build": [("verbose", "tactic 5 took 3 us")]}
    assert "tactic" not in str(build(tmp_path).log.lines)
    with caplog.at_level(logging.DEBUG, "edgeattn"):
        assert "tactic 5 took 3 us" in str(build(tmp_path).log.lines)


# What TensorRT refuses


def failure(folder: Path, options: TensorRtOptions = DYNAMIC) -> BuildError:
    (folder / "net.engine").write_bytes(b"old")
    with pytest.raises(BuildError) as error:
        build(folder, options)
    assert (folder / "net.engine").read_bytes() == b"old"
    assert left_in(folder) == {"net.engine"}
    return error.value


def test_every_node_that_the_parser_refuses_is_named(script, tmp_path):
    script.parser_errors = [
        {"name": "head/conv", "operator": "Conv", "desc": "bad\n  strides", "node": 3},
        {"operator": "Foo", "desc": "no importer", "code": "INVALID_NODE", "node": 7},
        {"name": "inner", "operator": "Bar", "stack": ["Outer", "Inner"]},
        {"node": -1, "desc": "no graph", "code": "MODEL_DESERIALIZE_FAILED"},
    ]
    message = failure(tmp_path).message
    assert "refused 4 nodes: head/conv (Conv): UNSUPPORTED_NODE, bad strides; " in message
    assert "number 7 (Foo): INVALID_NODE, no importer; " in message
    assert "inner (Bar) in Inner in Outer: " in message
    assert "the graph itself: MODEL_DESERIALIZE_FAILED, no graph" in message


def test_of_very_many_refused_nodes_some_are_named_and_all_are_counted(script, tmp_path):
    script.parser_errors = [{"name": f"node{number}"} for number in range(50)]
    message = failure(tmp_path).message
    assert "refused 50 nodes" in message
    assert "node19" in message
    assert "node20" not in message
    assert "and 30 more" in message


def test_a_parser_that_gives_no_errors_is_quoted_from_the_log(script, tmp_path, monkeypatch):
    script.says = {"parse": [("error", "ModelImporter.cpp: it is not protobuf")]}
    monkeypatch.setattr(trt.OnnxParser, "parse_from_file", refuse_silently)
    message = failure(tmp_path).message
    assert "TensorRT's parser refused the graph" in message
    assert "it is not protobuf" in message


def refuse_silently(parser: Any, model: str) -> bool:
    parser._script.play("parse", parser._logger)
    return False


OUT_OF_MEMORY = [
    ("warning", "Skipping tactic 13 due to insufficient memory on requested size of 4229 detected"),
    (
        "error",
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
    ),
    (
        "error",
        "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any "
        "implementation for node {ForeignNode[a...b]}.)",
    ),
]


def test_memory_is_named_behind_a_node_without_an_implementation(script, tmp_path):
    script.plan = None
    script.says = {"build": OUT_OF_MEMORY}
    error = failure(tmp_path)
    assert error.message.startswith("TensorRT built no engine: ")
    assert "memory" in error.message
    assert error.hint


def test_a_build_that_gives_nothing_and_says_nothing_is_an_error(script, tmp_path):
    script.plan = None
    assert "TensorRT built no engine, and gives no reason" in failure(tmp_path).message


def test_a_network_without_layers_is_no_network(script, tmp_path):
    model = from_text("g (float[2] x) => (float[2] x) { }")
    with pytest.raises(BuildError, match="read a network without layers"):
        build(tmp_path, TensorRtOptions(), model)
    assert "build" not in script.calls


def test_an_empty_plan_is_no_engine(script, tmp_path):
    script.plan = b""
    assert "TensorRT built no engine" in failure(tmp_path).message


def test_memory_of_the_system_that_runs_out_is_said(script, tmp_path):
    script.nothing = {"memory"}
    assert "the build ran out of the system's memory" in failure(tmp_path).message


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("builder", "TensorRT does not start"),
        ("network", "TensorRT made no network"),
        ("config", "TensorRT made no configuration"),
        ("profile", "TensorRT made no optimization profile"),
        ("engine", "TensorRT built an engine and cannot load it again"),
    ],
)
def test_an_object_that_is_not_there_is_named(what, said, script, tmp_path):
    script.nothing = {what}
    assert said in failure(tmp_path).message


@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("profile", {}, "TensorRT refused the optimization profile 0: x 1x5 to 4x5 to 8x5"),
        ("invalid profile", {}, "TensorRT refused the optimization profile 0"),
        ("shapes", {}, "refused the range of the input x in the optimization profile 0"),
        ("pools", {"workspace_mib": 64}, "refused 67108864 bytes for the memory pool workspace"),
        ("tactics", {"tactic_sources": ()}, "TensorRT refused the tactic sources none"),
    ],
)
def test_a_value_that_tensorrt_refuses_is_named(what, options, said, script, tmp_path):
    script.refuses = {what}
    script.says = {"profile": [("error", "kOPT values for profile 0 violate shape constraints: x")]}
    error = failure(tmp_path, TensorRtOptions(profiles=(PROFILE,), **options))
    assert said in error.message


def test_plugins_of_tensorrts_own_that_do_not_register_are_said(script, tmp_path, caplog):
    script.nothing = {"plugins"}
    script.says = {"plugins": [("error", "libnvinfer_plugin is of another version")]}
    with caplog.at_level(logging.WARNING):
        assert build(tmp_path).plan.exists()
    assert "own plugins could not be registered" in caplog.text
    assert "libnvinfer_plugin is of another version" in caplog.text


def test_the_reason_of_an_earlier_failure_is_not_that_of_the_next(script, tmp_path):
    log = CapturedLog()
    script.says = {"build": OUT_OF_MEMORY}
    for nothing, said in (("engine", "built an engine and cannot load it"), ("builder", "start")):
        script.nothing = {nothing}
        with pytest.raises(BuildError, match=said) as error:
            build_plan(lowered(), DYNAMIC, tmp_path / "net.engine", log=log)
    assert "memory" not in error.value.message
    assert len(log.errors()) == 2


def test_an_inspector_that_says_nothing_fails_no_build(script, tmp_path, caplog):
    for nothing, said in (
        ("inspector", "TensorRT gives no inspector"),
        ("information", "TensorRT's inspector says nothing"),
    ):
        script.nothing = {nothing}
        with caplog.at_level(logging.WARNING):
            assert build(tmp_path).inspector == ""
        assert said in caplog.text


@pytest.mark.parametrize("script_of", [{"nothing": {"context"}}, {"refuses": {"shape"}}])
def test_an_engine_that_gives_no_context_is_inspected_without(script_of, script, tmp_path, caplog):
    for name, value in script_of.items():
        setattr(script, name, value)
    with caplog.at_level(logging.WARNING):
        assert build(tmp_path).inspector
    assert "cannot be inspected at the shapes" in caplog.text


def test_a_failed_build_lets_go_of_tensorrts_objects(script, tmp_path):
    script.plan = None
    with pytest.raises(BuildError) as error:
        build(tmp_path)
    assert script.live_builder() is None
    assert "built no engine" in error.value.message


def test_a_graph_of_another_version_is_refused(script, tmp_path):
    graph = lowered()
    object.__setattr__(graph, "version", TensorRtVersion(VERSION.major, VERSION.minor + 1))
    with pytest.raises(BuildError, match="the graph was lowered for TensorRT"):
        build_plan(graph, DYNAMIC, tmp_path / "net.engine")
    assert script.calls == []


def test_a_folder_that_is_not_there_is_refused_before_the_build(script, tmp_path):
    with pytest.raises(ArtifactError, match="there is no folder"):
        build(tmp_path / "nowhere")
    assert script.calls == []


def test_a_gpu_that_is_not_there_is_named(script, tmp_path):
    with pytest.raises(EngineError, match="CUDA failed on GPU 9"):
        build(tmp_path, TensorRtOptions(profiles=(PROFILE,), device=9))


def test_what_goes_wrong_in_a_callback_of_tensorrts_is_raised(script, tmp_path, monkeypatch):
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError("in a callback")

    monkeypatch.setattr(Phases, "complete", fail)
    with pytest.raises(ZeroDivisionError, match="in a callback"):
        build(tmp_path)
    assert script.calls[-1] == "stopped"
    assert left_in(tmp_path) == set()


# Memory


def test_a_workspace_is_cut_to_what_the_machine_has(script, tmp_path, monkeypatch):
    small = MemoryState(8 << 30, 4 << 30, 0, True, 4 << 30, 8 << 30)
    monkeypatch.setattr(build_module, "read_memory", lambda device: small)
    build(tmp_path, TensorRtOptions(profiles=(PROFILE,), workspace_mib=6000))
    limit = script.config._pools[trt.MemoryPoolType.WORKSPACE]
    assert 0 < limit < 4 << 30


def test_a_machine_without_room_for_the_weights_is_told_before_tensorrt_starts(
    script, tmp_path, monkeypatch
):
    none = MemoryState(8 << 30, 1 << 10, 0, False, 8, 8 << 30)
    monkeypatch.setattr(build_module, "read_memory", lambda device: none)
    with pytest.raises(BuildError, match="the weights alone take"):
        build(tmp_path)
    assert script.calls == []


# Ctrl-C


def test_ctrl_c_stops_tensorrt_and_leaves_nothing_but_its_timings(script, tmp_path):
    (tmp_path / "net.engine").write_bytes(b"old")
    script.steps = 1000
    stops: list[int] = []

    def interrupt(step: int) -> None:
        if step == 2:
            _thread.interrupt_main()
        if step > 2:
            stops.append(step)
            time.sleep(0.02)

    script.on_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    assert script.calls[-2:] == ["build", "stopped"]
    assert len(stops) < 500
    assert (tmp_path / "net.engine").read_bytes() == b"old"
    assert left_in(tmp_path) == {"net.engine"}
    assert script.live_builder() is None
    (kept,) = (tmp_path / "cache/edgeattn/timing").glob("*.timing")
    assert kept.read_bytes() == timings_text("conv 3")


def test_what_progress_raises_stops_the_build_and_is_raised(script, tmp_path):
    script.steps = 1000
    script.on_step = lambda step: time.sleep(0.01)

    def progress(done: int, total: int | None, what: str) -> None:
        if what == "Building Engine":
            raise RuntimeError("the terminal went away")

    with pytest.raises(RuntimeError, match="the terminal went away"):
        build_plan(lowered(), DYNAMIC, tmp_path / "net.engine", progress=progress)
    assert script.calls[-1] == "stopped"
    assert left_in(tmp_path) == set()
