"""`edgeattn build` for TensorRT as it is typed: our spellings, trtexec's, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import edgeattn
from edgeattn.artifacts import Manifest
from edgeattn.cli.main import run
from edgeattn.engine.tensorrt.options import ImplicitInt8, ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from tests.tensorrt_graphs import block, save


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `edgeattn.build` is called with; it builds nothing."""
    seen: dict[str, Any] = {}

    def build(graph: Path, output: Path | None, **options: Any) -> Manifest:
        seen.update(options, graph=graph, output=output)
        return Manifest("engine")

    monkeypatch.setattr(edgeattn, "build", build, raising=False)
    return seen


def options(**values: Any) -> TensorRtRequest:
    return TensorRtRequest(options=TensorRtOptions(**values))


ONE = ShapeProfile(opt={"x": (4, 3)}, min={"x": (1, 3)}, max={"x": (8, 3)})

# What is typed, ours first, and what it means.
SPELLINGS: list[tuple[tuple[str, ...], TensorRtRequest]] = [
    (
        (
            "--min-shapes x:1x3 --opt-shapes x:4x3 --max-shapes x:8x3",
            "--minShapes=x:1x3 --optShapes=x:4x3 --maxShapes=x:8x3",
        ),
        options(profiles=(ONE,)),
    ),
    (
        ("--opt-shapes x:4x3,y:2", "--opt-shapes x:4x3 --opt-shapes y:2", "--shapes x:4x3,y:2"),
        options(profiles=(ShapeProfile(opt={"x": (4, 3), "y": (2,)}),)),
    ),
    (
        ("--opt-shapes x:4x3 --opt-shapes x:2x3 --max-shapes x:8x3 --max-shapes x:2x3",),
        options(
            profiles=(
                ShapeProfile(opt={"x": (4, 3)}, max={"x": (8, 3)}),
                ShapeProfile(opt={"x": (2, 3)}, max={"x": (2, 3)}),
            )
        ),
    ),
    (
        ("--workspace 512", "--memPoolSize=workspace:512", "--memory-pool workspace:0.5G"),
        options(workspace_mib=512),
    ),
    (
        (
            "--memory-pool dla_managed_sram:1 --memory-pool tactic_shared_memory:48K",
            "--memPoolSize=dlaSRAM:1,tacticSharedMem:48K",
            "--memPoolSize=dlaSRAM:1MiB,tacticSharedMem:49152B",
        ),
        options(pools={"dla_managed_sram": 1.0, "tactic_shared_memory": 0.046875}),
    ),
    (
        ("--timing-cache t.cache", "--timingCacheFile=t.cache"),
        options(timing_cache=Path("t.cache")),
    ),
    (("--no-timing-cache",), options(no_timing_cache=True)),
    (
        ("--optimization-level 5", "--builderOptimizationLevel=5"),
        options(optimization_level=5),
    ),
    (("--max-tactics 7", "--maxTactics=7"), options(max_tactics=7)),
    (("--avg-timing 8", "--avgTiming=8"), options(avg_timing=8)),
    (
        ("--tactic-sources CUDNN,JIT_CONVOLUTIONS", "--tacticSources=+CUDNN,+JIT_CONVOLUTIONS"),
        options(tactic_sources=("CUDNN", "JIT_CONVOLUTIONS")),
    ),
    (("--tiling full", "--tilingOptimizationLevel=full"), options(tiling="full")),
    (("--max-aux-streams 0", "--maxAuxStreams=0"), options(max_aux_streams=0)),
    (
        ("--hardware-compatibility ampere+", "--hardwareCompatibilityLevel=ampere+"),
        options(hardware_compatibility="ampere+"),
    ),
    (
        (
            "--hardware-compatibility sameComputeCapability",
            "--hardwareCompatibilityLevel=samecomputecapability",
        ),
        options(hardware_compatibility="same_compute_capability"),
    ),
    (
        ("--version-compatible", "--versionCompatible", "--vc"),
        options(version_compatible=True),
    ),
    (
        ("--vc --exclude-lean-runtime", "--versionCompatible --excludeLeanRuntime"),
        options(version_compatible=True, exclude_lean_runtime=True),
    ),
    (("--strip-weights", "--stripWeights"), options(strip_weights=True)),
    (("--refit",), options(refit=True)),
    (
        ("--dla 1 --allow-gpu-fallback", "--useDLACore=1 --allowGPUFallback"),
        options(dla_core=1, allow_gpu_fallback=True),
    ),
    (("--device 1", "--device=1"), options(device=1)),
    (("--no-tf32", "--noTF32"), options(tf32=False)),
    (("--sparsity enable", "--sparsity=enable"), options(sparsity=True)),
    (
        ("--profiling-verbosity layer_names_only", "--profilingVerbosity=layer_names_only"),
        options(profiling_verbosity="layer_names"),
    ),
    (
        ("--plugin p.so", "--dynamicPlugins=p.so", "--staticPlugins=p.so"),
        options(plugin=Path("p.so")),
    ),
    (
        ("--plugin p.so --embed-plugin", "--setPluginsToSerialize=p.so"),
        options(plugin=Path("p.so"), embed_plugin=True),
    ),
    (
        (
            "--implicit-int8 images --calibrator minmax --calibration-samples 64 "
            "--calibration-cache c.cache --implicit-fp16",
        ),
        options(
            implicit_int8=ImplicitInt8("images", "minmax", 64, cache=Path("c.cache"), fp16=True)
        ),
    ),
    (
        ("--attention native --require-precision int8+fp16",),
        TensorRtRequest(attention="native", require_precision="int8+fp16"),
    ),
    (
        ("--target jetson-thor --jetpack 7.1 --save-lowered l.onnx",),
        TensorRtRequest(target="jetson-thor", jetpack="7.1", lowered_graph=Path("l.onnx")),
    ),
    (("--tensorrt-version 10.7",), TensorRtRequest(tensorrt_version="10.7")),
    (("--refit --stronglyTyped --skipInference",), options(refit=True)),
]


@pytest.mark.parametrize(
    ("typed", "meant"), [(text, meant) for texts, meant in SPELLINGS for text in texts]
)
def test_each_spelling_means_what_it_says(asked, typed, meant):
    assert run(["build", "net.onnx", *typed.split()]) == 0
    assert asked["tensorrt"] == meant


def test_every_field_of_the_options_and_the_request_can_be_typed():
    meant = [request for _, request in SPELLINGS]
    for name, default in vars(TensorRtRequest()).items():
        if name != "autotune_attention":  # an option of every engine
            assert any(getattr(request, name) != default for request in meant), name
    for name, default in vars(TensorRtOptions()).items():
        assert any(getattr(request.options, name) != default for request in meant), name


@pytest.mark.parametrize(
    ("typed", "autotuned", "globally"),
    [
        ("", False, None),
        ("--autotune-attention", True, None),
        ("--global-attention", False, True),
        ("--engine cpu --autotune-attention --no-global-attention", True, False),
    ],
)
def test_choosing_what_is_fused_is_for_every_engine_and_asks_for_none(
    asked, typed, autotuned, globally
):
    assert run(["build", "net.onnx", *typed.split()]) == 0
    assert (asked["autotune_attention"], asked["global_attention"]) == (autotuned, globally)
    assert asked["tensorrt"] is None


def test_without_any_of_them_nothing_is_asked_of_tensorrt(asked):
    assert run(["build", "--onnx=net.onnx", "--saveEngine=e.engine", "--dryRun"]) == 0
    assert (asked["tensorrt"], asked["engine"], asked["verify"]) == (None, "auto", False)
    assert (asked["graph"], asked["output"]) == (Path("net.onnx"), Path("e.engine"))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--fp16", "edgeattn quantize GRAPH --precision fp16"),
        ("--bf16", "edgeattn quantize GRAPH --precision bf16"),
        ("--int8", "--precision int8"),
        ("--best", "--precision int8+fp16"),
        ("--calib=c.cache", "edgeattn calibrate GRAPH --from-cache"),
        ("--layerPrecisions=a:fp16", "--keep-float"),
        ("--memPoolSize=work:3", "the pools being workspace, dla_managed_sram"),
        ("--memPoolSize=workspace", "expected POOL:SIZE"),
        ("--memPoolSize=workspace:-1", "expected POOL:SIZE"),
        ("--workspace 1 --memory-pool workspace:2", "--workspace is 1 MiB"),
        ("--min-shapes x:1", "go with --opt-shapes"),
        ("--shapes x:1 --opt-shapes x:1", "--shapes goes without"),
        ("--opt-shapes x:1 --opt-shapes x:2 --max-shapes x:3", "of 2, 2 and 1 profiles"),
        ("--opt-shapes x", "NAME:1x3x224x224"),
        ("--tacticSources=-CUDNN", "expected the names of those to use"),
        ("--calibrator minmax", "--calibrator goes with --implicit-int8"),
        ("--calibration-samples 3", "--calibration-samples goes with --implicit-int8"),
        ("--optimization-level 6", "0<=x<=5"),
        ("--hardware-compatibility ampere", "ampere+"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error_with_what_to_do(asked, capsys, typed, said):
    assert run(["build", "net.onnx", *typed.split()]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not asked


def test_the_help_lists_them_under_headings(capsys):
    assert run(["build", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Options:"
    assert headings[1:] == [f"TensorRT, {title}:" for title in (
        "shapes", "attention", "precision", "memory and build time", "where the engine runs",
        "dry run and proof",
    )]  # fmt: skip
    assert not any("--fp16" in line for line in lines)


def test_a_dry_run_prints_one_json_object_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(block(), tmp_path / "net.onnx")
    line = "build net.onnx --dry-run --target jetson-orin-nano --jetpack 6.2 --json"
    assert run(line.split()) == 0
    captured = capsys.readouterr()
    values = json.loads(captured.out)
    assert captured.err == ""
    assert (values["engine"], values["tensorrt"], values["dry_run"]) == (
        "tensorrt", "10.3.0.30", True
    )  # fmt: skip
    assert values["trtexec"].startswith("trtexec --onnx=net.lowered.onnx --saveEngine=net.engine")
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "net.onnx.json"}


def test_a_dry_run_explains_the_build_to_people(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(block(), tmp_path / "net.onnx")
    line = "build net.onnx --engine tensorrt --dry-run --target jetson-orin-nano"
    assert run(line.split()) == 0
    out = capsys.readouterr().out
    assert out.startswith("net.onnx → net.engine, a dry run: nothing is built\n")
    for name in ("for ", "TensorRT ", "precision ", "shapes ", "attention ", "plugin ", "faults "):
        assert f"\n{name}" in out, name
    assert max(map(len, out.splitlines())) < 160


@pytest.mark.parametrize(
    "line",
    [
        "build net.onnx --engine tensorrt",
        "build net.onnx --engine tensorrt --dry-run",
        "build net.onnx --engine cpu --workspace 3",
        "build net.onnx --workspace 3 --threads 2 --dry-run --target jetson-thor",
        "build net.onnx --dry-run --target jetson-thor --opt-shapes z:1x8x8x32",
        "build net.onnx --dry-run --target jetson-orin-nano --jetpack 6.2 --max-tactics 3",
        "build net.onnx --dry-run --target jetson-orin-nano --jetpack 6.2 --attention attention",
        "build net.onnx --dry-run --target jetson-thor --implicit-int8 images --require-precision "
        "int8 --tensorrt-version 11.1",
    ],
)
def test_a_build_that_cannot_be_is_refused_in_one_sentence_with_a_hint(
    tmp_path, monkeypatch, capsys, line
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    save(block(), tmp_path / "net.onnx")
    assert run(line.split()) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [each.partition(": ")[0] for each in lines] == ["Error", "hint"], lines
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "net.onnx.json"}


def test_a_verified_cpu_engine_tells_what_was_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(block(), tmp_path / "net.onnx")
    assert run(["build", "net.onnx", "--engine", "cpu", "--verify"]) == 0
    out = capsys.readouterr().out
    assert "equal rows" in out
    assert "verdict" in out
