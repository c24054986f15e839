"""Our plugin or TensorRT's own attention? Build both, time both, keep the faster.

So too for what is to be attention nodes at all: a graph of somebody else may be fastest as it is
written.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeattn.artifacts import Manifest
from edgeattn.calibration.random_samples import random_array
from edgeattn.engine.autotune import Autotuned, Candidate, Figures, Question, Time, compete
from edgeattn.engine.base import Engine
from edgeattn.engine.reference import Reference
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.engine.tensorrt.lowering import AttentionWay, LoweredForTensorRt, lower_for_tensorrt
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.tensorrt.profiles import resolve_profiles
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.engine.variants import Variant, as_written
from edgeattn.errors import EngineError
from edgeattn.graph.files import input_specs

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.build import TensorRtBuild

Progress = Callable[[int, "int | None", str], None]
Build = Callable[
    [LoweredForTensorRt, TensorRtOptions, Path, "Progress | None", "CapturedLog | None"],
    "TensorRtBuild",
]
Open = Callable[
    ["TensorRtBuild", LoweredForTensorRt, TensorRtOptions], AbstractContextManager[Engine]
]

_FORMS = {"windows": "", "everything": ", global too", "as written": ", as written"}


@dataclass(frozen=True)
class BuiltWay:
    """One engine in the race.

    Attributes:
        lowered: Its graph.
        build: What TensorRT made of it.
    """

    lowered: LoweredForTensorRt
    build: TensorRtBuild


def tensorrt_candidates(
    variants: tuple[Variant, ...], version: TensorRtVersion
) -> tuple[Candidate, ...]:
    """List the engines to try, the preferred first: where two are equally fast, it is kept.

    The plugin for each form of the graph that has attention nodes, standard operators for the first
    of these and for the graph as it is written, ONNX's Attention where this TensorRT has it. The
    preferred form comes first also where nothing is fused in it.

    Args:
        variants: Forms of the graph, the preferred first.
        version: The TensorRT at hand.
    """
    fused = [variant for variant in variants if variant.has_attention]
    plain = [variant for variant in variants if not variant.has_attention]
    ways: list[tuple[AttentionWay, Variant]] = [("plugin", variant) for variant in fused]
    ways += [("native", variant) for variant in (*fused[:1], *plain)]
    if version.has_attention_operator:
        ways += [("attention", variant) for variant in fused[:1]]
    if plain and plain[0] is variants[0]:
        ways.sort(key=lambda way: way[1] is not plain[0])
    return tuple(Candidate(way + _form(variant, variants), variant, way) for way, variant in ways)


def _form(variant: Variant, variants: tuple[Variant, ...]) -> str:
    """Name a form of the graph after what sets it apart; nothing does where it is alone."""
    if len(variants) == 1:
        return ""
    return _FORMS[variant.name if variant.is_fused else "as written"]


def build_way(
    lowered: LoweredForTensorRt,
    options: TensorRtOptions,
    plan: Path,
    progress: Progress | None,
    log: CapturedLog | None,
) -> TensorRtBuild:
    """Build one engine with TensorRT."""
    from edgeattn.engine.tensorrt.build import build_plan

    return build_plan(lowered, options, plan, progress=progress, log=log)


def open_way(
    built: TensorRtBuild, lowered: LoweredForTensorRt, options: TensorRtOptions
) -> AbstractContextManager[Engine]:
    """Open what was built, as it would run later."""
    from edgeattn.engine.tensorrt.run import TensorRtEngine

    plugins = built.used_plugin_libraries
    return TensorRtEngine(
        built.plan,
        Manifest("engine", target="tensorrt", options={"tensorrt": options.to_dict()}),
        plugin=plugins[0] if plugins else None,
        device=options.device,
    )


def autotune_attention(
    variants: tuple[Variant, ...],
    options: TensorRtOptions,
    folder: Path,
    *,
    version: TensorRtVersion,
    progress: Progress | None = None,
    log: CapturedLog | None = None,
    build: Build = build_way,
    open_engine: Open = open_way,
    time_query: Time | None = None,
) -> Autotuned[BuiltWay]:
    """Build each candidate, and keep the fastest that is right; see `compete`.

    The inputs have the first profile's optimal shapes.

    Args:
        variants: Forms of the typed graph, the preferred first.
        options: Options of the builds.
        folder: Where the engines go; the winner's stays there.
        version: The TensorRT at hand.
        progress: Called with steps done, steps in all, and the step at hand.
        log: What TensorRT says is added to it.
        build: Builds one engine.
        open_engine: Opens what was built.
        time_query: Runs a query once and tells its milliseconds; by default `query_ms`.

    Raises:
        BuildError: If every candidate fails, each for another reason.
        EdgeAttnError: What every build fails with, if that is one and the same.
        MissingDependencyError: If TensorRT is not installed.
    """
    given = as_written(variants).model

    def build_one(candidate: Candidate, report: Progress | None) -> BuiltWay:
        way = cast(AttentionWay, candidate.way)
        lowered = lower_for_tensorrt(candidate.variant.typed.model, version, way=way)
        plan = folder / f"{candidate.name.replace(', ', '-').replace(' ', '-')}.plan"
        return BuiltWay(lowered, build(lowered, options, plan, report, log))

    tuned = compete(
        tensorrt_candidates(variants, version),
        build_one,
        lambda built: open_engine(built.build, built.lowered, options),
        lambda: _question(given, options),
        _figures,
        time_query=time_query,
        progress=progress,
    )
    for loser in tuned.losers:
        loser.build.plan.unlink(missing_ok=True)
    return tuned


def _question(model: onnx.ModelProto, options: TensorRtOptions) -> Question:
    """Draw inputs of the shapes that the engines are tuned for, and compute what should come out.

    Nothing is expected where the CPU cannot run the graph.
    """
    specs = input_specs(model)
    (profile, *_) = resolve_profiles(options, specs)
    rng = np.random.default_rng(0)
    inputs: dict[str, NDArray[Any]] = {
        spec.name: random_array(spec, tuple(profile.opt[spec.name]), rng) for spec in specs
    }
    try:
        with Reference(model) as reference:
            precisions = list(reference.precisions)
            if options.implicit_int8 is not None:
                precisions.append("int8")
            elif precisions == ["fp32"] and options.tf32:
                precisions = ["tf32"]
            return Question(inputs, reference.run(inputs), precisions)
    except EngineError:
        return Question(inputs)


def _figures(built: BuiltWay) -> Figures:
    build = built.build
    return Figures(build.seconds, build.plan_bytes, build.device_memory_bytes, built.lowered.faults)
