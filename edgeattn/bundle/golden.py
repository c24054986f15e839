"""Golden tensors: inputs, what the graph makes of them, and how far a board's engine may be off.

The outputs are the graph's own, computed in float on the CPU without the rounding of its
activations. The tolerances come from the noise that this rounding makes on these very inputs, by
the rule of `edgeattn.engine.reference`, and travel with the tensors: a board neither invents nor
stretches them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeattn.bundle.format import Tolerance
from edgeattn.engine.base import Engine
from edgeattn.engine.batches import BATCH_SIZE, batches, run_samples
from edgeattn.engine.load import load
from edgeattn.engine.random_inputs import tuned_shapes
from edgeattn.engine.reference import (
    FLOORS,
    NOISE_FACTOR,
    Arrays,
    Distance,
    Expected,
    Reference,
    distance,
)
from edgeattn.engine.verify import LOOSEST
from edgeattn.engine.verify_check import Verdict
from edgeattn.engine.verify_queries import Shapes, make_queries
from edgeattn.errors import DataError, EngineError
from edgeattn.graph.compare import finite_or_none
from edgeattn.graph.files import load_graph


@dataclass(frozen=True)
class Golden:
    """Golden tensors.

    Attributes:
        inputs: Arrays by input name.
        outputs: Arrays by output name.
        tolerances: By engine (`cpu`, `tensorrt`) and by output.
    """

    inputs: Arrays
    outputs: Arrays
    tolerances: Mapping[str, Mapping[str, Tolerance]]


@dataclass(frozen=True)
class GoldenCheck:
    """How an engine's output compares with the golden one.

    Attributes:
        output: Its name.
        verdict: `ok`, `failed`, or `skipped` where the tolerance would let anything pass.
        found: Its distance, as parts of the golden output's root mean square; `None` where it is
            not finite.
        peak: Largest difference of one element, likewise.
        allowed: The tolerance.
    """

    output: str
    verdict: Verdict
    found: float | None
    peak: float | None
    allowed: Tolerance

    @property
    def detail(self) -> str:
        """Say it in words."""
        allowed = Distance(self.allowed.rms, self.allowed.peak)
        if self.found is None or self.peak is None:
            return f"of another shape than the golden output or not finite; allowed are {allowed}"
        text = f"{Distance(self.found, self.peak)} off the golden output; allowed are {allowed}"
        if self.verdict == "skipped":
            return f"{text}, which is no check: make the bundle with real --golden-inputs"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Turn the check into JSON values."""
        return asdict(self) | {"detail": self.detail}


def make_golden(
    graph: Path,
    inputs: Arrays | None = None,
    *,
    shapes: Sequence[Shapes] = (),
    seed: int = 0,
    tf32: bool = True,
) -> Golden:
    """Compute golden tensors for a graph.

    Args:
        graph: The typed graph that the board builds.
        inputs: At least two samples along axis 0; random ones if not given.
        shapes: Shape of each random input; by default as `edgeattn.engine.verify` chooses.
        seed: Of the random inputs.
        tf32: Whether TensorRT may compute a graph in FP32 in TF32, as it does by default.

    Raises:
        DataError: If the inputs do not fit the graph.
        EngineError: If the CPU cannot run the graph.
        GraphError: If the graph is malformed.
    """
    with Reference(load_graph(graph)) as reference, load(graph) as engine:
        if inputs is None:
            inputs = _random_inputs(engine, reference, shapes, seed)
        elif min((len(np.atleast_1d(a)) for a in inputs.values()), default=0) < 2:
            raise DataError("fewer than 2 golden samples were given; expected at least 2")
        expected = _expected(engine, reference, inputs)
        precisions = {"cpu": reference.precisions, "tensorrt": reference.precisions}
        if tf32 and reference.precisions == ("fp32",):
            precisions["tensorrt"] = ("tf32",)
        tolerances = {
            kind: {name: _tolerance(expected, name, names) for name in expected.exact}
            for kind, names in precisions.items()
        }
        golden = Golden(dict(inputs), expected.exact, tolerances)
        failed = [each for each in check_golden(engine, golden) if each.verdict == "failed"]
    if failed:
        raise EngineError(
            "the CPU engine itself misses the golden outputs of its graph: "
            + "; ".join(f"{each.output} is {each.detail}" for each in failed),
            "this is a fault of the toolkit or of the graph; `edgeattn build --verify` tells more",
        )
    return golden


def check_golden(engine: Engine, golden: Golden) -> list[GoldenCheck]:
    """Run the golden inputs through an engine.

    Args:
        engine: The engine; it stays open.
        golden: What it should yield.

    Raises:
        DataError: If the engine does not take the inputs.
        EngineError: If the engine fails, or there is no tolerance for its kind or an output.
    """
    found = run_golden(engine, golden)
    allowed = golden.tolerances.get(engine.manifest.target, {})
    if found.keys() != golden.outputs.keys() or found.keys() - allowed.keys():
        raise EngineError(
            f"the engine yields {', '.join(found)}; there are golden outputs of "
            f"{', '.join(golden.outputs)}, and tolerances for {', '.join(allowed) or 'none'}",
            "make the bundle again",
        )
    return [_judge(name, golden.outputs[name], found[name], allowed[name]) for name in found]


def run_golden(engine: Engine, golden: Golden) -> Arrays:
    """Run the golden inputs in batches that the engine was tuned for, the last one filled up.

    Raises:
        DataError: If the engine does not take the inputs.
        EngineError: If the engine fails.
    """
    if not _is_rowed(golden.inputs, golden.outputs):
        return engine.run(golden.inputs)
    samples = len(next(iter(golden.inputs.values())))
    leading = {shape[:1] for shape in tuned_shapes(engine).values()}
    batch = leading.pop()[0] if len(leading) == 1 else min(BATCH_SIZE, samples)
    rows = np.minimum(np.arange(-(-samples // batch) * batch), samples - 1)
    filled = {name: array[rows] for name, array in golden.inputs.items()}
    outputs = run_samples(engine, filled, batch)
    return _head(outputs, samples)


def _judge(
    name: str, reference: np.ndarray, candidate: np.ndarray, allowed: Tolerance
) -> GoldenCheck:
    off = distance(reference, candidate)
    verdict: Verdict = "ok" if off.fits(Distance(allowed.rms, allowed.peak)) else "failed"
    if verdict == "ok" and allowed.rms > LOOSEST:
        verdict = "skipped"
    return GoldenCheck(name, verdict, finite_or_none(off.rms), finite_or_none(off.peak), allowed)


def _is_rowed(inputs: Arrays, outputs: Arrays) -> bool:
    """Tell whether all tensors have a row for each sample."""
    leading = {np.shape(array)[:1] for array in (*inputs.values(), *outputs.values())}
    return len(leading) == 1 and leading != {()}


def _random_inputs(
    engine: Engine, reference: Reference, shapes: Sequence[Shapes], seed: int
) -> Arrays:
    """Draw samples: several queries behind each other where rows are samples, else one query."""
    first, *others = make_queries(engine, reference, shapes[:1], seed=seed).arrays
    if not _is_rowed(first, reference.run(first).written):
        return first
    names = list(first)
    return {name: np.concatenate([query[name] for query in (first, *others)]) for name in names}


def _expected(engine: Engine, reference: Reference, inputs: Arrays) -> Expected:
    """Run the graph on all samples, as written and without rounding."""
    parts = []
    for arrays, count in batches(engine, inputs):
        part = reference.run(arrays)
        if count is None or not _is_rowed(arrays, part.written):
            return reference.run(inputs)
        parts.append(Expected(_head(part.written, count), _head(part.exact, count)))
    return Expected(_joined([p.written for p in parts]), _joined([p.exact for p in parts]))


def _head(arrays: Arrays, count: int) -> dict[str, np.ndarray]:
    return {name: array[:count] for name, array in arrays.items()}


def _joined(parts: Sequence[Arrays]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _tolerance(expected: Expected, name: str, precisions: Sequence[str]) -> Tolerance:
    bound = expected.tolerance(name, precisions)
    if not math.isfinite(bound.rms):
        raise DataError(
            f"rounding alone turns the output {name} into something else on the golden inputs",
            "give real ones: --golden-inputs",
        )
    noise = distance(expected.exact[name], expected.written[name])
    floor = max((FLOORS[each].bound.rms, each) for each in precisions)[1]
    reason = (
        f"{NOISE_FACTOR:g} times the noise that {'+'.join(precisions)} makes on these inputs, "
        f"{noise}, and at least what {floor} always may: {FLOORS[floor].reason}"
    )
    return Tolerance(bound.rms, bound.peak, reason)
