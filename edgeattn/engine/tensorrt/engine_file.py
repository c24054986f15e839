"""A TensorRT engine's file: planned, or built, proven, and written with its manifest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from edgeattn.artifacts import Manifest, Parent, atomic_artifact, sha256_of_file, tool_versions
from edgeattn.engine.tensorrt.autotune import autotune_attention
from edgeattn.engine.tensorrt.build import TensorRtBuild, build_plan
from edgeattn.engine.tensorrt.build_report import describe_report, make_build_report
from edgeattn.engine.tensorrt.destination import Destination
from edgeattn.engine.tensorrt.gpu import identify_gpu
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.engine.tensorrt.lowering import LoweredForTensorRt, lower_for_tensorrt
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.tensorrt.plan import log_path
from edgeattn.engine.tensorrt.precision import PrecisionShares, check_required_precision
from edgeattn.engine.tensorrt.prepare import Prepared, prepare
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.engine.tensorrt.run import TensorRtEngine
from edgeattn.engine.typed import TypedGraph
from edgeattn.engine.variants import Variant
from edgeattn.engine.verified import require_verified
from edgeattn.errors import BuildError, EdgeAttnError
from edgeattn.graph.files import input_specs

Progress = Callable[[int, "int | None", str], None]

_log = logging.getLogger(__name__)


def build_engine(
    typed: TypedGraph,
    parents: Mapping[str, Parent],
    request: TensorRtRequest,
    where: Destination,
    *,
    output: Path,
    folder: Path,
    variants: tuple[Variant, ...] = (),
    verify: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build an engine, prove what it is, and write it with its manifest.

    What TensorRT said goes to a log beside the engine, whether it could be built or not.

    Args:
        typed: The graph to build from.
        parents: Files it was made from.
        request: What is asked for.
        where: What the engine is for: this machine.
        output: The engine to write.
        folder: Temporary folder on the same file system.
        variants: Forms of the graph to choose from instead, the preferred first.
        verify: Build it twice, and check it against the graph, the CPU and the second build.
        options: Options of the steps before, for the manifest.
        progress: Called with steps done, steps in all, and the step at hand.

    Returns:
        `output`.

    Raises:
        ArtifactError: If a file cannot be written.
        BuildError: If TensorRT cannot build it as asked, or it is not what was asked for.
        EngineError: If CUDA fails.
        GraphError: If the graph is malformed, or a weight is NaN or infinite.
        MissingDependencyError: If TensorRT or pycuda cannot be imported.
        PluginError: If the plugin library is missing or does not fit.
    """
    prepared = prepare(typed.model, parents, request, where)
    for fault in prepared.lowered.faults:
        _log.warning("TensorRT %s: %s", where.version, fault)
    log = CapturedLog()
    try:
        if variants:
            tuned = autotune_attention(
                variants,
                prepared.options,
                folder,
                version=where.version,
                progress=progress,
                log=log,
            )
            typed, variant = tuned.winner.variant.typed, tuned.winner.variant
            built, lowered = tuned.built.build, tuned.built.lowered
            found, given = {"autotune": tuned.to_dict()}, dict(options or {}) | variant.options
        else:
            plan, lowered = folder / output.name, prepared.lowered
            built = build_plan(lowered, prepared.options, plan, progress=progress, log=log)
            found, given = {}, dict(options or {})
    except EdgeAttnError as err:
        raise _with_log(err, log, output) from err
    log.write(log_path(output))
    report: dict[str, Any] = {"fusion": dict(typed.fusion)} if typed.fusion else {}
    report |= found | make_build_report(built, lowered, prepared.options.profiles)
    report |= {"gpu": asdict(identify_gpu(prepared.options.device))}
    report |= {"plugin": [_describe_plugin(path) for path in built.used_plugin_libraries]}
    if request.require_precision is not None:
        _require_precision(report, request.require_precision)
    manifest = _manifest(typed.model, parents, request, prepared, where, given, report)
    if verify:
        # Anew: a build moves the weights out of a graph that is too large for one file.
        again = lower_for_tensorrt(typed.model, lowered.version, way=lowered.way)
        checks = _verify(built, manifest, again, prepared.options, typed.file, progress)
        manifest = replace(manifest, report=report | {"verify": checks})
    with atomic_artifact(output, manifest) as (plan,):
        built.plan.replace(plan)
    return output


def _with_log(err: EdgeAttnError, log: CapturedLog, output: Path) -> EdgeAttnError:
    """Keep what TensorRT said before a build failed, and tell where."""
    if not log.lines:
        return err
    log.write(log_path(output))
    hint = f"{err.hint}; all that TensorRT said is in {log_path(output)}".removeprefix("; ")
    return type(err)(err.message, hint)


def _require_precision(report: Mapping[str, Any], required: str) -> None:
    """Hold an engine to the precision that was required; what was built is told if it fails."""
    try:
        check_required_precision(PrecisionShares.from_dict(report["precision"]), required)
    except BuildError:
        for line in describe_report(report):
            _log.info("%s", line)
        raise


def _describe_plugin(path: Path) -> dict[str, str]:
    return {"file": str(path), "sha256": sha256_of_file(path)}


def _manifest(
    model: onnx.ModelProto,
    parents: Mapping[str, Parent],
    request: TensorRtRequest,
    prepared: Prepared,
    where: Destination,
    given: Mapping[str, Any],
    report: dict[str, Any],
) -> Manifest:
    options = {
        **given,
        "engine": "tensorrt",
        "precision": prepared.lowered.precision,
        "inputs": [asdict(spec) for spec in input_specs(model)],
        "attention": "autotuned" if request.autotune_attention else request.attention,
        "are_shapes_exported": prepared.are_shapes_exported,
        "require_precision": request.require_precision,
        "tensorrt": prepared.options.to_dict(),
    }
    if where.target:
        options["target"] = where.target.name
    return Manifest(
        "engine",
        dict(parents),
        target="tensorrt",
        options=options,
        report=report,
        tools=tool_versions() | {"tensorrt": str(where.version)},
    )


def _verify(
    built: TensorRtBuild,
    manifest: Manifest,
    lowered: LoweredForTensorRt,
    options: TensorRtOptions,
    source: Path,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """Build it again, and check the engine against the graph, the CPU and the second build."""
    again = build_plan(lowered, options, built.plan.with_name("again.plan"), progress=progress)
    opened: dict[str, Any] = {
        "plugin": built.used_plugin_libraries[0] if built.used_plugin_libraries else None,
        "device": options.device,
    }
    first = options.profiles[0]
    shapes = [first.opt, *(each for each in (first.min, first.max) if each != first.opt)]
    with (
        TensorRtEngine(built.plan, manifest, **opened) as engine,
        TensorRtEngine(built.plan, manifest, cuda_graph=False, **opened) as without_graph,
        TensorRtEngine(again.plan, manifest, **opened) as second_build,
    ):
        return require_verified(
            engine,
            source,
            shapes=tuple(shapes),
            without_graph=without_graph,
            second_build=second_build,
            progress=progress,
        )
