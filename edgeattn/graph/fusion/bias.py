"""What is added to logits, taken apart: a table of relative positions, and the mask of a shift."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.logits import Logits
from edgeattn.graph.fusion.runs import PAD
from edgeattn.graph.fusion.windows import PlacedWindows, Windows

# Sums of a bias and a mask are rounded; exporters add both in single precision.
_TOLERANCE = 2e-6
# The lowest number of half precision: what is masked by it or less has no probability left.
_NO_PROBABILITY = -65504.0
_AT_ONCE = 1 << 22  # logits to look at: a few dozen megabytes
_LOWEST = -1e30  # in the place of minus infinity, of which there are no differences


@dataclass(frozen=True)
class Bias:
    """What the attention node makes of it.

    Attributes:
        table: `[heads, (2 rows - 1) * (2 cols - 1)]`, float32, NaN at positions that no two tokens
            of a map of this size have; `None` if all else is zero.
        mask_value: Added where a shift brought tokens together.
        masks_pads: Whether padded keys are masked too.
    """

    table: NDArray[np.float32] | None
    mask_value: float
    masks_pads: bool


def split_bias(
    logits: Logits, placed: PlacedWindows, head: NDArray[np.int64], num_heads: int
) -> Bias:
    """Take apart what is added to the logits.

    Args:
        logits: What is added to the logit of each query and key.
        placed: Windows of its rows.
        head: `[rows]`: head of each row.
        num_heads: Number of heads.

    Raises:
        UnrecognisedError: If it is not the sum of a table of relative positions and one mask.
    """
    windows = placed.windows
    rows, cols = windows.window_size
    y, x = np.divmod(np.arange(rows * cols), cols)
    entry = (y[:, None] - y + rows - 1) * (2 * cols - 1) + (x[:, None] - x + cols - 1)
    is_whole = (windows.label == windows.label[:, :1]).all(1) & (windows.tokens != PAD).all(1)
    whole = is_whole[placed.window]
    if not logits.is_anything_added() and whole.all():
        return Bias(None, -math.inf, masks_pads=False)
    tables = np.full((num_heads, (2 * rows - 1) * (2 * cols - 1)), np.nan)
    for number in range(num_heads):
        first = np.flatnonzero(whole & (head == number))[:1]
        if len(first):
            tables[number, entry] = _added(logits, first)[0]
    cut = np.flatnonzero(~whole)
    mask_value, masks_pads = _read_cut_windows(
        _added(logits, cut), placed.window[cut], head[cut], windows, entry, tables
    )
    scale = _scale(tables)
    for number in range(num_heads):
        mine = np.flatnonzero(whole & (head == number))
        for some in np.array_split(mine, -(-mine.size * entry.size // _AT_ONCE) or 1):
            if not _close(_added(logits, some), tables[number][entry], scale):
                raise UnrecognisedError(
                    "what is added to its logits is no table of relative positions"
                )
    if (tables <= _NO_PROBABILITY).any():
        raise UnrecognisedError("it masks tokens of its own windows")
    table = tables.astype(np.float32) if np.nan_to_num(tables).any() else None
    return Bias(table, mask_value, masks_pads)


def _read_cut_windows(
    added: NDArray[np.float64],
    window: NDArray[np.int64],
    head: NDArray[np.int64],
    windows: Windows,
    entry: NDArray[np.int64],
    tables: NDArray[np.float64],
) -> tuple[float, bool]:
    """Read windows that hold padding, or tokens that a shift brought together.

    Args:
        added: `[rows, places, places]`.
        window: `[rows]`: window of each row.
        head: `[rows]`: head of each row.
        windows: All windows.
        entry: `[places, places]`: entry of the table.
        tables: What whole windows tell; NaN is filled in.

    Returns:
        What is added where a shift brought tokens together, and whether padded keys are masked.
    """
    label, token = windows.label[window], windows.tokens[window]
    sees = label[:, :, None] == label[:, None, :]
    real = token != PAD
    masked_pads = added[sees & real[:, :, None] & ~real[:, None, :]]
    masks_pads = bool(masked_pads.size and (masked_pads <= _NO_PROBABILITY).all())
    # What a padded token asks is cut off; what it answers counts, unless it is masked.
    counts = real[:, :, None] & (real[:, None, :] if masks_pads else True)
    plain, apart = sees & counts, ~sees & counts
    for number in range(len(tables)):
        mine = head == number
        chosen = plain[mine]
        told = np.full(tables.shape[1], np.nan)
        told[np.broadcast_to(entry, chosen.shape)[chosen]] = added[mine][chosen]
        tables[number] = np.where(np.isnan(tables[number]), told, tables[number])
    expected = tables[head][:, entry]
    scale = _scale(tables)
    if not _close(added[plain], expected[plain], scale):
        raise UnrecognisedError("what is added to its logits is no table of relative positions")
    return _mask_value((added - expected)[apart], scale), masks_pads


def _added(logits: Logits, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give what is added to some rows, `[rows, places, places]`, the lowest of it in numbers."""
    added = np.maximum(logits.added(rows), _LOWEST)
    if not np.isfinite(added).all():
        raise UnrecognisedError("what is added to its logits is infinite, or no number")
    return added


def _scale(tables: NDArray[np.float64]) -> float:
    return max(1.0, float(np.abs(tables[np.isfinite(tables)]).max(initial=0.0)))


def _close(found: NDArray[np.float64], expected: NDArray[np.float64], scale: float) -> bool:
    return bool((np.abs(found - expected) <= _TOLERANCE * scale).all())


def _mask_value(added: NDArray[np.float64], scale: float) -> float:
    """Read the number that separates tokens; minus infinity where there are none to separate."""
    known = added[~np.isnan(added)]  # without places whose bias no two tokens tell
    if not known.size or (known <= _NO_PROBABILITY).all():
        return -math.inf
    value = float(np.median(known))
    if not _close(known, np.full_like(known, value), max(scale, abs(value))):
        raise UnrecognisedError("its mask is not that of shifted windows")
    if value >= -_TOLERANCE * scale:
        raise UnrecognisedError("tokens that a shift brought together are not masked")
    rounded = round(value)  # sums of it and a bias have the bias's noise
    return float(rounded) if abs(value - rounded) <= _TOLERANCE * abs(value) * 10 else value
