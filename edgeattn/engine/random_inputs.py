"""Inputs for a run whose results do not matter, only their time: seeded, and of sensible values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeattn.calibration.random_samples import random_array
from edgeattn.engine.base import Engine, TensorSpec, near_misses
from edgeattn.errors import DataError


def random_inputs(
    specs: Sequence[TensorSpec],
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Draw an array for each input of an engine.

    Args:
        specs: The inputs.
        shapes: Shapes by name, for inputs with free dimensions.
        seed: Equal seeds give equal arrays.

    Raises:
        DataError: If a free dimension has no size, or a shape is given to an unknown input.
    """
    shapes = dict(shapes or {})
    rng = np.random.default_rng(seed)
    names = [spec.name for spec in specs]
    for name in shapes:
        if name not in names:
            raise DataError(f"the engine has no input {name}", near_misses(name, names))
    return {
        spec.name: random_array(spec, _shape(spec, shapes.get(spec.name)), rng) for spec in specs
    }


def tuned_shapes(engine: Engine) -> dict[str, tuple[int, ...]]:
    """Find the shapes that an engine was tuned for, of its inputs with free dimensions.

    Returns:
        Shapes by name; none for an engine that was tuned for no shape.
    """
    profiles = engine.manifest.report.get("profiles") or [{}]
    used = engine.settings.get("profile", 0)
    tuned = profiles[used].get("opt", {}) if used < len(profiles) else {}
    free = [spec.name for spec in engine.inputs if any(isinstance(d, str) for d in spec.shape)]
    return {name: tuple(tuned[name]) for name in free if name in tuned}


def _shape(spec: TensorSpec, given: Sequence[int] | None) -> tuple[int, ...]:
    shape = spec.shape if given is None else tuple(given)
    free = [size for size in shape if isinstance(size, str)]
    if free:
        raise DataError(
            f"the input {spec} has no size for the dimension {free[0]}",
            f"give its shape, such as {spec.name}:1x3x224x224, or arrays",
        )
    return tuple(int(size) for size in shape)
