"""Sizes of its inputs at which a graph is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import onnx

from edgeattn.graph.files import value_shape

Shape = tuple[int | str | None, ...]
Shapes = Mapping[str, Shape]
Sides = tuple[int, int]

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
# Where inputs leave more open than a batch and two sides: how many channels an image may have, and
# whether they stand before the sides or behind them. What does not fit, the graph's nodes refuse.
_CHANNELS = ((3, 0), (1, 0), (3, -1), (1, -1))
# Sizes of one graph that are looked at first: one that windows divide, one that they do not.
MOST_SIZES = 2


def is_static(model: onnx.ModelProto) -> bool:
    """Tell whether all inputs of a graph have one size."""
    shapes = _input_shapes(model).values()
    return all(isinstance(size, int) for shape in shapes for size in shape)


def input_sizes(model: onnx.ModelProto) -> Iterator[Mapping[str, tuple[int, ...]]]:
    """Propose shapes of the inputs by name, one proposal for a graph without open sides."""
    yield from _proposals(_input_shapes(model), _SIDES)


def more_input_sizes(model: onnx.ModelProto) -> Iterator[Mapping[str, tuple[int, ...]]]:
    """Propose further shapes of the inputs by name; none for a graph without open sides."""
    shapes = _input_shapes(model)
    proposed = list(_proposals(shapes, _SIDES))
    yield from (each for each in _proposals(shapes, _MORE_SIDES) if each not in proposed)


def sample_sizes(model: onnx.ModelProto) -> Mapping[str, tuple[int, ...]] | None:
    """Give shapes of one sample by name; `None` where inputs leave more than their batch open."""
    shapes = _input_shapes(model)
    if not all(isinstance(size, int) for shape in shapes.values() for size in shape[1:]):
        return None
    return {
        name: tuple(size if isinstance(size, int) else 1 for size in shape)
        for name, shape in shapes.items()
    }


def _input_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return {v.name: tuple(value_shape(v) or ()) for v in model.graph.input if v.name not in weights}


def _proposals(shapes: Shapes, all_sides: Sequence[Sides]) -> Iterator[dict[str, tuple[int, ...]]]:
    has_open_channels = any(len(_open_axes(shape)) > 2 for shape in shapes.values())
    proposed: list[dict[str, tuple[int, ...]]] = []
    for channels in _CHANNELS if has_open_channels else _CHANNELS[:1]:
        for sides in all_sides:
            sized = {name: _sized(shape, sides, *channels) for name, shape in shapes.items()}
            if sized not in proposed:
                proposed.append(sized)
                yield sized


def _sized(shape: Shape, sides: Sides, channels: int, place: int) -> tuple[int, ...]:
    """Fill in the batch, the channels where they are open, and the sides by their order."""
    sized = [size if isinstance(size, int) else _BATCH for size in shape]
    axes = _open_axes(shape)
    if len(axes) > 2:
        sized[axes.pop(place)] = channels
    for axis, side in zip_longest(axes, sides[: len(axes)], fillvalue=1):
        sized[axis] = side
    return tuple(sized)


def _open_axes(shape: Shape) -> list[int]:
    """List the axes behind the batch whose size is open."""
    return [axis for axis, size in enumerate(shape) if axis and not isinstance(size, int)]
