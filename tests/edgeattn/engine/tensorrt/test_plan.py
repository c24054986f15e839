"""What a dry run tells: every part of the plan, on a machine with neither TensorRT nor a GPU."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeattn.artifacts import read_manifest
from edgeattn.engine.build import build
from edgeattn.engine.tensorrt import destination, prepare
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.plan import BuildPlan
from edgeattn.engine.tensorrt.plan_text import plan_lines
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.errors import ArtifactError, BuildError, GraphError
from edgeattn.graph.files import load_graph
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import Case
from tests.graphs import classifier, from_text
from tests.graphs import save as save_plain
from tests.quantized_attention import layer
from tests.tensorrt_graphs import block, save

RANGE = ShapeProfile(min={"x": (1, 8, 8, 32)}, opt={"x": (4, 8, 8, 32)}, max={"x": (8, 16, 16, 32)})


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """A laptop: whoever imports TensorRT or pycuda fails the test."""
    for name in ("tensorrt", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(destination, "local_architectures", tuple)


def plan(graph: Path, request: TensorRtRequest | None = None, **options: Any) -> BuildPlan:
    where = {"target": "jetson-orin-nano", "jetpack": "6.2"}
    request = request or TensorRtRequest(options=TensorRtOptions(**options), **where)
    planned = build(graph, engine="tensorrt", dry_run=True, tensorrt=request)
    assert isinstance(planned, BuildPlan)
    return planned


def told(planned: BuildPlan, name: str) -> str:
    """What people read under a name, all of its lines."""
    lines = plan_lines(planned)
    start = next(i for i, line in enumerate(lines) if line.startswith(name))
    width = len(lines[start]) - len(lines[start][len(name) :].lstrip())
    rest = lines[start + 1 :]
    end = next(i for i, line in enumerate(rest) if not line.startswith(" " * width))
    return "\n".join(line[width:] for line in [lines[start], *rest[:end]])


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(block(), tmp_path / "net.int8.onnx")


def test_a_plan_needs_no_tensorrt_and_writes_nothing(graph):
    before = sorted(graph.parent.iterdir())
    planned = plan(graph)
    assert sorted(graph.parent.iterdir()) == before
    assert planned.files == ("net.int8.engine", "net.int8.engine.json", "net.int8.engine.log")


def test_its_json_is_plain_and_whole(graph):
    values = plan(graph).to_dict()
    again = json.loads(json.dumps(values, allow_nan=False))
    assert again == json.loads(json.dumps(again))
    picked = {name: again[name] for name in ("target", "jetpack", "tensorrt", "architectures")}
    assert picked == {
        "target": "jetson-orin-nano",
        "jetpack": "6.2",
        "tensorrt": "10.3.0.30",
        "architectures": [87],
    }
    assert again["dry_run"] is True
    assert again["precision"] == "int8"
    assert again["products"] == {"float32": ["head/MatMul"], "int8": ["qkv/MatMul"]}
    assert again["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": ["batch", "height", "width", 32]}
    ]
    assert again["options"]["workspace_mib"] is None
    assert again["faults"] == []


def test_attention_in_the_plugin_is_told_with_its_types_and_the_library_it_needs(graph):
    planned = plan(graph)
    (attention,) = planned.attention
    assert (attention.name, attention.way) == ("attention", "plugin")
    assert (attention.in_type, attention.out_type) == ("int8", "int8")
    assert "1 by our plugin (one kernel launch for a layer), int8 to int8" in told(
        planned, "attention"
    )
    need = planned.plugin
    assert need is not None
    assert (need.library, need.embedded) == ("", False)
    command = "edgeattn plugin build --target jetson-orin-nano --jetpack 6.2"
    assert need.build_command == command
    assert command in told(planned, "plugin")


def test_attention_in_standard_operators_needs_no_library_and_names_each_head_group(graph):
    request = TensorRtRequest(attention="native", target="jetson-orin-nano", jetpack="6.2")
    planned = plan(graph, request)
    assert planned.plugin is None
    assert told(planned, "plugin") == "not needed"
    assert [each.name for each in planned.attention] == ["attention, group 0", "attention, group 1"]
    assert "2 by standard operators" in told(planned, "attention")
    assert len(planned.products["int8"]) > 1  # the products of attention itself


def test_heads_that_were_padded_for_the_plugin_are_told_with_what_it_costs(tmp_path):
    case = Case(AttentionSpec(30, 2, (HeadGroup(2, 4),)), 8, 8)
    path = tmp_path / "net.onnx"
    onnx.save(convert_to_half(layer(case), "float16")[0], path)
    planned = plan(path)
    assert told(planned, "attention").splitlines()[1:] == [
        "  attention",
        "  heads of 30 channels are padded to 32 with zeros: 7 % more bytes and products in the "
        "kernel and in the linear layers around it",
    ]
    (attention,) = planned.to_dict()["attention"]
    assert attention["padded"] == {
        "node": "attention", "head_dim": 30, "padded_head_dim": 32, "copied": ()
    }  # fmt: skip


def test_what_tensorrt_will_not_fuse_is_said_with_the_reason(tmp_path):
    graph = block()
    (node,) = (n for n in graph.graph.node if n.name == "attention")
    (heads,) = (a for a in node.attribute if a.name == "group_mode")
    heads.ints[:] = [2, 2]  # neighborhoods
    shifts = next(a for a in node.attribute if a.name == "group_shift")
    shifts.ints[:] = [0, 0, 0, 0]
    request = TensorRtRequest(attention="native", target="jetson-thor")
    text = told(plan(save(graph, tmp_path / "net.onnx"), request), "attention")
    assert "TensorRT will not fuse them: " in text
    assert "keys of its own" in text


def test_a_graph_without_attention_says_so(tmp_path):
    path = save_plain(classifier(batch=2), tmp_path / "net.onnx")
    planned = plan(path)
    assert told(planned, "attention") == "none"
    assert planned.plugin is None
    assert told(planned, "precision") == "fp32: of 1 layers with matrix products 1 in float32"


def test_layers_that_differ_from_most_are_named(graph):
    text = told(plan(graph), "precision")
    assert text.startswith("int8: of 2 layers with matrix products 1 in ")
    assert "(head/MatMul)" in text or "(qkv/MatMul)" in text


def test_free_shapes_become_those_of_the_export_and_that_is_said(graph):
    planned = plan(graph)
    assert planned.are_shapes_exported
    assert [profile.opt for profile in planned.profiles] == [{"x": (1, 8, 8, 32)}]
    assert told(planned, "shapes").startswith("x: 1x8x8x32 alone\nas the graph was exported")
    assert "--optShapes=x:1x8x8x32" in planned.trtexec


def test_free_shapes_that_nobody_knows_are_refused_with_what_to_give(tmp_path):
    path = save(block(), tmp_path / "net.onnx", exported=False)
    with pytest.raises(BuildError, match="no range of shapes was given") as caught:
        plan(path)
    assert "--opt-shapes x:1x1x1x32" in caught.value.hint


def test_ranges_are_told_as_given(graph):
    planned = plan(graph, profiles=(RANGE,))
    assert told(planned, "shapes") == "x: min 1x8x8x32, opt 4x8x8x32, max 8x16x16x32"
    assert not planned.are_shapes_exported
    shown = shlex.split(planned.to_dict()["trtexec"])
    assert "--minShapes=x:1x8x8x32" in shown
    assert "--maxShapes=x:8x16x16x32" in shown


def test_several_profiles_are_numbered(graph):
    other = ShapeProfile(opt={"x": (1, 4, 4, 32)})
    planned = plan(graph, profiles=(RANGE, other))
    assert told(planned, "profile 0").startswith("x: min 1x8x8x32")
    assert told(planned, "profile 1") == "x: 1x4x4x32 alone"


def test_a_graph_without_free_shapes_needs_none_and_trtexec_gets_none(tmp_path):
    path = save(block(dynamic=False), tmp_path / "net.onnx")
    planned = plan(path)
    assert told(planned, "shapes") == "x: 1x8x8x32 alone"
    assert not planned.are_shapes_exported
    assert not any("Shapes=" in argument for argument in planned.trtexec)


def test_weights_are_weighed_and_the_largest_is_named(graph):
    planned = plan(graph)
    assert planned.largest_tensor == "qkv_weight"
    assert planned.largest_bytes == 32 * 96
    # Of the graph's: INT8 weight, steps and zeros; the head in FP32; the bias table; four scales.
    least = 32 * 96 + 96 * 5 + 32 * 5 * 4 + (49 + 225) * 4
    assert least <= planned.weights_bytes <= least + 200
    assert "the largest qkv_weight (3.0 KiB)" in told(planned, "graph")


def test_options_that_differ_from_the_defaults_are_told(graph):
    planned = plan(
        graph,
        workspace_mib=512,
        pools={"tactic_shared_memory": 0.046875},
        optimization_level=5,
        tf32=False,
        version_compatible=True,
        refit=True,
        avg_timing=4,
        max_aux_streams=0,
        tactic_sources=("JIT_CONVOLUTIONS",),
        hardware_compatibility="ampere+",
        profiling_verbosity="layer_names",
        timing_cache=Path("t.cache"),
    )
    assert told(planned, "workspace") == "512 MiB; tactic_shared_memory 0.046875 MiB"
    assert told(planned, "timing") == "cache: t.cache"
    assert told(planned, "settings").split("; ") == [
        "strongly typed",
        "optimization level 5",
        "TF32 off",
        "layer report layer names",
        "version compatible",
        "refit",
        "avg timing 4",
        "max aux streams 0",
        "tactics of JIT_CONVOLUTIONS",
        "hardware compatibility ampere+",
    ]


def test_the_lowest_level_is_not_taken_for_the_default(graph):
    assert "optimization level 0;" in told(plan(graph, optimization_level=0), "settings")


def test_the_memory_of_a_build_is_estimated_for_boards_that_are_not_here(graph):
    planned = plan(graph)
    assert told(planned, "memory") == (
        "a build of these weights usually takes about 1.0 GiB besides"
    )
    large = replace(planned, weights_bytes=1 << 30)
    assert "about 4.0 GiB" in told(large, "memory")  # three copies, and what the builder takes


def test_defaults_are_told_too(graph):
    planned = plan(graph)
    assert told(planned, "workspace").startswith("what is free when it is built")
    settings = told(planned, "settings")
    assert settings.startswith("strongly typed; optimization level 3 (the default); TF32 on")
    assert told(plan(graph, no_timing_cache=True), "timing").startswith("every kernel is measured")


def test_what_tensorrt_would_compute_otherwise_than_the_graph_says_is_told(graph, tmp_path):
    assert told(plan(graph), "faults") == "none known for this TensorRT"
    faulty = plan(save(block(faulty=True), tmp_path / "faulty.onnx"))
    (fault,) = faulty.faults
    assert fault.startswith("head/MatMul: ")
    assert told(faulty, "faults") == fault
    two = replace(faulty, faults=("first fault", "second fault"))
    assert told(two, "faults") == "first fault\nsecond fault"


def test_the_lowered_graph_is_written_where_asked_and_trtexec_reads_it(graph, tmp_path):
    file = tmp_path / "for_trtexec.onnx"
    request = TensorRtRequest(target="jetson-orin-nano", lowered_graph=file)
    planned = plan(graph, request)
    lowered = load_graph(file)
    (node,) = (n for n in lowered.graph.node if n.name == "attention")
    scales = {a.name: a.f for a in node.attribute if a.name.endswith("quant_scale")}
    assert scales == pytest.approx({"qkv_quant_scale": 0.05, "out_quant_scale": 0.02})
    assert f"--onnx={file}" in planned.trtexec
    assert read_manifest(file).options["lowered_for"] == "TensorRT 10.16.2.10"


def test_the_graph_is_not_overwritten_by_its_lowered_form(graph):
    before = graph.read_bytes()
    request = TensorRtRequest(target="jetson-thor", lowered_graph=graph)
    with pytest.raises(ArtifactError, match="is the graph to build"):
        plan(graph, request)
    assert graph.read_bytes() == before


def test_options_that_this_tensorrt_lacks_are_refused(graph):
    with pytest.raises(BuildError, match=r"10\.4 can"):
        plan(graph, max_tactics=3)


@pytest.mark.parametrize(
    ("required", "said"),
    [
        ("int9", "'int9' is no precision to require"),
        ("fp16", "fp16 was required, but the graph asks for float16 in none of its products"),
    ],
)
def test_a_precision_that_no_engine_of_this_graph_can_have_is_refused(graph, required, said):
    request = TensorRtRequest(target="jetson-thor", require_precision=required)
    with pytest.raises(BuildError, match=said):
        plan(graph, request)


def test_a_precision_that_the_graph_asks_for_may_be_required(graph):
    plan(graph, TensorRtRequest(target="jetson-thor", require_precision="int8+fp32"))


def test_weights_that_are_nan_are_refused_by_name(tmp_path):
    graph = from_text("g (float[2] x) => (float[2] y) <float[2] w = {nan, 1}> { y = Add(x, w) }")
    with pytest.raises(GraphError, match="the weight w holds 1 NaN"):
        plan(save_plain(graph, tmp_path / "net.onnx"))


def test_on_a_machine_with_a_gpu_the_library_and_the_memory_are_looked_up(graph, monkeypatch):
    from edgeattn.engine.tensorrt.memory import MemoryState

    small = MemoryState(4 << 30, 300 << 20, 0, is_shared=True)
    monkeypatch.setattr(destination, "local_architectures", lambda: (87,))
    monkeypatch.setattr(prepare, "find_plugin_library", lambda major: Path(f"/cache/{major}.so"))
    monkeypatch.setattr(prepare, "read_memory", lambda device: small)
    planned = plan(graph, TensorRtRequest(tensorrt_version="10.3"))
    assert told(planned, "for") == "this machine (sm_87)"
    assert told(planned, "plugin") == "/cache/10.so"
    assert "--dynamicPlugins=/cache/10.so" in planned.trtexec
    assert [finding.level for finding in planned.memory]
    assert told(planned, planned.memory[0].level).startswith(planned.memory[0].text)


@pytest.mark.parametrize(
    ("found", "place"), [((), "where the engine is built first"), ((87,), "here first")]
)
def test_a_library_that_is_missing_has_to_be_built_where_the_engine_is(
    graph, monkeypatch, found, place
):
    monkeypatch.setattr(destination, "local_architectures", lambda: found)
    monkeypatch.setattr(prepare, "find_plugin_library", lambda major: None)
    text = told(plan(graph, TensorRtRequest(tensorrt_version="10.3")), "plugin")
    assert place in text
    assert text.endswith("edgeattn plugin build")


def test_a_library_that_is_named_is_planned_with(graph):
    request = TensorRtRequest(
        options=TensorRtOptions(plugin=Path("mine.so"), embed_plugin=True, version_compatible=True),
        target="jetson-thor",
    )
    planned = plan(graph, request)
    assert told(planned, "plugin") == "mine.so, carried by the engine"
    assert "--setPluginsToSerialize=mine.so" in planned.trtexec
