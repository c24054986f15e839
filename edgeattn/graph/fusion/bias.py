"""What is added to logits, taken apart: a table of relative positions, and the mask of a shift."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.moves import PAD
from edgeattn.graph.fusion.windows import PlacedWindows

# Sums of a bias and a mask are rounded; exporters add both in single precision.
_TOLERANCE = 2e-6
# The lowest number of half precision: what is masked by it or less has no probability left.
_NO_PROBABILITY = -65504.0
_LOWEST = -1e30  # in the place of minus infinity, of which there are no differences


@dataclass(frozen=True)
class Bias:
    """What the attention node makes of it.

    Attributes:
        table: `[heads, (2 rows - 1) * (2 cols - 1)]`, float32; `None` if all is zero.
        mask_value: Added where a shift brought tokens together.
        masks_pads: Whether padded keys are masked too.
    """

    table: NDArray[np.float32] | None
    mask_value: float
    masks_pads: bool


def split_bias(
    added: NDArray[np.float64], placed: PlacedWindows, head: NDArray[np.int64], num_heads: int
) -> Bias:
    """Take apart what is added to the logits.

    Args:
        added: `[rows, places, places]`: to the logit of each query and key.
        placed: Windows of the rows.
        head: `[rows]`: head of each row.
        num_heads: Number of heads.

    Raises:
        UnrecognisedError: If it is not the sum of a table of relative positions and one mask.
    """
    windows = placed.windows
    rows, cols = windows.window_size
    y, x = np.divmod(np.arange(rows * cols), cols)
    entry = (y[:, None] - y + rows - 1) * (2 * cols - 1) + (x[:, None] - x + cols - 1)
    label, token = windows.label[placed.window], windows.tokens[placed.window]
    sees = label[:, :, None] == label[:, None, :]
    real = token != PAD
    added = np.maximum(added, _LOWEST)
    at_pads = real[:, :, None] & ~real[:, None, :]
    masked_pads = added[sees & at_pads]
    masks_pads = bool(masked_pads.size and (masked_pads <= _NO_PROBABILITY).all())
    # What a padded token asks is cut off; what it answers counts, unless it is masked.
    counts = real[:, :, None] & (real[:, None, :] if masks_pads else True)
    plain, apart = sees & counts, ~sees & counts
    tables = np.full((num_heads, (2 * rows - 1) * (2 * cols - 1)), np.nan)
    for number in range(num_heads):
        mine = head == number
        chosen = plain[mine]
        tables[number, np.broadcast_to(entry, chosen.shape)[chosen]] = added[mine][chosen]
    expected = tables[head][:, entry]
    scale = max(1.0, float(np.abs(tables[np.isfinite(tables)]).max(initial=0.0)))
    if not _close(added[plain], expected[plain], scale):
        raise UnrecognisedError("what is added to its logits is no table of relative positions")
    mask_value = _mask_value((added - expected)[apart], scale)
    tables = np.where(np.isnan(tables), 0.0, tables)  # positions that no two tokens have
    if (tables <= _NO_PROBABILITY).any():
        raise UnrecognisedError("it masks tokens of its own windows")
    table = tables.astype(np.float32) if tables.any() else None
    return Bias(table, mask_value, masks_pads)


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
