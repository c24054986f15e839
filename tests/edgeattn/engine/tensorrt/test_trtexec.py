"""The trtexec line of a build, for the trtexec of the version."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeattn.engine.tensorrt.options import ImplicitInt8, ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.trtexec import trtexec_command
from edgeattn.engine.tensorrt.versions import TensorRtVersion

V10_3, V10_16, V11 = (TensorRtVersion.parse(text) for text in ("10.3.0.30", "10.16.1", "11.1"))
SHAPES = {"x": (1, 3, 8), "n": ()}
ONE = ShapeProfile(min=SHAPES, opt=SHAPES, max=SHAPES)

# What `trtexec --help` lists (samples/common/sampleOptions.cpp, releases 10.3, 10.16, 11.1).
BOTH = """
    onnx saveEngine skipInference dynamicPlugins setPluginsToSerialize minShapes optShapes maxShapes
    profile memPoolSize timingCacheFile builderOptimizationLevel avgTiming tacticSources
    maxAuxStreams profilingVerbosity hardwareCompatibilityLevel versionCompatible excludeLeanRuntime
    stripWeights refit noTF32 sparsity useDLACore allowGPUFallback device stronglyTyped
"""
ONLY_10_3 = "fp16 int8 calib"
SINCE = {"maxTactics": V10_16, "tilingOptimizationLevel": V10_16}


def command(version: TensorRtVersion, *profiles: ShapeProfile, plugin=None, **options) -> list[str]:
    wanted = TensorRtOptions(**options)
    wanted.check(version)
    return trtexec_command(
        Path("lowered.onnx"), Path("net.engine"), wanted, profiles, version, plugin
    )


EVERYTHING = {
    "workspace_mib": 512,
    "pools": {"tactic_shared_memory": 0.046875, "tactic_dram": 9},
    "timing_cache": Path("net.timing"),
    "optimization_level": 0,
    "avg_timing": 4,
    "tactic_sources": ("JIT_CONVOLUTIONS",),
    "hardware_compatibility": "ampere+",
    "version_compatible": True,
    "exclude_lean_runtime": True,
    "strip_weights": True,
    "refit": True,
    "embed_plugin": True,
    "tf32": False,
    "max_aux_streams": 0,
    "profiling_verbosity": "none",
    "sparsity": True,
    "device": 1,
}


def test_every_option_has_its_word():
    found = command(V11, ONE, plugin=Path("/p.so"), **EVERYTHING, max_tactics=7, tiling="full")
    assert found == [
        "trtexec",
        "--onnx=lowered.onnx",
        "--saveEngine=net.engine",
        "--skipInference",
        "--noTF32",
        "--sparsity=enable",
        "--dynamicPlugins=/p.so",
        "--setPluginsToSerialize=/p.so",
        "--minShapes=x:1x3x8,n:scalar",
        "--optShapes=x:1x3x8,n:scalar",
        "--maxShapes=x:1x3x8,n:scalar",
        "--memPoolSize=workspace:512,tacticSharedMem:0.046875",
        "--timingCacheFile=net.timing",
        "--builderOptimizationLevel=0",
        "--maxTactics=7",
        "--avgTiming=4",
        "--tacticSources=-EDGE_MASK_CONVOLUTIONS,+JIT_CONVOLUTIONS",
        "--tilingOptimizationLevel=3",
        "--maxAuxStreams=0",
        "--profilingVerbosity=none",
        "--hardwareCompatibilityLevel=ampere+",
        "--versionCompatible",
        "--excludeLeanRuntime",
        "--stripWeights",
        "--refit",
        "--device=1",
    ]


def test_the_shortest_line_says_what_differs_from_trtexecs_defaults():
    assert command(V10_3) == [
        "trtexec",
        "--onnx=lowered.onnx",
        "--saveEngine=net.engine",
        "--skipInference",
        "--stronglyTyped",
        "--avgTiming=1",
        "--profilingVerbosity=detailed",
    ]


def test_11_is_strongly_typed_without_being_told():
    assert "--stronglyTyped" in command(V10_16)
    assert "--stronglyTyped" not in command(V11)


def test_several_profiles_are_numbered():
    found = command(V10_3, ONE, ShapeProfile(min={"x": (1,)}, opt={"x": (2,)}, max={"x": (3,)}))
    at = found.index("--profile=1")
    assert found[at - 4 : at + 4] == [
        "--profile=0",
        "--minShapes=x:1x3x8,n:scalar",
        "--optShapes=x:1x3x8,n:scalar",
        "--maxShapes=x:1x3x8,n:scalar",
        "--profile=1",
        "--minShapes=x:1",
        "--optShapes=x:2",
        "--maxShapes=x:3",
    ]


def test_dla_and_int8_of_tensorrt_10_are_weakly_typed():
    found = command(V10_3, dla_core=1, allow_gpu_fallback=True)
    assert "--stronglyTyped" not in found
    assert {"--fp16", "--useDLACore=1", "--allowGPUFallback"} <= set(found)
    int8 = ImplicitInt8("images/", cache=Path("scales.cache"))
    found = command(V10_3, implicit_int8=int8)
    assert {"--int8", "--calib=scales.cache"} <= set(found)
    assert "--fp16" not in found
    assert "--fp16" in command(V10_3, implicit_int8=ImplicitInt8("images/", fp16=True))


@pytest.mark.parametrize("version", [V10_3, V10_16, V11], ids=str)
def test_each_word_is_one_of_trtexecs(version):
    options = dict(EVERYTHING)
    if version.has_max_num_tactics:
        options["max_tactics"] = 7
    if version.has_tiling:
        options["tiling"] = "fast"
    if version.has_calibrators:
        options["implicit_int8"] = ImplicitInt8("images/", cache=Path("c"), fp16=True)
    found = command(version, ONE, plugin=Path("/p.so"), **options)
    known = set(BOTH.split())
    known |= set(ONLY_10_3.split()) if version.major == 10 else set()
    known |= {word for word, since in SINCE.items() if version >= since}
    used = {word.removeprefix("--").partition("=")[0] for word in found[1:]}
    assert used <= known
