"""`compare`: what a second engine loses in accuracy and gains in speed against a first one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeattn.arrays import LABEL_KEY
from edgeattn.artifacts import Manifest
from edgeattn.engine.base import BoundQuery, Engine, TensorSpec
from edgeattn.engine.batches import BATCH_SIZE, batches, fixed_batch_size, run_samples
from edgeattn.engine.load import engine_target
from edgeattn.engine.random_inputs import random_inputs, tuned_shapes
from edgeattn.errors import DataError, EngineError
from edgeattn.graph.compare import (
    OutputComparison,
    compare_outputs,
    finite_or_none,
    top1_accuracy,
)
from edgeattn.profiling.conditions import Condition
from edgeattn.profiling.measure import DURATION_S, ITERATIONS, WARM_UP_MS, measure_interleaved
from edgeattn.profiling.profile import HOST_MODE, engine_parent, latency_mode, opened
from edgeattn.profiling.stats import LatencyStats

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

Progress = Callable[[int, "int | None", str], None]

# Of several outputs, the worst counts.
_WORST: dict[str, Callable[[list[float]], float]] = {
    "max_abs_error": max,
    "max_rel_error": max,
    "sqnr_db": min,
    "centred_sqnr_db": min,
    "cosine": min,
    "top1_agreement": min,
}
_LATENCIES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99_9_ms", "mean_ms", "cv_percent")

FIGURES = (*_WORST, "top1_a", "top1_b", "top1_drop", "latency_ratio", *_LATENCIES)


@dataclass(frozen=True)
class Comparison:
    """Two engines on the same inputs. A is the reference, B the candidate.

    Attributes:
        manifest: What was compared: both engines by their hashes, the options.
        num_samples: Samples that ran through both.
        outputs: How far B's outputs are from A's, by output name.
        top1_a: Percent of samples that A classifies as labelled; `None` without labels.
        top1_b: The same of B.
        latency_a: Latency of A for one batch, measured in turns with B.
        latency_b: Latency of B.
        inputs: Shapes of that batch, by A's input names; empty if no latency was measured.
        mode: What the latency holds.
        violations: The conditions to fail on that are true, with the figure found.
    """

    manifest: Manifest
    num_samples: int
    outputs: dict[str, OutputComparison]
    top1_a: float | None
    top1_b: float | None
    latency_a: LatencyStats | None
    latency_b: LatencyStats | None
    inputs: dict[str, tuple[int, ...]]
    mode: str = HOST_MODE
    violations: tuple[str, ...] = ()

    @property
    def top1_drop(self) -> float | None:
        """Percentage points of top-1 that B loses against A."""
        if self.top1_a is None or self.top1_b is None:
            return None
        return self.top1_a - self.top1_b

    @property
    def latency_ratio(self) -> float | None:
        """Median latency of B over that of A: below 1 where B is faster."""
        if self.latency_a is None or self.latency_b is None:
            return None
        return self.latency_b.p50_ms / self.latency_a.p50_ms

    def figures(self) -> dict[str, float | None]:
        """Give every figure a condition may name; of outputs the worst, of latencies B's."""
        found: dict[str, float | None] = {}
        for name, worst in _WORST.items():
            values = [getattr(output, name) for output in self.outputs.values()]
            known = [value for value in values if value is not None]
            found[name] = worst(known) if known else None
        for name in ("top1_a", "top1_b", "top1_drop", "latency_ratio"):
            found[name] = getattr(self, name)
        for name in _LATENCIES:
            found[name] = getattr(self.latency_b, name, None)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Turn the comparison into JSON values; infinite figures (equal outputs) become null."""
        return {
            "manifest": self.manifest.to_dict(),
            "num_samples": self.num_samples,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "mode": self.mode,
            "outputs": {name: output.to_dict() for name, output in self.outputs.items()},
            "figures": {name: finite_or_none(value) for name, value in self.figures().items()},
            "latency_a": asdict(self.latency_a) if self.latency_a else None,
            "latency_b": asdict(self.latency_b) if self.latency_b else None,
            "violations": list(self.violations),
        }


def compare(
    a: Engine | Path | str,
    b: Engine | Path | str,
    inputs: Mapping[str, np.ndarray] | None = None,
    labels: np.ndarray | None = None,
    *,
    fail_if: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    latency: bool = True,
    iterations: int = ITERATIONS,
    duration_s: float = DURATION_S,
    warm_up_ms: float = WARM_UP_MS,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int | None = None,
    tensorrt: TensorRtRunOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two engines on the same inputs, and their latencies side by side.

    Args:
        a: The reference: an engine, or the file of one.
        b: The candidate, with the same input and output names; a single input or output may be
            called differently.
        inputs: Arrays by A's input names, any number of samples along axis 0; random ones of one
            batch if not given. An array `label` that is no input holds the labels.
        labels: `[samples]` class indices, for top-1.
        fail_if: Conditions `NAME OP NUMBER` on `Comparison.figures`, such as `sqnr_db < 30`,
            `top1_drop > 0.3` or `p99_ms > 5`; the true ones are listed in `violations`.
        batch_size: Samples per batch where an engine leaves that free.
        latency: Measure latency too, of the first batch.
        iterations: Least number of timed queries of each engine.
        duration_s: Least time to time each engine.
        warm_up_ms: Time to run each without timing before.
        shapes: Shapes of random inputs, for those with free dimensions; by default those that an
            engine was tuned for, if one was.
        threads: Threads to load files of CPU engines with.
        tensorrt: How to load files of TensorRT engines.
        seed: Seed of the random inputs.
        progress: Called with steps done, steps in all (if known), and the step at hand.

    Raises:
        ArtifactError: If a file is missing or no engine.
        DataError: If the inputs do not fit an engine, or the labels do not fit.
        EngineError: If an engine fails, or the two cannot be compared.
        SpecError: If a condition is malformed or cannot be judged.
    """
    conditions = [Condition.parse(text, FIGURES) for text in fail_if]
    options: dict[str, Any] = {"fail_if": list(fail_if), "batch_size": batch_size}
    loading_a, loading_b = _loading([a, b], threads, tensorrt)
    with opened(a, *loading_a) as engine_a, opened(b, *loading_b) as engine_b:
        to_b = _pairs("inputs", engine_a, engine_b)
        from_b = {theirs: ours for ours, theirs in _pairs("outputs", engine_a, engine_b).items()}
        if inputs is None:
            options["random_inputs_seed"] = seed
            of_b = tuned_shapes(engine_b)
            tuned = {ours: of_b[theirs] for ours, theirs in to_b.items() if theirs in of_b}
            tuned |= tuned_shapes(engine_a)
            specs = _joint_specs(engine_a, engine_b, to_b)
            inputs = random_inputs(specs, tuned | dict(shapes or {}), seed)
        elif LABEL_KEY in inputs and labels is None and LABEL_KEY not in to_b:
            labels = inputs[LABEL_KEY]
            inputs = {name: array for name, array in inputs.items() if name != LABEL_KEY}
        outputs_a = run_samples(engine_a, inputs, batch_size, progress)
        inputs_b = {to_b.get(name, name): array for name, array in inputs.items()}
        outputs_b = run_samples(engine_b, inputs_b, batch_size, progress)
        outputs_b = {from_b[name]: array for name, array in outputs_b.items()}
        outputs = compare_outputs(outputs_a, outputs_b)
        batch = _common_batch(engine_a, engine_b, inputs, to_b, batch_size) if latency else {}
        latencies: dict[str, LatencyStats] = {}
        if latency:
            if progress is not None:
                progress(0, None, "measure")
            loop = {"iterations": iterations, "duration_s": duration_s, "warm_up_ms": warm_up_ms}
            options |= loop
            batch_b = {to_b[name]: array for name, array in batch.items()}
            latencies = _latencies(engine_a.bind(batch), engine_b.bind(batch_b), **loop)
        parents = {
            f"{side}_{role}": parent
            for side, engine in (("a", engine_a), ("b", engine_b))
            for role, parent in engine_parent(engine).items()
        }
        modes = dict.fromkeys(latency_mode(engine) for engine in (engine_a, engine_b))
    comparison = Comparison(
        manifest=Manifest("report", parents, options=options),
        num_samples=len(next(iter(outputs_a.values()))),
        outputs=outputs,
        top1_a=None if labels is None else _top1(outputs_a, labels),
        top1_b=None if labels is None else _top1(outputs_b, labels),
        latency_a=latencies.get("a"),
        latency_b=latencies.get("b"),
        inputs={name: array.shape for name, array in batch.items()},
        mode="; against ".join(modes),
    )
    figures = comparison.figures()
    violations = [f"{c}: it is {figures[c.name]:g}" for c in conditions if c.holds(figures)]
    return replace(comparison, violations=tuple(violations))


def _loading(
    engines: Sequence[Engine | Path | str],
    threads: int | None,
    tensorrt: TensorRtRunOptions | None,
) -> list[tuple[int | None, TensorRtRunOptions | None]]:
    """Give each engine the options of its kind, where the kinds differ; else all, to be judged."""
    files = [Path(engine) for engine in engines if isinstance(engine, Path | str)]
    if len({engine_target(file) for file in files}) < 2:
        return [(threads, tensorrt)] * len(engines)
    targets = [engine_target(file) for file in files]
    return [(None, tensorrt) if target == "tensorrt" else (threads, None) for target in targets]


def _pairs(what: Literal["inputs", "outputs"], first: Engine, second: Engine) -> dict[str, str]:
    """Match the tensors of two engines by name; single ones match anyway."""
    names, others = ([spec.name for spec in getattr(engine, what)] for engine in (first, second))
    if set(names) == set(others):
        return {name: name for name in names}
    if len(names) == len(others) == 1:
        return {names[0]: others[0]}
    raise EngineError(
        f"the engines have different {what}: {', '.join(names)} against {', '.join(others)}",
        "compare engines that come from one model",
    )


def _joint_specs(a: Engine, b: Engine, to_b: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    """Describe the inputs that fit both engines: a size that one leaves free is the other's."""
    shapes_b = {spec.name: spec.shape for spec in b.inputs}

    def joint(spec: TensorSpec) -> TensorSpec:
        other = shapes_b[to_b[spec.name]]
        if len(other) != len(spec.shape):
            return spec
        sizes = zip(spec.shape, other, strict=True)
        return replace(spec, shape=tuple(m if isinstance(m, int) else n for m, n in sizes))

    return tuple(joint(spec) for spec in a.inputs)


def _common_batch(
    a: Engine,
    b: Engine,
    inputs: Mapping[str, np.ndarray],
    to_b: Mapping[str, str],
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Take a first batch that both engines run, so that their latencies are of the same work."""
    size_a, size_b = fixed_batch_size(a), fixed_batch_size(b)
    if None not in (size_a, size_b) and size_a != size_b:
        raise EngineError(
            f"the engines take batches of {size_a} and of {size_b} samples, so that their "
            "latencies cannot be compared",
            "build both for one batch size, or compare without latency",
        )
    if size_b is None:
        return next(batches(a, inputs, batch_size))[0]
    batch, _ = next(batches(b, {to_b[name]: array for name, array in inputs.items()}))
    return {name: batch[to_b[name]] for name in inputs}


def _latencies(a: BoundQuery, b: BoundQuery, **loop: Any) -> dict[str, LatencyStats]:
    measured = measure_interleaved({"a": a, "b": b}, **loop)
    return {side: LatencyStats.from_samples(m.latency_ms) for side, m in measured.items()}


def _top1(outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    """Accuracy of the first output that has a row of classes for each sample."""
    for array in outputs.values():
        if array.ndim == 2 and array.shape[1] > 1:
            return top1_accuracy(array, np.asarray(labels))
    raise DataError(
        "labels were given, but no output has the shape (samples, classes)",
        f"the outputs are {', '.join(outputs)}",
    )
