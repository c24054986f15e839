"""Each planted fault is found, and nothing else; of a sound graph nothing is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import edgeattn
from edgeattn.deploy.check.check import GraphCheck, check_graph
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.plan import BuildPlan
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.errors import ArtifactError, BuildError, TargetError
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.targets import TARGETS
from tests.edgeattn.deploy.check.graphs import (
    PLANTED,
    Change,
    Planted,
    between,
    free_the_batch,
    in_fp8,
    rounded,
    sound,
)

ORIN = TensorRtRequest(target="jetson-orin-nano", jetpack="6.2")


def saved(graph: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    onnx.save(graph, path)
    return path


def told(checked: GraphCheck) -> list[tuple[str, str, str, str]]:
    """Everything but notes."""
    return [(f.level, f.topic, f.node, f.reason) for f in checked.findings if f.level != "note"]


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(planted: Planted, tmp_path: Path) -> None:
    graph = sound()
    planted.change(graph)
    request = TensorRtRequest(target="jetson-orin-nano", jetpack="6.2", **planted.request)
    checked = check_graph(saved(graph, tmp_path), request, **planted.arguments)
    found = told(checked)
    assert len(found) == len(planted.found), found
    for each, (level, topic, node, reason) in zip(found, planted.found, strict=True):
        assert each[:3] == (level, topic, node)
        assert reason in each[3]
    assert bool(checked.errors) == any(level == "error" for level, *_ in planted.found)
    assert all(f.fix for f in checked.findings if f.level != "note")


BOARDS = [(name, jetpack.version) for name, t in TARGETS.items() for jetpack in t.jetpacks]


@pytest.mark.parametrize(("target", "jetpack"), BOARDS)
def test_nothing_is_found_in_a_sound_graph(target: str, jetpack: str, tmp_path: Path) -> None:
    half, _ = convert_to_half(sound(), "float16")
    int8 = sound()
    rounded(np.int8(0))(int8)
    for graph in (sound(), half, int8):
        checked = check_graph(
            saved(graph, tmp_path), TensorRtRequest(target=target, jetpack=jetpack)
        )
        assert told(checked) == []
        assert checked.to_dict()["passed"] is True


def test_a_desktop_is_checked_for_the_version_that_is_named(tmp_path: Path) -> None:
    request = TensorRtRequest(target="desktop", tensorrt_version="11.1")
    checked = check_graph(saved(sound(), tmp_path), request)
    assert told(checked) == []
    assert checked.bound is None  # many GPUs, many bounds
    assert checked.memory is not None
    assert checked.memory.available_bytes is None


def test_what_one_board_lacks_another_has(tmp_path: Path) -> None:
    graph = sound()
    in_fp8(graph)
    thor = TensorRtRequest(target="jetson-thor", jetpack="7.1")
    assert told(check_graph(saved(graph, tmp_path), thor)) == []
    desktop = TensorRtRequest(target="desktop", tensorrt_version="10.13")
    ((level, topic, node, reason),) = told(check_graph(saved(graph, tmp_path), desktop))
    assert (level, topic, node) == ("warning", "precision", "q")
    assert "sm_80, sm_86 has no arithmetic" in reason


def test_free_sizes_with_a_range_are_sound(tmp_path: Path) -> None:
    graph = sound()
    free_the_batch(graph)
    shape = (4, 8, 8, 32)
    profile = ShapeProfile(min={"x": (1, 8, 8, 32)}, opt={"x": shape}, max={"x": (9, 8, 8, 32)})
    request = TensorRtRequest(
        TensorRtOptions(profiles=(profile,)), target="jetson-orin-nano", jetpack="6.2"
    )
    checked = check_graph(saved(graph, tmp_path), request)
    assert told(checked) == []
    assert checked.bound is not None
    assert checked.bound.layers_ms is not None
    wrong = ShapeProfile(opt={"x": (4, 8, 8, 16)})
    request = TensorRtRequest(TensorRtOptions(profiles=(wrong,)), target="jetson-orin-nano")
    ((level, topic, _, reason),) = told(check_graph(saved(graph, tmp_path), request))
    assert (level, topic) == ("error", "shapes")
    assert "4x8x8x16" in reason


RANGE = ShapeProfile(min={"x": (1, 8, 8, 32)}, opt={"x": (4, 8, 8, 32)}, max={"x": (9, 8, 8, 32)})
WRITTEN_IN = {
    "a shape": (
        between(
            helper.make_node("Reshape", ["positive", "one_map"], ["rows"], "fold"),
            helper.make_node("Relu", ["rows"], ["same"], "again"),
            helper.make_node("Reshape", ["same", "back"], ["planted"], "unfold"),
            one_map=np.array([64, 32]),
            back=np.array([1, 8, 8, 32]),
        ),
        ("fold", "at the best shapes x:4x8x8x32 it makes a shape of 2048 values of 8192"),
    ),
    "a constant": (
        between(
            helper.make_node("Add", ["positive", "four"], ["planted"], "add"),
            four=np.zeros((4, 8, 8, 32), np.float32),
        ),
        ("", "at the largest shapes x:9x8x8x32 the graph contradicts itself"),
    ),
}


@pytest.mark.parametrize(("change", "expected"), WRITTEN_IN.values(), ids=WRITTEN_IN)
def test_a_size_that_the_export_wrote_into_the_graph_is_found(
    change: Change, expected: tuple[str, str], tmp_path: Path
) -> None:
    graph = sound()
    free_the_batch(graph)
    change(graph)
    options = TensorRtOptions(profiles=(RANGE,))
    request = TensorRtRequest(options, target="jetson-orin-nano", jetpack="6.2")
    ((level, topic, node, reason),) = told(check_graph(saved(graph, tmp_path), request))
    assert (level, topic, node) == ("error", "shapes", expected[0])
    assert reason.startswith(expected[1])


@pytest.mark.parametrize("name", ["a zero point", "float64", "an opset that is too new"])
def test_the_plan_of_a_build_says_the_same(name: str, tmp_path: Path) -> None:
    graph = sound()
    PLANTED[name].change(graph)
    path = saved(graph, tmp_path)
    plan = edgeattn.build(path, engine="tensorrt", tensorrt=ORIN, dry_run=True)
    assert isinstance(plan, BuildPlan)
    findings = check_graph(path, ORIN).findings
    assert sorted(map(str, plan.faults)) == sorted(str(f) for f in findings if f.level != "note")


def test_the_worst_comes_first(tmp_path: Path) -> None:
    graph = sound()
    PLANTED["a zero point"].change(graph)
    levels = [f.level for f in check_graph(saved(graph, tmp_path), ORIN).findings]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)


def test_what_cannot_be_checked_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = saved(sound(), tmp_path)
    with pytest.raises(ArtifactError):
        check_graph(tmp_path / "absent.onnx", ORIN)
    with pytest.raises(TargetError, match="there is no target 'jetson-oric'"):
        check_graph(path, TensorRtRequest(target="jetson-oric"))
    with pytest.raises(BuildError, match=r"10\.13.* has no ONNX Attention"):
        check_graph(
            path, TensorRtRequest(target="jetson-thor", jetpack="7.0", attention="attention")
        )


def test_the_steps_are_told(tmp_path: Path) -> None:
    steps: list[tuple[int, int | None, str]] = []
    check_graph(saved(sound(), tmp_path), ORIN, progress=lambda *step: steps.append(step))
    assert [done for done, _, _ in steps] == list(range(len(steps)))
    assert {total for _, total, _ in steps} == {len(steps)}
