"""Is an engine right? Checks that need no second framework and no labels, for any engine.

Silent errors are the worst of a deployment: an engine that builds, runs and times well, and is
wrong. Each check here fails for one kind of them. The graph's own computation on the CPU is the
reference; the rest holds the engine against itself.

References:
    NVIDIA/TensorRT issues 4813 (four equal rows of a batch, four answers) and 4837 (a fused
    attention that is wrong on one architecture): neither gives a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.engine.base import Engine, TensorSpec
from edgeattn.engine.reference import (
    NOISE_FACTOR,
    Arrays,
    Distance,
    Expected,
    Reference,
    distance,
)
from edgeattn.engine.verify_check import VerifyCheck, Worst
from edgeattn.engine.verify_queries import Queries, Shapes, make_queries
from edgeattn.errors import DataError, EngineError
from edgeattn.graph.compare import finite_or_none
from edgeattn.graph.files import load_graph
from edgeattn.inputs import Dim

Progress = Callable[[int, "int | None", str], None]

# An engine that gives the same bits in two runs has to give them always; one that does not, since
# it adds up in an order that the scheduler chooses, may differ a few times as much as it did then.
_REPEAT_FACTOR = 4.0
_REPEAT_FLOOR = Distance(1e-6, 1e-5)

# A tolerance of half of the output's size would pass what is plainly wrong.
LOOSEST = 0.5


def verify_engine(
    engine: Engine,
    graph: Path | str,
    *,
    shapes: Sequence[Shapes] = (),
    inputs: Arrays | None = None,
    without_graph: Engine | None = None,
    second_build: Engine | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[VerifyCheck]:
    """Check an engine against its graph and against itself.

    The checks are, in this order: `interface`, the tensors are the graph's; `finite`, no NaN or
    infinity that the graph does not have; `reference`, outputs within a tolerance of what the CPU
    computes (see `edgeattn.engine.reference`); `equal rows` of a batch give equal outputs; `rows
    apart`, a row's output does not depend on its neighbours; `replay`, two queries that are bound
    and run in turns give what single runs give; `shapes`, other shapes than the first; `CUDA
    graph` and `second build`, against other engines.

    Args:
        engine: The engine; it stays open.
        graph: The typed ONNX graph that it was built from.
        shapes: Shapes of the inputs by name; the first is the one to run most, the others are for
            `shapes`. By default the graph's own; a free batch is tried with 4, 1 and 3 samples.
        inputs: Real samples along axis 0, of the first shape but for that axis; by default random.
        without_graph: The same engine opened without CUDA graphs.
        second_build: An engine that was built a second time from the same graph.
        seed: Of the random inputs.
        progress: Called with checks done, their number, and the one at hand.

    Raises:
        ArtifactError: If the graph is missing.
        DataError: If the inputs or shapes do not fit the graph.
        EngineError: If the CPU cannot run the graph.
        GraphError: If the graph is malformed.
    """
    with Reference(load_graph(graph)) as reference:
        queries = make_queries(engine, reference, shapes, inputs, seed)
        trial = _Trial(engine, reference, queries)
        checks: dict[str, Callable[[], VerifyCheck]] = {
            "finite": trial.finite,
            "reference": trial.against_reference,
            "equal rows": trial.equal_rows,
            "rows apart": trial.rows_apart,
            "replay": trial.replay,
            "shapes": trial.other_shapes,
            "CUDA graph": lambda: trial.against_same_build(without_graph),
            "second build": lambda: trial.against_other_build(second_build),
        }
        total = len(checks) + 1
        if progress:
            progress(0, total, "interface")
        found = [trial.interface()]
        if found[0].verdict == "failed":
            reason = "the engine's tensors are not the graph's"
            return found + [VerifyCheck(name, "skipped", reason) for name in checks]
        for done, (name, check) in enumerate(checks.items(), 1):
            if progress:
                progress(done, total, name)
            found.append(_run(name, check))
        return found


def _run(name: str, check: Callable[[], VerifyCheck]) -> VerifyCheck:
    """Run a check; an engine that refuses a query of its own graph fails it."""
    try:
        return check()
    except (DataError, EngineError) as err:
        return VerifyCheck(name, "failed", f"the engine refuses a query: {err.message}")


class _Trial:
    """An engine with its reference, the queries, and what came out of them."""

    def __init__(self, engine: Engine, reference: Reference, queries: Queries) -> None:
        self.engine, self.reference = engine, reference
        self.precisions = list(reference.precisions)
        if self.precisions == ["fp32"] and _has_tf32(engine):
            self.precisions = ["tf32"]
        self.batch, self.others = queries.batch, queries.others
        self.draw = queries.draw
        self.queries = queries.arrays
        self.expected = [reference.run(query) for query in self.queries]
        self.bounds = {
            spec.name: _joined(self.expected).tolerance(spec.name, self.precisions)
            for spec in reference.outputs
        }

    @cached_property
    def results(self) -> list[Arrays]:
        """What the engine gives for the queries."""
        return [_copied(self.engine.run(query)) for query in self.queries]

    @cached_property
    def repeat_bound(self) -> Distance:
        """How far two runs of one query may be apart."""
        again = self.engine.run(self.queries[0])
        apart = _farthest(self.results[0], again)[1]
        return Distance(
            max(_REPEAT_FLOOR.rms, _REPEAT_FACTOR * apart.rms),
            max(_REPEAT_FLOOR.peak, _REPEAT_FACTOR * apart.peak),
        )

    def interface(self) -> VerifyCheck:
        """Compare the tensors with the graph's."""
        faults = [
            *_tensor_faults("input", self.reference.inputs, self.engine.inputs),
            *_tensor_faults("output", self.reference.outputs, self.engine.outputs),
        ]
        if faults:
            return VerifyCheck("interface", "failed", "; ".join(faults))
        names = ", ".join(s.name for s in (*self.engine.inputs, *self.engine.outputs))
        return VerifyCheck("interface", "ok", f"names, types and shapes of {names}")

    def finite(self) -> VerifyCheck:
        """Look for NaN and infinity where the graph has none."""
        for query, (result, expected) in enumerate(zip(self.results, self.expected, strict=True)):
            for name, array in result.items():
                if array.shape != expected.written[name].shape:
                    continue  # for `reference` to tell
                alien = ~np.isfinite(array) & np.isfinite(expected.written[name])
                if count := int(alien.sum()):
                    first = np.argwhere(np.atleast_1d(alien))[0].tolist()
                    return VerifyCheck(
                        "finite",
                        "failed",
                        f"the output {name} holds {count} values that are not finite, the first "
                        f"at {first} of query {query}; the graph has none there",
                    )
        return VerifyCheck("finite", "ok", f"in {len(self.queries)} queries")

    def against_reference(self) -> VerifyCheck:
        """Compare with the CPU, as far as the graph's precision tells."""
        worst, worst_share, failures, loud = 0.0, 0.0, [], []
        result, expected = _joined_arrays(self.results), _joined(self.expected)
        for name, bound in self.bounds.items():
            found = distance(expected.exact[name], result[name])
            worst = max(worst, found.rms)
            if not found.fits(bound):
                failures.append(
                    f"{name} is {found} from what the graph computes; allowed are {bound}"
                    + self._explain(name, result[name], expected)
                )
            elif bound.rms > LOOSEST:
                loud.append(name)
            else:
                worst_share = max(worst_share, found.rms / bound.rms, found.peak / bound.peak)
        precision = "+".join(self.precisions)
        if failures:
            return VerifyCheck("reference", "failed", "; ".join(failures), finite_or_none(worst))
        if loud:
            return VerifyCheck(
                "reference",
                "skipped",
                f"rounding to {precision} alone moves {', '.join(loud)} by more than "
                f"{100 * LOOSEST / NOISE_FACTOR:.0f} % on these inputs: give real ones",
                finite_or_none(worst),
            )
        return VerifyCheck(
            "reference",
            "ok",
            f"{100 * worst:.2g} % from the CPU on {self.batch * len(self.queries)} samples, "
            f"{100 * worst_share:.0f} % of what {precision} allows",
            worst,
        )

    def _explain(self, name: str, array: NDArray[Any], expected: Expected) -> str:
        """Say what a wrong output looks like, if it looks like anything known."""
        for other, values in expected.exact.items():
            if other != name and distance(values, array).fits(self.bounds[other]):
                return f" (it is what {other} should be: outputs swapped?)"
        stale = [self.expected[0].exact[name]] * len(self.queries)
        if len(stale) > 1 and distance(np.concatenate(_rowed(stale)), array).fits(
            self.bounds[name]
        ):
            return " (every query has the outputs of the first: stale inputs?)"
        return ""

    @cached_property
    def row_outputs(self) -> list[str]:
        """Outputs with a row for each sample of a batch of several."""
        outputs = self.expected[0].written
        rows = [name for name, array in outputs.items() if array.shape[:1] == (self.batch,)]
        return rows if self.batch > 1 else []

    def equal_rows(self) -> VerifyCheck:
        """Fill a batch with copies of one sample."""
        if not self.row_outputs:
            return VerifyCheck("equal rows", "skipped", self._why_no_rows())
        query = {
            name: np.repeat(array[:1], self.batch, axis=0)
            for name, array in self.queries[0].items()
        }
        expected, result = self.reference.run(query).written, self.engine.run(query)
        apart = Worst()
        for name in self.row_outputs:
            first = np.repeat(expected[name][:1], self.batch, axis=0)
            if not distance(first, expected[name]).fits(self.bounds[name]):
                reason = "the graph itself tells the rows of a batch apart"
                return VerifyCheck("equal rows", "skipped", reason)
            first = np.repeat(result[name][:1], self.batch, axis=0)
            apart.add(name, distance(first, result[name]), self.bounds[name])
        return apart.check("equal rows", f"{self.batch} equal rows", "apart")

    def rows_apart(self) -> VerifyCheck:
        """Change the neighbours of a sample."""
        if not self.row_outputs:
            return VerifyCheck("rows apart", "skipped", self._why_no_rows())
        query = {name: array.copy() for name, array in self.queries[1].items()}
        for name, array in query.items():
            array[0] = self.queries[0][name][0]
        expected = self.reference.run(query).written
        moved, result = Worst(), self.engine.run(query)
        for name in self.row_outputs:
            before, after = self.expected[0].written[name][:1], expected[name][:1]
            if not distance(before, after).fits(_REPEAT_FLOOR):
                reason = "the graph itself mixes the rows of a batch"
                return VerifyCheck("rows apart", "skipped", reason)
            found = distance(self.results[0][name][:1], result[name][:1])
            moved.add(name, found, self.repeat_bound)
        return moved.check("rows apart", "a row beside other rows", "off")

    def _why_no_rows(self) -> str:
        if self.batch < 2:
            return "a batch is one sample"
        return "no output has a row for each sample"

    def replay(self) -> VerifyCheck:
        """Bind two queries and run them in turns."""
        first, second = (self.engine.bind(query) for query in self.queries[:2])
        moved = Worst()
        for turn, (bound, expected) in enumerate(
            [(first, 0), (second, 1), (first, 0), (first, 0), (second, 1)]
        ):
            bound()
            name, found = _farthest(self.results[expected], bound.outputs())
            what = f"{name} in turn {turn + 1}"
            if self._is_other(expected, bound.outputs()):
                what += ", which has the outputs of the other query,"
            moved.add(what, found, self.repeat_bound)
        return moved.check("replay", "two bound queries in turns", "off single runs")

    def _is_other(self, index: int, outputs: Arrays) -> bool:
        found = _farthest(self.results[1 - index], outputs)[1]
        differs = not _farthest(self.results[0], self.results[1])[1].fits(self.repeat_bound)
        return differs and found.fits(self.repeat_bound)

    def other_shapes(self) -> VerifyCheck:
        """Run other shapes, then the first one again."""
        if not self.others:
            return VerifyCheck("shapes", "skipped", "the engine takes one shape")
        moved, names = Worst(), []
        for shapes in self.others:
            query = self.draw(shapes)
            names.append(_spelled(shapes))
            expected, result = self.reference.run(query), self.engine.run(query)
            for name, array in result.items():
                noise = expected.tolerance(name, self.precisions)
                bound = Distance(*map(max, noise, self.bounds[name]))
                found = distance(expected.exact[name], array)
                moved.add(f"{name} at {names[-1]}", found, bound)
        again = self.engine.run(self.queries[0])
        name, found = _farthest(self.results[0], again)
        moved.add(f"{name} at the first shape, run again,", found, self.repeat_bound)
        return moved.check("shapes", f"{', '.join(names)}, and the first again", "off the graph")

    def against_same_build(self, other: Engine | None) -> VerifyCheck:
        """Compare with the same plan run without CUDA graphs."""
        if other is None:
            return VerifyCheck("CUDA graph", "skipped", "no engine without a graph was given")
        moved = Worst()
        for query, result in zip(self.queries, self.results, strict=True):
            name, found = _farthest(result, other.run(query))
            moved.add(name, found, self.repeat_bound)
        return moved.check("CUDA graph", "with and without", "apart")

    def against_other_build(self, other: Engine | None) -> VerifyCheck:
        """Compare with another build, whose tactics may differ."""
        if other is None:
            return VerifyCheck("second build", "skipped", "no second engine was given")
        result = _joined_arrays([_copied(other.run(query)) for query in self.queries])
        first = _joined_arrays(self.results)
        moved = Worst()
        for name, bound in self.bounds.items():
            moved.add(name, distance(first[name], result[name]), bound)
        return moved.check("second build", "two builds", "apart")


def _tensor_faults(
    kind: str, wanted: Sequence[TensorSpec], given: Sequence[TensorSpec]
) -> Iterator[str]:
    by_name = {spec.name: spec for spec in given}
    for spec in wanted:
        found = by_name.pop(spec.name, None)
        if found is None:
            yield f"the {kind} {spec.name} is missing"
        elif found.dtype != spec.dtype or not _may_be(found.shape, spec.shape):
            yield f"the {kind} {found} should be {spec}"
    yield from (f"the graph has no {kind} {name}" for name in by_name)


def _may_be(given: Sequence[Dim], wanted: Sequence[Dim]) -> bool:
    """Tell whether a shape is another one, with free sizes that either may have."""
    return len(given) == len(wanted) and not any(
        isinstance(size, int) and isinstance(dim, int) and size != dim
        for size, dim in zip(given, wanted, strict=True)
    )


def _has_tf32(engine: Engine) -> bool:
    """Tell whether float32 products may be computed in TF32: TensorRT's default."""
    options = engine.manifest.options.get("tensorrt") or {}
    return engine.manifest.target == "tensorrt" and bool(options.get("tf32", True))


def _spelled(shapes: Shapes) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _copied(outputs: Arrays) -> Arrays:
    return {name: np.array(array) for name, array in outputs.items()}


def _rowed(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    return [np.atleast_1d(array) for array in arrays]


def _joined_arrays(outputs: Sequence[Arrays]) -> Arrays:
    """Put the samples of several queries behind each other."""
    return {name: np.concatenate(_rowed([part[name] for part in outputs])) for name in outputs[0]}


def _joined(expected: Sequence[Expected]) -> Expected:
    return Expected(
        dict(_joined_arrays([part.written for part in expected])),
        dict(_joined_arrays([part.exact for part in expected])),
    )


def _farthest(reference: Arrays, candidate: Arrays) -> tuple[str, Distance]:
    """Find the output that is farthest from its reference."""
    found = {name: distance(array, candidate[name]) for name, array in reference.items()}
    name = max(found, key=lambda name: found[name].peak)
    return name, found[name]
