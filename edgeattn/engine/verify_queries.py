"""The queries that an engine is verified with: shapes that it takes, and samples of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.calibration.random_samples import random_array
from edgeattn.engine.base import Engine, TensorSpec
from edgeattn.engine.reference import Arrays, Reference
from edgeattn.errors import DataError, EngineError

Shapes = Mapping[str, tuple[int, ...]]

# Samples in all, in at least two queries. From fewer the noise that rounding makes cannot be told:
# estimates from two samples were up to 1.8 times apart, from eight 1.3 times.
SAMPLES = 8
_BATCH = 4

# Tried for sizes that the graph leaves free and nothing else tells, until it takes one.
_FREE_SIZES = (64, 224, 32, 16, 8, 1)


@dataclass(frozen=True)
class Queries:
    """What to run.

    Attributes:
        specs: The inputs; sizes that either the graph or the engine fixes are fixed.
        batch: Samples of a query; 1 if its inputs share no first size.
        arrays: At least two queries of one shape.
        others: Further shapes to try.
        rng: Draws further samples.
    """

    specs: tuple[TensorSpec, ...]
    batch: int
    arrays: list[dict[str, NDArray[Any]]]
    others: list[Shapes]
    rng: np.random.Generator

    def draw(self, shapes: Shapes) -> dict[str, NDArray[Any]]:
        """Draw random inputs of some shape.

        Raises:
            DataError: If an input has no shape.
        """
        return _draw(self.specs, shapes, self.rng)


def make_queries(
    engine: Engine,
    reference: Reference,
    shapes: Sequence[Shapes] = (),
    inputs: Arrays | None = None,
    seed: int = 0,
) -> Queries:
    """Choose shapes, where none are given, and draw samples.

    Args:
        engine: What is verified.
        reference: Its graph on the CPU; tells which sizes the graph takes.
        shapes: Shapes by input, the main ones first.
        inputs: Real samples along axis 0.
        seed: Of the random samples.

    Raises:
        DataError: If the graph takes none of the sizes tried, an input has no shape, or fewer
            than two real samples are given.
    """
    specs = tuple(_narrowed(spec, engine) for spec in reference.inputs)
    rng = np.random.default_rng(seed)
    main, *others = shapes or default_shapes(specs, reference)
    batch = _samples_of(specs, main)
    count = max(2, math.ceil(SAMPLES / batch))
    if inputs is None:
        arrays = [_draw(specs, main, rng) for _ in range(count)]
    else:
        arrays = [_slice(inputs, query * batch, batch) for query in range(count)]
    return Queries(specs, batch, arrays, list(others), rng)


def _narrowed(spec: TensorSpec, engine: Engine) -> TensorSpec:
    """Take over the sizes that the engine fixes and the graph leaves free."""
    for tensor in engine.inputs:
        if tensor.name == spec.name and len(tensor.shape) == len(spec.shape):
            pairs = zip(spec.shape, tensor.shape, strict=True)
            return replace(spec, shape=tuple(t if isinstance(s, str) else s for s, t in pairs))
    return spec


def default_shapes(specs: Sequence[TensorSpec], reference: Reference) -> list[Shapes]:
    """Choose shapes that a graph takes: its fixed sizes; where the batch is free, some batches.

    Args:
        specs: The inputs.
        reference: The graph on the CPU.

    Raises:
        DataError: If the graph runs with none of the sizes tried for its free dimensions.
    """
    for size in _FREE_SIZES:
        main = _sized(specs, _BATCH, size)
        try:
            reference.run(_draw(specs, main, np.random.default_rng(0)))
        except EngineError:
            continue
        smaller = [_sized(specs, batch, size) for batch in (1, _BATCH - 1)]
        return [main, *(shapes for shapes in smaller if shapes != main)]
    raise DataError(
        "the graph runs with none of the sizes tried for its free dimensions",
        "give the shapes to verify with",
    )


def _sized(specs: Sequence[TensorSpec], batch: int, size: int) -> dict[str, tuple[int, ...]]:
    """Fill in free sizes: the batch, what images are resized to, else `size`."""
    return {
        spec.name: tuple(
            dim if isinstance(dim, int) else (batch if axis == 0 else _resize(spec) or size)
            for axis, dim in enumerate(spec.shape)
        )
        for spec in specs
    }


def _resize(spec: TensorSpec) -> int:
    return spec.preprocess.resize if spec.preprocess else 0


def _samples_of(specs: Sequence[TensorSpec], shapes: Shapes) -> int:
    leading = {tuple(shapes.get(spec.name, ()))[:1] for spec in specs}
    sizes = leading.pop() if len(leading) == 1 else ()
    return sizes[0] if sizes else 1


def _draw(
    specs: Sequence[TensorSpec], shapes: Shapes, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    for spec in specs:
        if spec.name not in shapes:
            raise DataError(f"the input {spec.name} has no shape to verify with", "give one")
    return {spec.name: random_array(spec, tuple(shapes[spec.name]), rng) for spec in specs}


def _slice(inputs: Arrays, start: int, count: int) -> dict[str, NDArray[Any]]:
    """Take some samples; from the first on again where there are too few."""
    total = min((len(array) for array in inputs.values()), default=0)
    if total < 2:
        raise DataError(f"{total} samples were given to verify with; expected at least 2")
    rows = np.arange(start, start + count) % total
    return {name: np.asarray(array)[rows] for name, array in inputs.items()}
