"""The options of a build, in TensorRT's own terms: its `IBuilderConfig`.

Every value that TensorRT may refuse in silence is read back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeattn.engine.tensorrt.failures import build_error
from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.engine.tensorrt.network import ParsedNetwork
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError

if TYPE_CHECKING:
    import tensorrt

_MIB = 1 << 20


def make_config(
    builder: tensorrt.Builder,
    options: TensorRtOptions,
    version: TensorRtVersion,
    log: CapturedLog,
    *,
    workspace_bytes: int | None = None,
    embedded: Sequence[str] = (),
) -> tensorrt.IBuilderConfig:
    """Make the configuration of a build, all but its profiles, timings, monitor and calibrator.

    Args:
        builder: Makes it.
        options: What was asked for; checked against the version before.
        version: Of the TensorRT that builds.
        log: Where TensorRT says what it refuses.
        workspace_bytes: Limit of the workspace; `None` for TensorRT's own.
        embedded: Libraries that the engine shall carry.

    Raises:
        BuildError: If TensorRT refuses a value, or there is no such DLA core.
    """
    began = log.now()
    config = builder.create_builder_config()
    if config is None:
        raise build_error("TensorRT made no configuration", log, since=began)
    _set_pools(config, options, workspace_bytes, log)
    _set_search(config, options, version, log)
    _set_types(config, options, version)
    _set_plan(config, options, version, embedded)
    if options.dla_core is not None:
        _set_dla(builder, config, options, options.dla_core)
    return config


def add_profiles(
    builder: tensorrt.Builder,
    config: tensorrt.IBuilderConfig,
    parsed: ParsedNetwork,
    profiles: Sequence[ShapeProfile],
    log: CapturedLog,
) -> list[tensorrt.IOptimizationProfile]:
    """Give a configuration the ranges of shapes, where the network has free dimensions.

    Args:
        builder: Makes TensorRT's profiles.
        config: Gets them.
        parsed: The network.
        profiles: Whole ones.
        log: Where TensorRT says what it refuses.

    Returns:
        What was added: nothing for a network whose sizes are all fixed.

    Raises:
        BuildError: If TensorRT refuses a profile.
    """
    inputs = list(parsed.inputs())
    if not any(tensor.is_shape_tensor or -1 in tuple(tensor.shape) for tensor in inputs):
        return []
    added = []
    for index, shapes in enumerate(profiles):
        began = log.now()
        profile = builder.create_optimization_profile()
        if profile is None:
            raise build_error("TensorRT made no optimization profile", log, since=began)
        for tensor in inputs:
            _set_shapes(profile, tensor, shapes, index)
        if not profile or config.add_optimization_profile(profile) < 0:
            raise build_error(
                f"TensorRT refused the optimization profile {index}: {_text(shapes)}",
                log,
                since=began,
            )
        added.append(profile)
    return added


def _set_shapes(
    profile: tensorrt.IOptimizationProfile,
    tensor: tensorrt.ITensor,
    shapes: ShapeProfile,
    index: int,
) -> None:
    name = tensor.name
    if name not in shapes.opt:
        raise BuildError(
            f"TensorRT's network has an input {name} that the graph has not",
            "this is an error of edgeattn: please report it with the graph",
        )
    smallest, best, largest = shapes.min[name], shapes.opt[name], shapes.max[name]
    try:
        if tensor.is_shape_tensor:
            profile.set_shape_input(name, list(smallest), list(best), list(largest))
        else:
            profile.set_shape(name, smallest, best, largest)
    except ValueError as err:
        raise BuildError(
            f"TensorRT refused the range of the input {name} in the optimization profile {index}, "
            f"{_text(shapes)}: {err}",
            "give min <= opt <= max; of a shape tensor give its values",
        ) from err


def _set_pools(
    config: tensorrt.IBuilderConfig,
    options: TensorRtOptions,
    workspace_bytes: int | None,
    log: CapturedLog,
) -> None:
    trt = import_tensorrt()
    kinds: Mapping[str, tensorrt.MemoryPoolType] = {
        "workspace": trt.MemoryPoolType.WORKSPACE,
        "dla_managed_sram": trt.MemoryPoolType.DLA_MANAGED_SRAM,
        "dla_local_dram": trt.MemoryPoolType.DLA_LOCAL_DRAM,
        "dla_global_dram": trt.MemoryPoolType.DLA_GLOBAL_DRAM,
        "tactic_dram": trt.MemoryPoolType.TACTIC_DRAM,
        "tactic_shared_memory": trt.MemoryPoolType.TACTIC_SHARED_MEMORY,
    }
    sizes = {name: int(mib * _MIB) for name, mib in options.pools.items()}
    if workspace_bytes is not None:
        sizes["workspace"] = workspace_bytes
    for name, size in sizes.items():
        began = log.now()
        config.set_memory_pool_limit(kinds[name], size)
        # A size that it does not like changes nothing (header 10.16).
        got = config.get_memory_pool_limit(kinds[name])
        if got != size:
            raise build_error(
                f"TensorRT refused {size} bytes for the memory pool {name} and kept {got}",
                log,
                since=began,
            )


def _set_search(
    config: tensorrt.IBuilderConfig,
    options: TensorRtOptions,
    version: TensorRtVersion,
    log: CapturedLog,
) -> None:
    """Say how long and where to look for the fastest algorithms."""
    trt = import_tensorrt()
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.avg_timing is not None:
        config.avg_timing_iterations = options.avg_timing
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
    if version.has_max_num_tactics and options.max_tactics is not None:
        config.max_num_tactics = options.max_tactics
    if version.has_tiling and options.tiling is not None:
        config.tiling_optimization_level = {
            "none": trt.TilingOptimizationLevel.NONE,
            "fast": trt.TilingOptimizationLevel.FAST,
            "moderate": trt.TilingOptimizationLevel.MODERATE,
            "full": trt.TilingOptimizationLevel.FULL,
        }[options.tiling]
    if options.tactic_sources is not None:
        bits = 0
        for name in options.tactic_sources:
            bits |= 1 << int(getattr(trt.TacticSource, name))
        began = log.now()
        if not config.set_tactic_sources(bits):
            names = ", ".join(options.tactic_sources) or "none"
            raise build_error(f"TensorRT refused the tactic sources {names}", log, since=began)


def _set_types(
    config: tensorrt.IBuilderConfig, options: TensorRtOptions, version: TensorRtVersion
) -> None:
    trt = import_tensorrt()
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.sparsity:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if version.has_weak_typing and not options.is_strongly_typed(version):
        wanted = options.implicit_int8
        if options.dla_core is not None or (wanted is not None and wanted.fp16):
            config.set_flag(trt.BuilderFlag.FP16)
        if options.dla_core is not None:  # as trtexec 10.3 does for DLA
            config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
        if wanted is not None:
            config.set_flag(trt.BuilderFlag.INT8)


def _set_plan(
    config: tensorrt.IBuilderConfig,
    options: TensorRtOptions,
    version: TensorRtVersion,
    embedded: Sequence[str],
) -> None:
    """Say what the plan holds, and where it runs."""
    trt = import_tensorrt()
    config.profiling_verbosity = {
        "detailed": trt.ProfilingVerbosity.DETAILED,
        "layer_names": trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
        "none": trt.ProfilingVerbosity.NONE,
    }[options.profiling_verbosity]
    if options.hardware_compatibility == "ampere+":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if (
        version.has_same_compute_capability
        and options.hardware_compatibility == "same_compute_capability"
    ):
        level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        config.hardware_compatibility_level = level
    for wanted, flag in (
        (options.version_compatible, trt.BuilderFlag.VERSION_COMPATIBLE),
        (options.exclude_lean_runtime, trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME),
        (options.refit, trt.BuilderFlag.REFIT),
        # Alone it implies REFIT_IDENTICAL (trtexec 11.1, sampleEngines.cpp).
        (options.strip_weights, trt.BuilderFlag.STRIP_PLAN),
    ):
        if wanted:
            config.set_flag(flag)
    if embedded:
        config.plugins_to_serialize = list(embedded)


def _set_dla(
    builder: tensorrt.Builder,
    config: tensorrt.IBuilderConfig,
    options: TensorRtOptions,
    core: int,
) -> None:
    trt = import_tensorrt()
    count = builder.num_DLA_cores
    if core >= count:  # TensorRT would build for the GPU (header, setDLACore)
        raise BuildError(
            f"there is no DLA core {core} here: TensorRT sees {count}",
            "Jetson AGX Orin and Orin NX have two, Orin Nano has none; leave --dla-core out",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    if options.allow_gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _text(shapes: ShapeProfile) -> str:
    return ", ".join(
        f"{name} "
        + " to ".join(
            "x".join(map(str, kind[name])) for kind in (shapes.min, shapes.opt, shapes.max)
        )
        for name in shapes.opt
    )
