"""Options of a build as they reach TensorRT, on NVIDIA's real enums.

What needs TensorRT itself is played by `tests.tensorrt_builder_double`, which takes no attribute
that the real class of this version has not.
"""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest
import tensorrt as trt

from edgeattn.engine.tensorrt.build import build_plan
from edgeattn.engine.tensorrt.options import ImplicitInt8, TensorRtOptions
from edgeattn.engine.tensorrt.versions import installed_version
from edgeattn.errors import BuildError
from tests.tensorrt_builder_double import flags
from tests.tensorrt_builds import PROFILE, build, lowered

VERSION = installed_version()


def test_the_default_asks_for_full_verbosity_and_leaves_the_rest_to_tensorrt(script, tmp_path):
    build(tmp_path)
    config = script.config
    assert script.config._flags == flags("TF32")
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    for name in ("builder_optimization_level", "max_num_tactics", "plugins_to_serialize"):
        assert not hasattr(config, name)
    assert config._tactics is None
    for name in ("engine_host_code_allowed", "DLA_core"):
        assert not hasattr(script.runtime, name)


def test_each_option_reaches_its_name(script, tmp_path):
    options = TensorRtOptions(
        profiles=(PROFILE,),
        workspace_mib=512,
        pools={"tactic_shared_memory": 0.046875, "tactic_dram": 100},
        optimization_level=0,
        avg_timing=4,
        tactic_sources=("JIT_CONVOLUTIONS",),
        hardware_compatibility="ampere+",
        version_compatible=True,
        exclude_lean_runtime=True,
        strip_weights=True,
        refit=True,
        tf32=False,
        max_aux_streams=0,
        profiling_verbosity="layer_names",
        sparsity=True,
    )
    build(tmp_path, options)
    config = script.config
    assert script.config._flags == flags(
        "VERSION_COMPATIBLE",
        "EXCLUDE_LEAN_RUNTIME",
        "STRIP_PLAN",
        "REFIT",
        "SPARSE_WEIGHTS",
    )
    assert config._pools == {
        trt.MemoryPoolType.WORKSPACE: 512 << 20,
        trt.MemoryPoolType.TACTIC_SHARED_MEMORY: 48 << 10,
        trt.MemoryPoolType.TACTIC_DRAM: 100 << 20,
    }
    assert config.builder_optimization_level == 0
    assert config.avg_timing_iterations == 4
    assert config.max_aux_streams == 0
    assert config._tactics == 1 << int(trt.TacticSource.JIT_CONVOLUTIONS)
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.profiling_verbosity == trt.ProfilingVerbosity.LAYER_NAMES_ONLY


@pytest.mark.parametrize(
    ("asked", "has", "read"),
    [
        ({"max_tactics": 5}, "has_max_num_tactics", lambda c: c.max_num_tactics == 5),
        (
            {"tiling": "moderate"},
            "has_tiling",
            lambda c: c.tiling_optimization_level == trt.TilingOptimizationLevel.MODERATE,
        ),
        (
            {"hardware_compatibility": "same_compute_capability"},
            "has_same_compute_capability",
            lambda c: c.hardware_compatibility_level.name == "SAME_COMPUTE_CAPABILITY",
        ),
        ({"dla_core": 1}, "has_dla", lambda c: c.DLA_core == 1),
        (
            {"tactic_sources": ("CUDNN",)},
            "has_weak_typing",
            lambda c: c._tactics == 1 << int(trt.TacticSource.CUDNN),
        ),
    ],
)
def test_what_only_some_versions_have_is_set_there_and_refused_elsewhere(
    asked, has, read, script, tmp_path
):
    script.dla_cores = 2
    options = TensorRtOptions(profiles=(PROFILE,), **asked)
    if getattr(VERSION, has):
        build(tmp_path, options)
        assert read(script.config)
        return
    with pytest.raises(BuildError, match=rf"TensorRT {re.escape(str(VERSION))} (cannot|has no)"):
        build(tmp_path, options)
    assert script.calls == []


def test_libraries_of_tensorrts_own_go_into_a_version_compatible_engine(script, tmp_path, caplog):
    script.used_libraries = ["/usr/lib/libnvinfer_vc_plugin.so"]
    build(tmp_path, TensorRtOptions(profiles=(PROFILE,), version_compatible=True))
    assert script.config.plugins_to_serialize == ["/usr/lib/libnvinfer_vc_plugin.so"]
    assert script.calls.index("library libnvinfer_vc_plugin.so") < script.calls.index("build")
    assert script.runtime.engine_host_code_allowed is True
    script.nothing.add("used_libraries")
    with caplog.at_level(logging.WARNING):
        build(tmp_path, TensorRtOptions(profiles=(PROFILE,), version_compatible=True))
    assert "does not tell which of its libraries" in caplog.text


def test_without_the_lean_runtime_they_are_named_for_whoever_loads_the_engine(
    script, tmp_path, caplog
):
    script.used_libraries = ["/usr/lib/libnvinfer_vc_plugin.so"]
    script.refuses = {"own library"}
    options = TensorRtOptions(
        profiles=(PROFILE,), version_compatible=True, exclude_lean_runtime=True
    )
    with caplog.at_level(logging.INFO):
        build(tmp_path, options)
    assert not hasattr(script.config, "plugins_to_serialize")
    assert "has to load /usr/lib/libnvinfer_vc_plugin.so before it" in caplog.text
    assert "did not load /usr/lib/libnvinfer_vc_plugin.so" in caplog.text


# Weak typing: DLA, and INT8 of TensorRT's own


def test_dla_of_tensorrt_10_takes_types_as_it_likes(script, tmp_path):
    if not VERSION.has_dla:
        return
    script.dla_cores = 2
    options = TensorRtOptions(profiles=(PROFILE,), dla_core=1, allow_gpu_fallback=True)
    build(tmp_path, options)
    assert script.config._flags == flags(
        "TF32", "FP16", "PREFER_PRECISION_CONSTRAINTS", "GPU_FALLBACK"
    )
    assert script.config.default_device_type == trt.DeviceType.DLA
    assert script.runtime.DLA_core == 1
    assert "network 0" in script.calls
    script.dla_cores = 1
    with pytest.raises(BuildError, match="there is no DLA core 1 here: TensorRT sees 1"):
        build(tmp_path, options)


def test_implicit_int8_hands_every_batch_to_tensorrt_10(script, tmp_path):
    data = np.ones((9, 5), np.float32)
    options = TensorRtOptions(profiles=(PROFILE,), implicit_int8=ImplicitInt8(data))
    if not VERSION.has_calibrators:
        with pytest.raises(BuildError, match="has no INT8 calibrators"):
            build(tmp_path, options)
        return
    build(tmp_path, options)
    assert script.calls.count("batch") == 2
    assert script.config._flags == flags("TF32", "INT8")
    assert "network 0" in script.calls
    assert script.config._calibration_profile is script.config._profiles[0]
    assert isinstance(script.config.int8_calibrator, trt.IInt8EntropyCalibrator2)


def test_a_graph_with_int8_in_it_is_refused_where_tensorrt_could_not_use_it(script, tmp_path):
    if not VERSION.has_calibrators:
        return
    graph = lowered()
    object.__setattr__(graph, "precision", "int8+fp16")
    options = TensorRtOptions(
        profiles=(PROFILE,), implicit_int8=ImplicitInt8(np.ones((8, 5), np.float32))
    )
    with pytest.raises(BuildError, match="has its INT8 in Q/DQ nodes"):
        build_plan(graph, options, tmp_path / "net.engine")
