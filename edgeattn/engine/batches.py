"""Many samples through an engine: split into the batches it takes, put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from edgeattn.engine.base import Engine, check_inputs
from edgeattn.errors import EngineError

BATCH_SIZE = 8


def run_samples(
    engine: Engine,
    inputs: Mapping[str, np.ndarray],
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> dict[str, np.ndarray]:
    """Run an engine on any number of samples.

    Args:
        engine: The engine.
        inputs: Arrays by name, samples along axis 0; see `batches`.
        batch_size: Samples per batch if the engine leaves that free.
        progress: Called with samples done, samples in all, and the step at hand.

    Returns:
        Outputs by name, samples along axis 0.

    Raises:
        DataError: If the inputs do not fit the engine or each other.
        EngineError: If the engine fails, or an output of several batches has no axis of samples.
    """
    parts: list[dict[str, np.ndarray]] = []
    done = 0
    for arrays, count in batches(engine, inputs, batch_size):
        if progress is not None:
            progress(done, len(next(iter(inputs.values()))) if count else None, "run")
        outputs = engine.run(arrays)
        if count is None:
            return outputs
        given = len(next(iter(arrays.values())))
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != given:
                raise EngineError(
                    f"the output {name} of shape {array.shape} has no row for each of the "
                    f"{given} samples of a batch"
                )
        parts.append({name: array[:count] for name, array in outputs.items()})
        done += count
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def batches(
    engine: Engine, inputs: Mapping[str, np.ndarray], batch_size: int = BATCH_SIZE
) -> Iterator[tuple[dict[str, np.ndarray], int | None]]:
    """Split samples into the batches that an engine takes.

    Args:
        engine: The engine. If its batch is fixed, the last batch is filled up with copies of the
            last sample. If its inputs share no axis of samples, everything is one batch.
        inputs: Arrays by name, samples along axis 0.
        batch_size: Samples per batch if the engine leaves that free.

    Yields:
        Arrays of one batch, and how many of its samples are no filling; `None` if the inputs
        hold no samples.

    Raises:
        DataError: If the inputs do not fit the engine or each other.
    """
    if not _has_samples(engine):
        yield check_inputs(engine.inputs, inputs), None
        return
    of_samples = [replace(spec, shape=("samples", *spec.shape[1:])) for spec in engine.inputs]
    arrays = check_inputs(of_samples, inputs)
    total = len(next(iter(arrays.values())))
    fixed = fixed_batch_size(engine)
    size = fixed or min(batch_size, total)
    for start in range(0, total, size):
        count = min(size, total - start)
        rows = np.minimum(np.arange(start, start + size), total - 1)
        if fixed is None:
            rows = rows[:count]
        yield {name: array[rows] for name, array in arrays.items()}, count


def fixed_batch_size(engine: Engine) -> int | None:
    """Tell how many samples an engine takes at once; `None` if any number, or none at all."""
    size = engine.inputs[0].shape[0] if _has_samples(engine) else None
    return size if isinstance(size, int) else None


def _has_samples(engine: Engine) -> bool:
    """Tell whether all inputs have the same first dimension."""
    leading = {spec.shape[:1] for spec in engine.inputs}
    return len(leading) == 1 and leading != {()}
