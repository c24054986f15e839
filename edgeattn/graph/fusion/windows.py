"""Which windows put these tokens at these places: the index rule against what was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.moves import PAD
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
        raise UnrecognisedError("tokens of several samples attend to each other")
    for windows in _candidates(local, size):
        rows = {row.tobytes(): number for number, row in enumerate(windows.tokens)}
        if len(rows) * batch_size * (len(tokens) // (len(rows) * batch_size)) != len(tokens):
            continue
        window = np.array([rows.get(row.tobytes(), -1) for row in np.ascontiguousarray(local)])
        if (window >= 0).all():
            return PlacedWindows(windows, batch, window)
    raise UnrecognisedError("its tokens stand in no windows of the index rule")


def _candidates(local: NDArray[np.int64], size: tuple[int, int]) -> Iterator[Windows]:
    """Propose windows that have the right number of tokens and begin with the right one."""
    places = local.shape[1]
    first = int(local[0, 0])
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
                    block_axis(tape, tape.value(length), w, s, order)
                    for tape, length, w, s in zip(_tapes(), size, window, shift, strict=True)
                ]
                yield _windows(axes, window, shift, "block", order, size)
        axes = [
            grid_axis(tape, tape.value(length), w)
            for tape, length, w in zip(_tapes(), size, window, strict=True)
        ]
        yield _windows(axes, window, (0, 0), "grid", "pad_then_roll", size)


def _tapes() -> tuple[Tape, Tape]:
    return Tape("rows"), Tape("cols")


def _windows(
    axes: list[WindowAxis],
    window: tuple[int, int],
    shift: tuple[int, int],
    mode: Mode,
    order: ShiftPadOrder,
    size: tuple[int, int],
) -> Windows:
    """Cross the windows of both axes."""
    (y, row_label), (x, col_label) = (_known(axis) for axis in axes)
    y, row_label = y[:, None, :, None], row_label[:, None, :, None]
    x, col_label = x[None, :, None, :], col_label[None, :, None, :]
    count, places = y.shape[0] * x.shape[1], window[0] * window[1]
    tokens = np.where((y == PAD) | (x == PAD), PAD, y * size[1] + x).reshape(count, places)
    label = (row_label * 3 + col_label).reshape(count, places)
    return Windows(window, shift, mode, order, tokens.astype(np.int64), label)


def _known(axis: WindowAxis) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    source = axis.source.known
    assert source is not None  # the length is known
    label = axis.label.known if axis.label is not None else None
    return source, np.zeros_like(source) if label is None else label
