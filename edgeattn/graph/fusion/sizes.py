"""Sizes of its inputs at which a graph is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from edgeattn.graph.files import value_shape

# Of rows and columns (or of a sequence): with and without a rest by every usual window and stride,
# and so large that the maps of the last stages hold several windows.
_SIDES = (
    (448, 480),
    (433, 390),
    (352, 300),
    (256, 256),
    (224, 224),
    (224, 192),
    (64, 96),
    (37, 45),
)
_BATCH = 2
# Sizes of one graph that are looked at: one that all windows divide, others that none does.
MOST_SIZES = 3


def is_static(model: onnx.ModelProto) -> bool:
    """Tell whether all inputs of a graph have one size."""
    shapes = _input_shapes(model).values()
    return all(isinstance(size, int) for shape in shapes for size in shape)


def input_sizes(model: onnx.ModelProto) -> Iterator[Mapping[str, tuple[int, ...]]]:
    """Propose shapes of the inputs by name, one proposal for a graph without dynamic axes."""
    for sides in _SIDES[:1] if is_static(model) else _SIDES:
        yield {name: _sized(shape, sides) for name, shape in _input_shapes(model).items()}


def _input_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | str | None, ...]]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return {v.name: tuple(value_shape(v) or ()) for v in model.graph.input if v.name not in weights}


def _sized(shape: tuple[int | str | None, ...], sides: tuple[int, int]) -> tuple[int, ...]:
    """Fill in the batch, and the sides by their order."""
    sized: list[int] = []
    free = iter(sides)
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            sized.append(size)
        else:
            sized.append(_BATCH if axis == 0 else next(free, 1))
    return tuple(sized)
