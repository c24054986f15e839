"""A graph made ready for TensorRT, and what would be built of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import onnx

from edgeattn.artifacts import Manifest, Parent
from edgeattn.engine.tensorrt.autotune import tensorrt_candidates
from edgeattn.engine.tensorrt.destination import Destination
from edgeattn.engine.tensorrt.lowering import AttentionWay, LoweredForTensorRt, lower_for_tensorrt
from edgeattn.engine.tensorrt.memory import check_memory, read_memory
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.plan import BuildPlan, make_plan, weights_of
from edgeattn.engine.tensorrt.precision import (
    PrecisionShares,
    asked_precisions,
    check_required_precision,
)
from edgeattn.engine.tensorrt.profiles import resolve_profiles
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.engine.typed import TypedGraph
from edgeattn.engine.variants import Variant
from edgeattn.graph.files import embedded_manifest, input_specs, save_graph
from edgeattn.graph.finite import check_finite
from edgeattn.plugin.build import find_plugin_library

_NOTHING_BUILT = PrecisionShares(
    layers=0,
    compute={},
    products={},
    reformats=0,
    reformat_bytes=0,
    moves=0,
    move_bytes=0,
    quantize_layers=0,
    asked={},
    changed=(),
    unproven=(),
)


@dataclass(frozen=True)
class Prepared:
    """A graph that is ready for TensorRT's parser, with the options of its build.

    Attributes:
        lowered: The graph.
        options: With whole profiles.
        are_shapes_exported: Whether nobody gave shapes, and they are those of the export.
    """

    lowered: LoweredForTensorRt
    options: TensorRtOptions
    are_shapes_exported: bool


def prepare(
    model: onnx.ModelProto,
    parents: Mapping[str, Parent],
    request: TensorRtRequest,
    where: Destination,
) -> Prepared:
    """Check everything that can be checked before TensorRT is asked, and lower the graph.

    Args:
        model: The typed graph.
        parents: Files it was made from.
        request: What is asked for.
        where: What the engine is for.

    Raises:
        ArtifactError: If the lowered graph was asked for and cannot be written.
        BuildError: If the options do not go with the graph or with this TensorRT.
        GraphError: If the graph is malformed, or a weight is NaN or infinite.
    """
    check_finite(model)
    request.options.check(where.version)
    options, are_exported = with_exported_shapes(request.options, model)
    options = replace(options, profiles=resolve_profiles(options, input_specs(model)))
    lowered = lower_for_tensorrt(model, where.version, way=request.attention)
    if request.require_precision is not None:
        _check_required(lowered, request.require_precision)
    if request.lowered_graph is not None:
        _save_lowered(lowered, parents, request.lowered_graph)
    return Prepared(lowered, options, are_exported)


def _check_required(lowered: LoweredForTensorRt, required: str) -> None:
    """Refuse a requirement that no engine of this graph can meet, before minutes of building."""
    asked = Counter(asked_precisions(lowered).values())
    check_required_precision(replace(_NOTHING_BUILT, asked=asked), required)


def with_exported_shapes(
    options: TensorRtOptions, model: onnx.ModelProto
) -> tuple[TensorRtOptions, bool]:
    """Take the shapes that the graph was exported with where it has free ones and none are given.

    Returns:
        The options, and whether it was so.
    """
    free = {
        spec.name for spec in input_specs(model) if any(isinstance(dim, str) for dim in spec.shape)
    }
    source = embedded_manifest(model, "the graph")
    if options.profiles or not free or source is None:
        return options, False
    shapes = {
        entry["name"]: tuple(entry["shape"])
        for entry in source.options.get("inputs", [])
        if entry.get("name") in free and all(isinstance(d, int) for d in entry.get("shape", [""]))
    }
    if not shapes:
        return options, False
    return replace(options, profiles=(ShapeProfile(opt=shapes),)), True


def _save_lowered(lowered: LoweredForTensorRt, parents: Mapping[str, Parent], path: Path) -> None:
    """Write what the parser gets, with a manifest; saving moves large weights out of the model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(lowered.model)
    options = {"lowered_for": f"TensorRT {lowered.version}", "attention": lowered.way}
    save_graph(copy, path, Manifest("graph", dict(parents), target="tensorrt", options=options))


def plan_build(
    typed: TypedGraph,
    parents: Mapping[str, Parent],
    request: TensorRtRequest,
    where: Destination,
    *,
    graph: Path,
    output: Path,
    variants: tuple[Variant, ...] = (),
) -> BuildPlan:
    """Plan a build; of TensorRT and GPU nothing needs to be here.

    Args:
        typed: The graph.
        parents: Files it was made from.
        request: What is asked for.
        where: What the engine is for.
        graph: File that it comes from.
        output: The engine to be.
        variants: Forms of the graph that would be tried, the preferred first; that one is planned.

    Raises:
        ArtifactError: If the lowered graph was asked for and cannot be written.
        BuildError: If it could not be built as asked.
        GraphError: If the graph is malformed, or a weight is NaN or infinite.
    """
    candidates = tensorrt_candidates(variants, where.version) if variants else ()
    if candidates:
        request = replace(request, attention=cast(AttentionWay, candidates[0].way))
    prepared = prepare(typed.model, parents, request, where)
    options, library, memory = prepared.options, prepared.options.plugin, []
    if where.target is None and where.architectures:
        library = library or find_plugin_library(where.version.major)
        weights = weights_of(prepared.lowered.model)
        workspace = options.workspace_mib and options.workspace_mib << 20
        state = read_memory(options.device)
        largest = max(weights.values(), default=0)
        memory = check_memory(sum(weights.values()), largest, workspace, state)[1]
    return make_plan(
        prepared.lowered,
        options,
        where,
        graph=graph,
        output=output,
        lowered_graph=request.lowered_graph,
        are_shapes_exported=prepared.are_shapes_exported,
        library=library,
        memory=memory,
        fusion=typed.fusion,
        candidates=[candidate.name for candidate in candidates],
    )
