"""Sizes of its inputs at which a graph is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from edgeattn.graph.files import value_shape

# Of rows and columns (or of a sequence): with and without a rest by every usual window and stride,
# and so large that the maps of the last stages hold several windows.
_SIDES = ((256, 288), (235, 251), (224, 192), (64, 96), (61, 44), (37, 45))
# Where those tell too little: of every rest by small windows, after patches of any size.
_MORE_SIDES = (
    *((38, 47), (34, 52), (45, 51), (59, 67), (75, 83), (107, 115), (131, 139), (171, 187)),
    *((36, 44), (60, 52), (76, 92), (100, 116), (140, 148), (180, 196), (228, 244), (260, 276)),
    *((40, 56), (72, 88), (120, 136), (152, 168), (160, 192), (288, 320), (336, 416)),
    *((243, 259), (299, 307), (363, 371), (433, 390), (448, 480)),
)
_BATCH = 2
# Sizes of one graph that are looked at first: one that windows divide, one that they do not.
MOST_SIZES = 2


def is_static(model: onnx.ModelProto) -> bool:
    """Tell whether all inputs of a graph have one size."""
    shapes = _input_shapes(model).values()
    return all(isinstance(size, int) for shape in shapes for size in shape)


def input_sizes(model: onnx.ModelProto) -> Iterator[Mapping[str, tuple[int, ...]]]:
    """Propose shapes of the inputs by name, one proposal for a graph without dynamic axes."""
    for sides in _SIDES[:1] if is_static(model) else _SIDES:
        yield {name: _sized(shape, sides) for name, shape in _input_shapes(model).items()}


def more_input_sizes(model: onnx.ModelProto) -> Iterator[Mapping[str, tuple[int, ...]]]:
    """Propose further shapes of the inputs of a dynamic graph by name."""
    for sides in () if is_static(model) else _MORE_SIDES:
        yield {name: _sized(shape, sides) for name, shape in _input_shapes(model).items()}


def sample_sizes(model: onnx.ModelProto) -> Mapping[str, tuple[int, ...]] | None:
    """Give shapes of one sample by name; `None` where inputs leave more than their batch open."""
    shapes = _input_shapes(model)
    if not all(isinstance(size, int) for shape in shapes.values() for size in shape[1:]):
        return None
    return {
        name: tuple(size if isinstance(size, int) else 1 for size in shape)
        for name, shape in shapes.items()
    }


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
