"""The index rule of the attention operator, one axis at a time, as values on a tape.

For static maps the indices are constants; for dynamic ones they are computed from the length in
the graph, by the same formulas (docs/operator.md, The index rule).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeattn.graph.tape import Tape, Value
from edgeattn.spec import ShiftPadOrder

PAD = -1


@dataclass(frozen=True)
class WindowAxis:
    """Windows along one axis.

    Attributes:
        source: `[count, window]`: token at each place, or `PAD`.
        label: `[count, window]`: places see each other iff theirs agree; `None` if all agree.
        window_of: `[length]`: window in which each token stands.
        member_of: `[length]`: its place in that window.
        count: Number of windows.
        window: Tokens per window.
    """

    source: Value
    label: Value | None
    window_of: Value
    member_of: Value
    count: Value
    window: Value


def block_axis(
    tape: Tape, length: Value, window_size: int, shift_size: int, order: ShiftPadOrder
) -> WindowAxis:
    """Cut an axis into consecutive windows, the last one padded, after a cyclic shift."""
    window = tape.value(window_size) if window_size else length
    count = (length + window - 1) // window
    padded = count * window
    shift = tape.where(count.equals(1), 0, shift_size)
    place, token = tape.arange(padded), tape.arange(length)
    if order == "pad_then_roll":
        rolled = (place + shift) % padded
        source = tape.where(rolled < length, rolled, PAD)
        place_of = (token + padded - shift) % padded
    else:
        source = tape.where(place < length, (place + shift) % length, PAD)
        place_of = (token + length - shift) % length
    label = None
    if shift_size and not (count.known is not None and count.known == 1):
        inner = tape.where(place >= padded - window, 1, 0)
        label = tape.where(place >= padded - shift, 2, inner).reshape(-1, window)
    return WindowAxis(
        source.reshape(-1, window), label, place_of // window, place_of % window, count, window
    )


def grid_axis(tape: Tape, length: Value, window_size: int) -> WindowAxis:
    """Spread each window over the whole axis with a constant stride."""
    window = tape.value(window_size) if window_size else length
    count = (length + window - 1) // window
    place = tape.arange(count).unsqueeze(1) + tape.arange(window).unsqueeze(0) * count
    source = tape.where(place < length, place, PAD)
    token = tape.arange(length)
    return WindowAxis(source, None, token % count, token // count, count, window)


@dataclass(frozen=True)
class NeighborAxis:
    """Keys along one axis: `source` `[length, K]`, `offset` `[length, K]` query minus key."""

    source: Value
    offset: Value


def neighbor_axis(
    tape: Tape, length: Value, window_size: int, dilation: int, causal: bool
) -> NeighborAxis:
    """Give every token the keys nearest to it in its residue class."""
    token = tape.arange(length)
    residue, place = token % dilation, token // dilation
    class_size = (length + (dilation - 1) - residue) // dilation
    largest = (length + (dilation - 1)) // dilation
    num_keys = largest.at_most(window_size) if window_size else largest
    key = tape.arange(num_keys).unsqueeze(0)
    if causal:
        key_place = (place - num_keys + 1).unsqueeze(1) + key
        present = key_place >= 0
    else:
        keys_here = class_size.at_most(num_keys)
        start = (place - num_keys // 2).at_least(0).at_most(class_size - keys_here)
        key_place = start.unsqueeze(1) + key
        present = key < keys_here.unsqueeze(1)
    source = tape.where(present, key_place * dilation + residue.unsqueeze(1), PAD)
    return NeighborAxis(source, tape.where(present, place.unsqueeze(1) - key_place, 0))
