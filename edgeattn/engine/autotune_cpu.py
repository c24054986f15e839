"""Is a graph faster on the CPU with its attention fused? Build its forms, time them, keep one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeattn.artifacts import Parent
from edgeattn.calibration.random_samples import random_array
from edgeattn.engine.autotune import (
    Autotuned,
    Candidate,
    Figures,
    Progress,
    Question,
    Time,
    compete,
)
from edgeattn.engine.cpu_build import LoweredGraph, lower
from edgeattn.engine.reference import Reference
from edgeattn.engine.variants import Variant, as_written
from edgeattn.engine.verify_queries import default_shapes
from edgeattn.errors import BuildError, DataError


def cpu_candidates(variants: Sequence[Variant]) -> tuple[Candidate, ...]:
    """List the engines to try, the preferred first; attention nodes are standard operators in all.

    Args:
        variants: Forms of the graph, the preferred first.
    """
    names = {"as written": "as written", "windows": "fused", "everything": "fused, global too"}
    return tuple(
        Candidate(names[v.name] if v.is_fused else names["as written"], v, "native")
        for v in variants
    )


def autotune_cpu(
    variants: tuple[Variant, ...],
    parents: Mapping[str, Parent],
    *,
    weights: Path,
    options: Mapping[str, Any] | None = None,
    time_query: Time | None = None,
    progress: Progress | None = None,
) -> Autotuned[LoweredGraph]:
    """Lower each form of a graph, and keep the fastest that is right.

    They are timed on random inputs: of the graph's shapes, and where it leaves sizes free of those
    that `verify` would take.

    Args:
        variants: Forms of the graph, the preferred first.
        parents: Files it was made from, for the manifest.
        weights: File to write the weights to if the graph is too large to hold them; each form has
            a folder of its own for it beside.
        options: Options of the build, for the manifest.
        time_query: Runs a query once and tells its milliseconds; by default `query_ms`.
        progress: Called with steps done, steps in all, and the step at hand.

    Raises:
        BuildError: If every form fails, each for another reason, or the graph runs with none of the
            sizes tried for its free dimensions.
        EngineError: If ONNX Runtime refuses the graph.
        GraphError: If the graph is malformed, or a weight is NaN or infinite.
    """
    given = as_written(variants).model

    def build(candidate: Candidate, progress: Progress | None) -> LoweredGraph:
        folder = weights.parent / f"{candidate.variant.name.replace(' ', '-')}.cpu"
        folder.mkdir(exist_ok=True)
        described = dict(options or {}) | candidate.variant.options
        return lower(
            candidate.variant.typed.model,
            parents,
            weights=folder / weights.name,
            options=described,
        )

    return compete(
        cpu_candidates(variants),
        build,
        LoweredGraph.open,
        lambda: _question(given),
        _figures,
        time_query=time_query,
        progress=progress,
    )


def _question(model: onnx.ModelProto) -> Question:
    """Draw inputs of a shape that the graph takes.

    Raises:
        BuildError: If none is found.
    """
    with Reference(model) as reference:
        try:
            shapes = default_shapes(reference.inputs, reference)[0]
        except DataError as err:
            raise BuildError(
                f"nothing can be timed: {err.message}",
                "export the graph with fixed sizes, or build it without --autotune-attention",
            ) from err
        rng = np.random.default_rng(0)
        inputs = {s.name: random_array(s, shapes[s.name], rng) for s in reference.inputs}
        return Question(inputs, reference.run(inputs), reference.precisions)


def _figures(lowered: LoweredGraph) -> Figures:
    return Figures(plan_bytes=len(lowered.data))
