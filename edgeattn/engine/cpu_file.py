"""A CPU engine's file: lowered, or the fastest of several, proven, written with its manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeattn.artifacts import Manifest, Parent, atomic_artifact
from edgeattn.engine.autotune import planned
from edgeattn.engine.autotune_cpu import autotune_cpu, cpu_candidates
from edgeattn.engine.cpu_build import LoweredGraph, lower
from edgeattn.engine.typed import TypedGraph
from edgeattn.engine.variants import Variant
from edgeattn.engine.verified import require_verified

Step = Callable[[str], None]
Progress = Callable[[int, "int | None", str], None]


def build_cpu_engine(
    typed: TypedGraph,
    parents: Mapping[str, Parent],
    *,
    output: Path,
    folder: Path,
    variants: tuple[Variant, ...] = (),
    verify: bool = False,
    dry_run: bool = False,
    options: Mapping[str, Any] | None = None,
    report: Mapping[str, Any] | None = None,
    step: Step = lambda what: None,
    progress: Progress | None = None,
) -> Manifest:
    """Build an engine, prove what it is, and write it with its manifest.

    Args:
        typed: The graph to build from.
        parents: Files it was made from.
        output: The engine to write.
        folder: Temporary folder on the same file system.
        variants: Forms of the graph to choose from instead, the preferred first.
        verify: Check it against the graph and against itself.
        dry_run: Write nothing, and of several forms take the first without timing any.
        options: Options of the build, for the manifest.
        report: What the steps before found, for the manifest.
        step: Called with the name of each step before it begins.
        progress: Called with steps done, steps in all, and the step at hand, while several forms
            are tried.

    Returns:
        Its manifest, but for the hashes of its files.

    Raises:
        ArtifactError: If a file cannot be written.
        BuildError: If a check fails, or none of several forms can be built.
        EngineError: If ONNX Runtime refuses the graph.
        GraphError: If the graph is malformed, or a weight is NaN or infinite.
    """
    step("lower and try it")
    options, found = dict(options or {}), dict(report or {})
    weights = folder / (output.name + ".data")
    if variants and not dry_run:
        options["attention"] = "autotuned"
        tuned = autotune_cpu(variants, parents, weights=weights, options=options, progress=progress)
        typed, lowered = tuned.winner.variant.typed, tuned.built
        found["autotune"] = tuned.to_dict()
    else:
        if variants:
            found["autotune"] = planned(cpu_candidates(variants))
        lowered = lower(typed.model, parents, weights=weights, options=options)
    if typed.fusion:
        found["fusion"] = dict(typed.fusion)
    found |= lowered.manifest.report
    with lowered.open() as opened:
        if verify:
            step("verify")
            found["verify"] = require_verified(opened, typed.file)
    lowered = replace(lowered, manifest=replace(lowered.manifest, report=found))
    if not dry_run:
        step("write")
        _write(output, lowered, weights.name)
        step("write")
    return lowered.manifest


def _write(output: Path, lowered: LoweredGraph, weights: str) -> None:
    """Write engine, weights if apart, and manifest, together or not at all."""
    beside = [] if lowered.weights_folder is None else [weights]
    with atomic_artifact(output, lowered.manifest, *beside) as (plan, *data):
        plan.write_bytes(lowered.data)
        for file in data:
            assert lowered.weights_folder is not None  # there is a file of weights
            (lowered.weights_folder / weights).replace(file)
