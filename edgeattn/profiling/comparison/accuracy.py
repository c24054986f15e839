"""The same samples through several engines, and how far their outputs are from one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from edgeattn.engine.base import Engine, TensorSpec
from edgeattn.engine.batches import batches, fixed_batch_size, run_samples
from edgeattn.engine.random_inputs import random_inputs, tuned_shapes
from edgeattn.errors import DataError, EngineError
from edgeattn.graph.compare import top1_accuracy

Arrays = Mapping[str, np.ndarray]
Progress = Callable[[int, "int | None", str], None]


class SharedInputs:
    """Samples that go through several engines, called as each engine calls its inputs.

    Args:
        engines: At least one. The names are those of the first one.
        given: Arrays by those names; random ones of one batch if not given.
        shapes: Shapes of random ones, where the engines leave them open.
        timed: Shapes of a query that was timed before, for random ones without such a shape.
        seed: Seed of random ones.

    Attributes:
        arrays: By the first engine's names.

    Raises:
        DataError: If a free dimension of random inputs has no size.
        EngineError: If the engines have different inputs.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        given: Arrays | None,
        shapes: Mapping[str, Sequence[int]],
        timed: Mapping[str, Sequence[int]],
        seed: int,
    ) -> None:
        self._engines = engines
        self._names = [pairs("inputs", engines[0], engine) for engine in engines]
        if given is None:
            given = self._random(shapes, timed, seed)
        self.arrays = dict(given)

    def of(self, number: int, arrays: Arrays) -> dict[str, np.ndarray]:
        """Name arrays as the engine of this number does; what is no input keeps its name."""
        names = self._names[number]
        return {names.get(name, name): array for name, array in arrays.items()}

    def common_batches(self, batch_size: int) -> list[dict[str, np.ndarray]]:
        """Take a first batch that all engines run, so that their latencies are of the same work.

        Returns:
            It for each engine, by the engine's own names.

        Raises:
            EngineError: If no batch fits all.
        """
        sizes = [fixed_batch_size(engine) for engine in self._engines]
        fixed = sorted({size for size in sizes if size is not None})
        if len(fixed) > 1:
            raise EngineError(
                f"the engines take batches of {' and of '.join(map(str, fixed))} samples, so that "
                "their latencies cannot be compared",
                "build all for one batch size, or compare without latency",
            )
        number = next((i for i, size in enumerate(sizes) if size is not None), 0)
        named = self.of(number, self.arrays)
        batch, _ = next(batches(self._engines[number], named, batch_size))
        names = self._names[number]
        common = {name: batch[names.get(name, name)] for name in self.arrays}
        return [self.of(number, common) for number in range(len(self._engines))]

    def _random(
        self, shapes: Mapping[str, Sequence[int]], timed: Mapping[str, Sequence[int]], seed: int
    ) -> dict[str, np.ndarray]:
        """Draw inputs that fit all: a size that one leaves free is the next one's."""
        specs: tuple[TensorSpec, ...] = tuple(self._engines[0].inputs)
        tuned: dict[str, Sequence[int]] = {}
        for engine, names in zip(self._engines, self._names, strict=True):
            others = {spec.name: spec.shape for spec in engine.inputs}
            specs = tuple(_joint(spec, others[names[spec.name]]) for spec in specs)
            of_engine = tuned_shapes(engine)
            for ours, theirs in names.items():
                if theirs in of_engine:
                    tuned.setdefault(ours, of_engine[theirs])
        is_single = len(specs) == len(timed) == 1
        for spec in specs:
            like = next(iter(timed.values())) if is_single else timed.get(spec.name)
            if like is not None and any(isinstance(size, str) for size in spec.shape):
                tuned[spec.name] = like
        return random_inputs(specs, tuned | dict(shapes), seed)


def pairs(what: Literal["inputs", "outputs"], first: Engine, second: Engine) -> dict[str, str]:
    """Match the tensors of two engines by name; single ones match anyway.

    Raises:
        EngineError: If they do not match.
    """
    names, others = ([spec.name for spec in getattr(engine, what)] for engine in (first, second))
    if set(names) == set(others):
        return {name: name for name in names}
    if len(names) == len(others) == 1:
        return {names[0]: others[0]}
    raise EngineError(
        f"the engines have different {what}: {', '.join(names)} against {', '.join(others)}",
        "compare engines that come from one model",
    )


def outputs_of(
    engines: Sequence[Engine], inputs: SharedInputs, batch_size: int, progress: Progress | None
) -> list[dict[str, np.ndarray]]:
    """Run all samples through all engines.

    Returns:
        For each engine its outputs, by the first engine's names, samples along axis 0.

    Raises:
        DataError: If the inputs do not fit an engine.
        EngineError: If an engine fails, or they have different outputs.
    """
    names = [pairs("outputs", engines[0], engine) for engine in engines]
    found = []
    for number, engine in enumerate(engines):
        given = inputs.of(number, inputs.arrays)
        outputs = run_samples(engine, given, batch_size, progress)
        found.append({ours: outputs[theirs] for ours, theirs in names[number].items()})
    return found


def top1(outputs: Arrays, labels: np.ndarray) -> float:
    """Give the accuracy of the first output that has a row of classes for each sample.

    Raises:
        DataError: If there is none, or the labels do not fit it.
    """
    for array in outputs.values():
        if array.ndim == 2 and array.shape[1] > 1:
            return top1_accuracy(array, np.asarray(labels))
    raise DataError(
        "labels were given, but no output has the shape (samples, classes)",
        f"the outputs are {', '.join(outputs)}",
    )


def _joint(spec: TensorSpec, other: Sequence[int | str]) -> TensorSpec:
    if len(other) != len(spec.shape):
        return spec
    sizes = zip(spec.shape, other, strict=True)
    return replace(spec, shape=tuple(m if isinstance(m, int) else n for m, n in sizes))
