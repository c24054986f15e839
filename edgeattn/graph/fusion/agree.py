"""One spec from what several sizes of a graph tell of one attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.match import Match

_Told = TypeVar("_Told")
_Table = NDArray[np.float32] | None


def agree(matches: Sequence[Match]) -> Match:
    """Put together what several sizes tell.

    Args:
        matches: Of one attention, at least one.

    Returns:
        The first of them, with what it did not tell filled in from the others.

    Raises:
        UnrecognisedError: If they contradict each other.
    """
    first = matches[0]
    for other in matches[1:]:
        same = (
            first.tokens == other.tokens
            and first.is_projected == other.is_projected
            and first.layout == other.layout
            and first.norms == other.norms
            and first.projections == other.projections
            and first.window_size == other.window_size
            and first.mode == other.mode
            and first.is_cosine == other.is_cosine
            and _agree_on_table(first.table, other.table)
            and np.allclose(first.scale, other.scale, rtol=1e-6, atol=0)
            and all(map(np.array_equal, first.channels, other.channels))
        )
        if not same:
            raise UnrecognisedError("its windows depend on the size of the map")
        if first.layout == "list" and first.size != other.size:
            raise UnrecognisedError("its tokens are a list, and no tensor tells how long a row is")
        common = {output.name for output in other.outputs}
        outputs = tuple(output for output in first.outputs if output.name in common)
        if not outputs:
            raise UnrecognisedError("its result stands elsewhere at another size of the map")
        rows, cols = zip(first.shift_size, other.shift_size, strict=True)
        first = dataclasses.replace(
            first,
            outputs=outputs,
            table=_filled(first.table, other.table),
            shift_size=(_told(*rows), _told(*cols)),
            order=_told(first.order, other.order),
            pad_mode=_told(first.pad_mode, other.pad_mode),
            pads=other.pads if first.pad_mode is None else first.pads,
            mask_value=_told(first.mask_value, other.mask_value),
        )
    return first


def is_untold(match: Match) -> bool:
    """Tell whether other sizes may tell something of a map that these did not."""
    is_map = match.layout == "map" and 0 not in match.window_size
    untold = is_padding_untold(match) or is_table_untold(match) or None in match.shift_size
    return is_map and untold


def is_padding_untold(match: Match) -> bool:
    """Tell whether it is not known what padded tokens do."""
    return match.pad_mode is None or (match.order is None and any(match.shift_size))


def is_table_untold(match: Match) -> bool:
    """Tell whether no two tokens had some of the relative positions."""
    return match.table is not None and bool(np.isnan(match.table).any())


def settled(match: Match, matches: Sequence[Match], *, has_open_sides: bool) -> Match:
    """Settle what no size told.

    Args:
        match: What the sizes told together.
        matches: What each of them told.
        has_open_sides: Whether the map may be of other sizes than those.

    Raises:
        UnrecognisedError: If it matters at other sizes.
    """
    if has_open_sides:
        untold = _untold_elsewhere(match, matches)
        if untold:
            raise UnrecognisedError(f"no size that it was looked at tells {untold}")
    if match.table is None:
        return match
    return dataclasses.replace(match, table=np.nan_to_num(match.table))  # nobody reads these


def _told(one: _Told | None, other: _Told | None) -> _Told | None:
    if one is not None and other is not None and one != other:
        raise UnrecognisedError("its windows depend on the size of the map")
    return other if one is None else one


def _untold_elsewhere(match: Match, matches: Sequence[Match]) -> str:
    """Name what is not known of maps of other sizes; nothing if all is."""
    if is_table_untold(match):
        return "what is added at all relative positions"
    lengths = zip(*(each.size for each in matches), strict=True)
    for shift, window, of_axis in zip(match.shift_size, match.window_size, lengths, strict=True):
        # An axis that was of one length at all sizes is taken to have that one alone.
        if shift is None and window and match.layout == "map" and len(set(of_axis)) > 1:
            return "by how much its windows are shifted"
    if match.pad_mode is not None and match.order is None and any(match.shift_size):
        return "whether it is padded or shifted first"
    return ""


def _agree_on_table(one: _Table, other: _Table) -> bool:
    """Compare what both tell."""
    if one is None or other is None:
        return one is other
    if one.shape != other.shape:
        return False
    both = ~(np.isnan(one) | np.isnan(other))
    return np.allclose(one[both], other[both], rtol=1e-5, atol=1e-6)


def _filled(one: _Table, other: _Table) -> _Table:
    return one if one is None or other is None else np.where(np.isnan(one), other, one)
