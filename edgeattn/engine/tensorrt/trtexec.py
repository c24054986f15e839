"""The trtexec command that builds the same engine, for whoever wants to see it without edgeattn.

References:
    NVIDIA/TensorRT, samples/common/sampleOptions.cpp: the help texts of releases 10.3, 10.16, 11.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeattn.engine.tensorrt.options import (
    POOLS,
    ShapeProfile,
    TensorRtOptions,
    all_tactic_sources,
)
from edgeattn.engine.tensorrt.versions import TensorRtVersion

_HARDWARE = {"ampere+": "ampere+", "same_compute_capability": "sameComputeCapability"}
_VERBOSITY = {"detailed": "detailed", "layer_names": "layer_names_only", "none": "none"}
_TILING = {"none": 0, "fast": 1, "moderate": 2, "full": 3}  # trtexec takes numbers


def trtexec_command(
    onnx: Path,
    engine: Path,
    options: TensorRtOptions,
    profiles: Sequence[ShapeProfile],
    version: TensorRtVersion,
    plugin: Path | None = None,
) -> list[str]:
    """Write the trtexec command that stands for a build.

    What trtexec has no word for is left out: the data of implicit INT8, which it reads from a cache
    alone, and the pool `tactic_dram`.

    Args:
        onnx: The lowered graph.
        engine: The plan to write.
        options: Of the build.
        profiles: Ranges of shapes, whole; none for a graph without free dimensions, where trtexec
            refuses shapes.
        version: Of the trtexec.
        plugin: The plugin library; `None` if the graph needs none.

    Returns:
        The program and its arguments.
    """
    command = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", "--skipInference"]
    command += _precision(options, version)
    if plugin is not None:
        command.append(f"--dynamicPlugins={plugin}")
        if options.embed_plugin:
            command.append(f"--setPluginsToSerialize={plugin}")
    command += _shapes(profiles)
    command += _pools(options)
    if options.timing_cache is not None:
        command.append(f"--timingCacheFile={options.timing_cache}")
    command += _search(options, version)
    command += _plan(options)
    if options.dla_core is not None:
        command.append(f"--useDLACore={options.dla_core}")
        if options.allow_gpu_fallback:
            command.append("--allowGPUFallback")
    if options.device:
        command.append(f"--device={options.device}")
    return command


def _precision(options: TensorRtOptions, version: TensorRtVersion) -> list[str]:
    flags = []
    if options.is_strongly_typed(version):
        if not version.is_always_strongly_typed:
            flags.append("--stronglyTyped")
    else:
        if options.dla_core is not None or (options.implicit_int8 and options.implicit_int8.fp16):
            flags.append("--fp16")
        if options.implicit_int8:
            flags.append("--int8")
            if options.implicit_int8.cache is not None:
                flags.append(f"--calib={options.implicit_int8.cache}")
    if not options.tf32:
        flags.append("--noTF32")
    if options.sparsity:
        flags.append("--sparsity=enable")
    return flags


def _shapes(profiles: Sequence[ShapeProfile]) -> list[str]:
    flags = []
    for index, profile in enumerate(profiles):
        if len(profiles) > 1:
            flags.append(f"--profile={index}")
        for kind in ("min", "opt", "max"):
            flags.append(f"--{kind}Shapes={_shape_list(getattr(profile, kind))}")
    return flags


def _shape_list(shapes: Mapping[str, Sequence[int]]) -> str:
    return ",".join(
        f"{name}:{'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items()
    )


def _pools(options: TensorRtOptions) -> list[str]:
    sizes = {} if options.workspace_mib is None else {"workspace": float(options.workspace_mib)}
    sizes |= {POOLS[name]: float(mib) for name, mib in options.pools.items() if POOLS[name]}
    listed = ",".join(f"{pool}:{mib:.12g}" for pool, mib in sizes.items())
    return [f"--memPoolSize={listed}"] if listed else []


def _search(options: TensorRtOptions, version: TensorRtVersion) -> list[str]:
    """How long and where to look for the fastest algorithms."""
    flags = []
    if options.optimization_level is not None:
        flags.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.max_tactics is not None:
        flags.append(f"--maxTactics={options.max_tactics}")
    # One run by default, as the builder itself; trtexec's own default is 8.
    flags.append(f"--avgTiming={options.avg_timing or 1}")
    if options.tactic_sources is not None:
        changes = [
            f"{'+' if source in options.tactic_sources else '-'}{source}"
            for source in all_tactic_sources(version)
        ]
        flags.append(f"--tacticSources={','.join(changes)}")
    if options.tiling is not None:
        flags.append(f"--tilingOptimizationLevel={_TILING[options.tiling]}")
    if options.max_aux_streams is not None:
        flags.append(f"--maxAuxStreams={options.max_aux_streams}")
    return flags


def _plan(options: TensorRtOptions) -> list[str]:
    """What the plan holds, and where it runs."""
    flags = [f"--profilingVerbosity={_VERBOSITY[options.profiling_verbosity]}"]
    if options.hardware_compatibility != "none":
        flags.append(f"--hardwareCompatibilityLevel={_HARDWARE[options.hardware_compatibility]}")
    for wanted, flag in (
        (options.version_compatible, "--versionCompatible"),
        (options.exclude_lean_runtime, "--excludeLeanRuntime"),
        (options.strip_weights, "--stripWeights"),
        (options.refit, "--refit"),
    ):
        if wanted:
            flags.append(flag)
    return flags
