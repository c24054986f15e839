"""The options of TensorRT, in groups; a verb gets them as one argument.

Each is also accepted as trtexec spells it, so that a command line that works there works here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from edgeattn.cli.options import FILE, Function, GroupedOption, given_options
from edgeattn.cli.tensorrt_arguments import (
    POOLS,
    build_request,
    parse_pools,
    parse_profiles,
    parse_sources,
    refuse,
    run_options,
)


def _option(group: str, *spellings: str, **attributes: Any) -> Callable[[Function], Function]:
    return click.option(*spellings, cls=GroupedOption, group=group, **attributes)


_TITLE = "TensorRT"
_SHAPES, _ATTENTION, _PRECISION, _MEMORY, _WHERE, _PLAN = (
    f"{_TITLE}, {title}"
    for title in (
        "shapes",
        "attention",
        "precision",
        "memory and build time",
        "where the engine runs",
        "dry run and proof",
    )
)
_SHAPE = "NAME:1x3x224x224"

_SHAPE_OPTIONS = (
    _option(
        _SHAPES,
        *("--min-shapes", "--minShapes", "min_shapes"),
        multiple=True,
        metavar=_SHAPE,
        callback=parse_profiles,
        help="Smallest shapes of inputs that the graph leaves open. Several inputs with commas; "
        "an input named again begins the next optimization profile.",
    ),
    _option(
        _SHAPES,
        *("--opt-shapes", "--optShapes", "opt_shapes"),
        multiple=True,
        metavar=_SHAPE,
        callback=parse_profiles,
        help="Shapes that TensorRT tunes for. Alone they are the only ones.",
    ),
    _option(
        _SHAPES,
        *("--max-shapes", "--maxShapes", "max_shapes"),
        multiple=True,
        metavar=_SHAPE,
        callback=parse_profiles,
        help="Largest shapes: they decide the memory that the engine takes.",
    ),
    _option(
        _SHAPES,
        *("--shapes", "fixed_shapes"),
        multiple=True,
        metavar=_SHAPE,
        callback=parse_profiles,
        help="Smallest, tuned and largest in one.",
    ),
)
_WAY_OPTION = _option(
    _ATTENTION,
    "--attention",
    type=click.Choice(["plugin", "native", "attention"]),
    default="plugin",
    show_default=True,
    help="What computes it: our plugin; standard operators, which TensorRT may fuse; or "
    "ONNX's Attention operator (TensorRT 10.14 and later).",
)
_PLUGIN_OPTION = _option(
    _ATTENTION,
    *("--plugin", "--dynamicPlugins", "--staticPlugins", "plugin"),
    type=FILE,
    help="The plugin library. Default: $EDGEATTN_PLUGIN_LIBRARY, else what `edgeattn plugin "
    "build` made for this GPU.",
)
_RELEASE_OPTIONS = (
    _option(_PLAN, "--jetpack", metavar="VERSION", help="The JetPack release that the board runs."),
    _option(
        _PLAN,
        *("--tensorrt-version", "tensorrt_version"),
        metavar="VERSION",
        help="Plan for this TensorRT, such as 10.3 or 11.1. Default: the JetPack's, else the one "
        "here.",
    ),
)
_TARGET_OPTIONS = (
    _option(
        _PLAN,
        "--target",
        metavar="BOARD",
        help="One of `edgeattn targets`. A dry run plans for it; a build makes sure that it is it.",
    ),
    *_RELEASE_OPTIONS,
)

# What any machine can be told.
_PORTABLE_OPTIONS = (
    *_SHAPE_OPTIONS,
    _WAY_OPTION,
    _option(
        _ATTENTION,
        *("--embed-plugin", "embed_plugin"),
        is_flag=True,
        help="Put the plugin library into the engine, which needs --version-compatible.",
    ),
    _option(
        _PRECISION,
        *("--require-precision", "require_precision"),
        metavar="PRECISION",
        help="int8, fp16, bf16, fp32 or several with +. Fail, and write no engine, unless every "
        "layer that has it in the graph is shown to compute in it.",
    ),
    _option(
        _PRECISION,
        *("--tf32/--no-tf32", " /--noTF32", "tf32"),
        default=True,
        show_default=True,
        help="Let FP32 matrix products round their inputs to TF32.",
    ),
    _option(
        _PRECISION,
        "--sparsity",
        type=click.Choice(["disable", "enable"]),
        default="disable",
        show_default=True,
        help="Try kernels for weights with two zeros in every four.",
    ),
    _option(
        _MEMORY,
        *("--workspace", "--workspace-mib", "workspace_mib"),
        type=click.IntRange(min=1),
        metavar="MIB",
        help="Scratch memory that a layer may use. Default: what is free, within reason.",
    ),
    _option(
        _MEMORY,
        *("--memory-pool", "--memPoolSize", "pools"),
        multiple=True,
        metavar="POOL:SIZE",
        callback=parse_pools,
        help=f"Any memory pool: {', '.join(POOLS)}; MiB, or with K, M or G.",
    ),
    _option(
        _MEMORY,
        *("--no-timing-cache", "no_timing_cache"),
        is_flag=True,
        help="Measure every kernel anew, and keep nothing.",
    ),
    _option(
        _MEMORY,
        *("--optimization-level", "--builderOptimizationLevel", "optimization_level"),
        type=click.IntRange(0, 5),
        metavar="0-5",
        help="How long to search. Default: TensorRT's, 3.",
    ),
    _option(
        _MEMORY,
        *("--max-tactics", "--maxTactics", "max_tactics"),
        type=click.IntRange(min=1),
        metavar="N",
        help="Most kernels to time for a layer (TensorRT 10.4 and later).",
    ),
    _option(
        _MEMORY,
        *("--avg-timing", "--avgTiming", "avg_timing"),
        type=click.IntRange(min=1),
        metavar="N",
        help="Runs to average when a kernel is timed.",
    ),
    _option(
        _MEMORY,
        *("--tactic-sources", "--tacticSources", "tactic_sources"),
        metavar="NAMES",
        callback=parse_sources,
        help="Where kernels may come from and nowhere else, with commas: "
        "EDGE_MASK_CONVOLUTIONS, JIT_CONVOLUTIONS; in TensorRT 10 also CUBLAS, CUBLAS_LT, CUDNN.",
    ),
    _option(
        _MEMORY,
        *("--tiling", "--tilingOptimizationLevel", "tiling"),
        type=click.Choice(["none", "fast", "moderate", "full"], case_sensitive=False),
        help="How long to search for tilings that stay in the L2 cache (TensorRT 10.8 and later).",
    ),
    _option(
        _MEMORY,
        *("--max-aux-streams", "--maxAuxStreams", "max_aux_streams"),
        type=click.IntRange(min=0),
        metavar="N",
        help="Streams that the engine may use beside its own; 0 takes the least memory.",
    ),
    _option(
        _WHERE,
        *("--hardware-compatibility", "--hardwareCompatibilityLevel", "hardware_compatibility"),
        type=click.Choice(["none", "ampere+", "sameComputeCapability"], case_sensitive=False),
        default="none",
        show_default=True,
        help="GPUs that shall run it besides this model.",
    ),
    _option(
        _WHERE,
        *("--version-compatible", "--versionCompatible", "--vc", "version_compatible"),
        is_flag=True,
        help="Let newer TensorRTs of the same major version run it, a little slower.",
    ),
    _option(
        _WHERE,
        *("--exclude-lean-runtime", "--excludeLeanRuntime", "exclude_lean_runtime"),
        is_flag=True,
        help="Leave the runtime out of a version-compatible engine.",
    ),
    _option(
        _WHERE,
        *("--strip-weights", "--stripWeights", "strip_weights"),
        is_flag=True,
        help="Write an engine without weights, to be refitted.",
    ),
    _option(_WHERE, "--refit", is_flag=True, help="Let weights be replaced later."),
    _option(
        _WHERE,
        *("--dla", "--dla-core", "--useDLACore", "dla_core"),
        type=click.IntRange(min=0),
        metavar="CORE",
        help="Run what it can on this deep learning accelerator (AGX Orin, Orin NX).",
    ),
    _option(
        _WHERE,
        *("--allow-gpu-fallback", "--allowGPUFallback", "allow_gpu_fallback"),
        is_flag=True,
        help="Run on the GPU what the accelerator cannot.",
    ),
    _option(
        _PLAN,
        *("--profiling-verbosity", "--profilingVerbosity", "profiling_verbosity"),
        type=click.Choice(["detailed", "layer_names_only", "none"], case_sensitive=False),
        default="detailed",
        show_default=True,
        help="What the engine knows about its layers; less than detailed proves less.",
    ),
    *(
        _option(_PLAN, name, is_flag=True, hidden=True, expose_value=False, callback=refuse)
        for name in ("--fp16", "--bf16", "--int8", "--best")
    ),
    *(
        _option(_PLAN, name, hidden=True, expose_value=False, callback=refuse)
        for name in ("--calib", "--layerPrecisions", "--precisionConstraints")
    ),
    # What we do anyway: networks are strongly typed, and a build measures nothing.
    *(
        _option(_PLAN, name, is_flag=True, hidden=True, expose_value=False)
        for name in ("--stronglyTyped", "--skipInference")
    ),
)
# A bundle carries that to a board; `build` has the flag for every engine.
_BUNDLE_OPTIONS = (
    *_PORTABLE_OPTIONS,
    _option(
        _ATTENTION,
        *("--autotune-attention", "autotune_attention"),
        is_flag=True,
        help="Build each of these ways, time them, keep the fastest and report all.",
    ),
)
_OPTIONS = (
    *_PORTABLE_OPTIONS,
    # What names files of one machine, or the machine itself.
    _PLUGIN_OPTION,
    _option(
        _ATTENTION,
        *("--setPluginsToSerialize", "serialized_plugin"),
        type=FILE,
        hidden=True,
        help="trtexec's form of --plugin with --embed-plugin.",
    ),
    _option(
        _PRECISION,
        *("--implicit-int8", "data"),
        metavar="DATA",
        help="INT8 by TensorRT's own calibration on this data, as `edgeattn calibrate` takes it, "
        "for a graph without Q/DQ. TensorRT 10 only.",
    ),
    _option(
        _PRECISION,
        "--calibrator",
        type=click.Choice(["entropy", "minmax"]),
        help="TensorRT's method for --implicit-int8. Default: entropy, the one that DLA takes.",
    ),
    _option(
        _PRECISION,
        *("--calibration-samples", "samples"),
        type=click.IntRange(min=1),
        metavar="N",
        help="Most samples for --implicit-int8.",
    ),
    _option(
        _PRECISION,
        *("--calibration-cache", "cache"),
        type=FILE,
        help="File that keeps the scales of --implicit-int8.",
    ),
    _option(
        _PRECISION,
        *("--implicit-fp16", "implicit_fp16"),
        is_flag=True,
        help="With --implicit-int8: what does not run in INT8 may run in FP16.",
    ),
    _option(
        _MEMORY,
        *("--timing-cache", "--timingCacheFile", "timing_cache"),
        type=FILE,
        help="File of measured kernels that builds share. Default: one per GPU and version under "
        "~/.cache/edgeattn.",
    ),
    _option(
        _WHERE,
        "--device",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="The GPU to build on and for.",
    ),
    *_TARGET_OPTIONS,
    _option(
        _PLAN,
        *("--save-lowered", "lowered_graph"),
        type=FILE,
        help="Write the ONNX graph that TensorRT's parser gets, in a dry run too: trtexec and bug "
        "reports want it.",
    ),
)


def tensorrt_options(function: Function) -> Function:
    """Give a verb the options of a TensorRT build.

    It gets them as one argument, `tensorrt`: a `TensorRtRequest`, or `None` if the user set none.
    """
    return _with_options(function, _OPTIONS, build_request)


def tensorrt_check_options(function: Function) -> Function:
    """Give a verb the options that say what a graph would be built for, and with which shapes.

    It gets them as `tensorrt_options` gives them.
    """
    target = _option(
        _PLAN,
        "--target",
        metavar="BOARD",
        help="The board, one of `edgeattn targets`. Default: this machine, if it has TensorRT.",
    )
    plugin = _option(
        _ATTENTION,
        *("--plugin", "--dynamicPlugins", "--staticPlugins", "plugin"),
        type=FILE,
        help="A plugin library, to be held against the board and the graph.",
    )
    options = (target, *_RELEASE_OPTIONS, *_SHAPE_OPTIONS, _WAY_OPTION, plugin)
    return _with_options(function, options, build_request)


def tensorrt_bundle_options(function: Function) -> Function:
    """Give a verb the options of a build that is done elsewhere, by somebody else.

    It gets them as `tensorrt_options` gives them.
    """
    return _with_options(function, _BUNDLE_OPTIONS, build_request)


_RUNNING = f"{_TITLE}, running"

_RUN_OPTIONS = (
    _option(
        _RUNNING,
        *("--plugin", "--dynamicPlugins", "--staticPlugins", "plugin"),
        type=FILE,
        help="The plugin library. Default: the one that the engine was built with.",
    ),
    _option(
        _RUNNING,
        "--device",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="The GPU to run on.",
    ),
    _option(
        _RUNNING,
        *("--cuda-graph/--no-cuda-graph", "--useCudaGraph/--noCudaGraph", "cuda_graph"),
        default=True,
        show_default=True,
        help="Launch a query as one CUDA graph.",
    ),
    _option(
        _RUNNING,
        *("--shape-profile", "--useProfile", "profile_index"),
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Which of the engine's optimization profiles to use.",
    ),
    _option(
        _RUNNING,
        *("--zero-copy/--no-zero-copy", "zero_copy"),
        default=None,
        help="Let the GPU work in the host's memory. Default: where it has no other, as on a "
        "Jetson.",
    ),
)


def tensorrt_run_options(function: Function) -> Function:
    """Give a verb the options for running a TensorRT engine.

    It gets them as one argument, `tensorrt`: a `TensorRtRunOptions`, or `None` if the user set
    none.
    """
    return _with_options(function, _RUN_OPTIONS, run_options)


def _with_options(
    function: Function,
    options: Sequence[Callable[[Any], Any]],
    gather: Callable[[dict[str, Any]], Any],
) -> Function:
    """Add options to a command that gets them as one argument, made of those that are given."""

    @functools.wraps(function)
    def gathered(*args: Any, **values: Any) -> Any:
        return function(*args, tensorrt=gather(given_options(values, _TITLE)), **values)

    decorated: Any = gathered
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
