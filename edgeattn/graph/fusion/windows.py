"""Which windows put these tokens at these places: the index rule against what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.runs import PAD
from edgeattn.graph.tape import Tape
from edgeattn.graph.window_axes import WindowAxis, block_axis, grid_axis
from edgeattn.spec import Mode, ShiftPadOrder


@dataclass(frozen=True)
class Windows:
    """Windows of a map.

    Attributes:
        window_size: Rows and columns.
        shift_size: Likewise.
        mode: `block` or `grid`.
        order: Whether the map is padded before or after it is rolled.
        tokens: `[windows, places]`: token of the map at each place, or `PAD`.
        label: `[windows, places]`: tokens see each other iff theirs agree.
    """

    window_size: tuple[int, int]
    shift_size: tuple[int, int]
    mode: Mode
    order: ShiftPadOrder
    tokens: NDArray[np.int64]
    label: NDArray[np.int64]


@dataclass(frozen=True)
class PlacedWindows:
    """Windows, and which of them each row of tokens is.

    Attributes:
        windows: The windows.
        batch: `[rows]`: map of each row.
        window: `[rows]`: window of each row.
    """

    windows: Windows
    batch: NDArray[np.int64]
    window: NDArray[np.int64]


def find_windows(
    tokens: NDArray[np.int64], batch_size: int, size: tuple[int, int]
) -> PlacedWindows:
    """Find the windows that rows of tokens are.

    Args:
        tokens: `[rows, places]`: token of all maps together at each place, or `PAD`.
        batch_size: Number of maps.
        size: Rows and columns of a map.

    Raises:
        UnrecognisedError: If there are none.
    """
    area = size[0] * size[1]
    largest = tokens.max(axis=1)
    if (largest == PAD).any():
        raise UnrecognisedError("a window holds no token of the map")
    batch = largest // area
    local = np.where(tokens == PAD, PAD, tokens - batch[:, None] * area)
    if ((local < 0) & (tokens != PAD)).any():
        if size[0] == 1 and (tokens % area == tokens[:, :1] % area).all():
            raise UnrecognisedError(
                "its tokens stand as [L, B, C], the batch second; an attention node takes [B, L, C]"
            )
        raise UnrecognisedError("tokens of several samples attend to each other")
    for windows in _candidates(local[0], size):
        rows = {row.tobytes(): number for number, row in enumerate(windows.tokens)}
        if len(rows) * batch_size * (len(tokens) // (len(rows) * batch_size)) != len(tokens):
            continue
        window = np.array([rows.get(row.tobytes(), -1) for row in np.ascontiguousarray(local)])
        if (window >= 0).all():
            return PlacedWindows(windows, batch, window)
    raise UnrecognisedError("its tokens stand in no windows of the index rule")


def _candidates(row: NDArray[np.int64], size: tuple[int, int]) -> Iterator[Windows]:
    """Propose windows that have the right number of tokens, and a given row of them among them."""
    places = len(row)
    first = int(row[0])
    corner = divmod(first, size[1]) if first != PAD else (0, 0)
    orders: tuple[ShiftPadOrder, ...] = ("pad_then_roll", "roll_then_pad")
    for rows in range(1, places + 1):
        cols = places // rows
        if rows * cols != places:
            continue
        window = (rows, cols)
        shifts = [(0, 0)]
        if corner != (0, 0) and corner[0] < rows and corner[1] < cols:
            shifts.append(corner)
        for shift in shifts:
            for order in orders:
                axes = [
                    _known(block_axis(tape, tape.value(length), w, s, order))
                    for tape, length, w, s in zip(_tapes(), size, window, shift, strict=True)
                ]
                if _holds(axes, row, size):
                    yield _windows(axes, window, shift, "block", order, size)
        axes = [
            _known(grid_axis(tape, tape.value(length), w))
            for tape, length, w in zip(_tapes(), size, window, strict=True)
        ]
        if _holds(axes, row, size):
            yield _windows(axes, window, (0, 0), "grid", "pad_then_roll", size)


def _tapes() -> tuple[Tape, Tape]:
    return Tape("rows"), Tape("cols")


@dataclass(frozen=True)
class _Axis:
    """Windows along one axis.

    Attributes:
        source: `[windows, places]`: row or column at each place, or `PAD`.
        label: Likewise: tokens see each other iff theirs agree.
    """

    source: NDArray[np.int64]
    label: NDArray[np.int64]


def _known(axis: WindowAxis) -> _Axis:
    source = axis.source.known
    assert source is not None  # the length is known
    label = axis.label.known if axis.label is not None else None
    return _Axis(source, np.zeros_like(source) if label is None else label)


def _holds(axes: Sequence[_Axis], row: NDArray[np.int64], size: tuple[int, int]) -> bool:
    """Tell whether one of the windows is a row of tokens; they are not all written down for it."""
    y, x = (axis.source for axis in axes)
    begins = _crossed(y[:, :1], x[:, :1], size)[:, :, 0] == row[0]
    return any(
        np.array_equal(_crossed(y[i : i + 1], x[j : j + 1], size)[0, 0], row)
        for i, j in np.argwhere(begins)
    )


def _crossed(
    y: NDArray[np.int64], x: NDArray[np.int64], size: tuple[int, int]
) -> NDArray[np.int64]:
    """Give the tokens of windows, `[rows of windows, columns of them, places]`."""
    y, x = y[:, None, :, None], x[None, :, None, :]
    tokens = np.where((y == PAD) | (x == PAD), PAD, y * size[1] + x)
    return tokens.reshape(*tokens.shape[:2], -1)


def _windows(
    axes: Sequence[_Axis],
    window: tuple[int, int],
    shift: tuple[int, int],
    mode: Mode,
    order: ShiftPadOrder,
    size: tuple[int, int],
) -> Windows:
    """Cross the windows of both axes."""
    y, x = axes
    tokens = _crossed(y.source, x.source, size).astype(np.int64, copy=False)
    label = y.label[:, None, :, None] * 3 + x.label[None, :, None, :]
    shape = (-1, tokens.shape[-1])
    return Windows(window, shift, mode, order, tokens.reshape(shape), label.reshape(shape))
