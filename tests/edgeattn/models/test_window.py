"""The index rule in torch: properties of the windows, and neighborhoods against a definition."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.errors import SpecError
from edgeattn.models.window import (
    PAD,
    AxisWindows,
    axis_grid,
    axis_neighbors,
    axis_windows,
    map_neighbors,
    map_windows,
)
from edgeattn.spec import SHIFT_PAD_ORDERS, HeadGroup
from tests import oracle

LENGTHS = st.integers(1, 40)
WINDOWS = st.integers(0, 12)
ORDERS = st.sampled_from(SHIFT_PAD_ORDERS)


@st.composite
def _windows_and_shifts(draw: st.DrawFn) -> tuple[int, int]:
    window = draw(WINDOWS)
    return window, draw(st.integers(0, max(window - 1, 0)))


def _assert_covers(windows: AxisWindows, length: int, window: int) -> None:
    window = window or length
    num_windows = -(-length // window)
    assert windows.source.shape == windows.label.shape == (num_windows, window)
    real = windows.source[windows.source != PAD]
    assert sorted(real.tolist()) == list(range(length))


@given(LENGTHS, _windows_and_shifts(), ORDERS)
def test_every_token_stands_in_exactly_one_shifted_window(
    length: int, sizes: tuple[int, int], order: str
) -> None:
    window, shift = sizes
    _assert_covers(axis_windows(length, window, shift, order), length, window)


@given(LENGTHS, WINDOWS)
def test_every_token_stands_in_exactly_one_grid_window(length: int, window: int) -> None:
    windows = axis_grid(length, window)
    _assert_covers(windows, length, window)
    assert not windows.label.any()


@given(LENGTHS, _windows_and_shifts(), ORDERS)
def test_windows_are_those_of_the_oracle(length: int, sizes: tuple[int, int], order: str) -> None:
    window, shift = sizes
    places = oracle.axis_places(length, window, shift, "block", order)
    windows = axis_windows(length, window, shift, order)
    sources = [PAD if place.source is None else place.source for place in places]
    assert windows.source.flatten().tolist() == sources
    assert windows.label.flatten().tolist() == [place.label for place in places]


@given(LENGTHS, _windows_and_shifts())
def test_labels_agree_where_the_map_was_not_torn(length: int, sizes: tuple[int, int]) -> None:
    window, shift = sizes
    windows = axis_windows(length, window, shift, "pad_then_roll")
    for source, label in zip(windows.source.tolist(), windows.label.tolist(), strict=True):
        real = [(i, t, label[i]) for i, t in enumerate(source) if t != PAD]
        for (i, t, one), (j, u, other) in product(real, repeat=2):
            assert (one == other) == (t - u == i - j)


def test_a_shift_is_ignored_where_one_window_covers_the_axis() -> None:
    for length in (1, 5, 7):
        windows = axis_windows(length, 7, 3, "pad_then_roll")
        assert windows.source.tolist() == [[*range(length), *[PAD] * (7 - length)]]
        assert not windows.label.any()


def test_the_two_orders_differ_only_where_a_shifted_axis_is_padded() -> None:
    for length, shift, differ in ((12, 2, False), (11, 0, False), (11, 2, True)):
        one, other = (axis_windows(length, 4, shift, order) for order in SHIFT_PAD_ORDERS)
        assert torch.equal(one.source, other.source) != differ


def test_a_grid_window_holds_tokens_at_a_constant_stride() -> None:
    assert axis_grid(6, 3).source.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert axis_grid(7, 3).source.tolist() == [[0, 3, 6], [1, 4, PAD], [2, 5, PAD]]


@given(LENGTHS, WINDOWS, st.integers(1, 6), st.booleans())
def test_neighbors_are_the_nearest_tokens_of_the_residue_class(
    length: int, window: int, dilation: int, causal: bool
) -> None:
    neighbors = axis_neighbors(length, window, dilation, causal)
    assert neighbors.source.shape == neighbors.offset.shape
    for query in range(length):
        reachable = [t for t in range(length) if (t - query) % dilation == 0]
        if causal:
            reachable = [t for t in reachable if t <= query]
        # Of two tokens at the same distance the left one comes first.
        nearest = sorted(reachable, key=lambda t: (abs(t - query), t))
        expected = sorted(nearest[: window or length])
        present = neighbors.source[query] != PAD
        assert neighbors.source[query][present].tolist() == expected
        offsets = [(query - t) // dilation for t in expected]
        assert neighbors.offset[query][present].tolist() == offsets


def test_neighborhoods_are_clamped_at_the_borders_and_never_shrunk() -> None:
    assert axis_neighbors(5, 3, 1, causal=False).source.tolist() == [
        [0, 1, 2],
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [2, 3, 4],
    ]


def test_an_even_neighborhood_reaches_one_further_left() -> None:
    assert axis_neighbors(6, 4, 1, causal=False).source[3].tolist() == [1, 2, 3, 4]


def test_causal_neighborhoods_end_at_the_query_and_are_fewer_at_the_beginning() -> None:
    source = axis_neighbors(4, 3, 1, causal=True).source
    assert source.tolist() == [[PAD, PAD, 0], [PAD, 0, 1], [0, 1, 2], [1, 2, 3]]


GROUPS = {
    "block": HeadGroup(1, (4, 3), (2, 1)),
    "stripes": HeadGroup(1, (0, 2)),
    "grid": HeadGroup(1, (3, 2), mode="grid"),
}


@pytest.mark.parametrize("order", SHIFT_PAD_ORDERS)
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_a_map_has_every_token_once_and_knows_its_place(group: HeadGroup, order: str) -> None:
    height, width = 7, 8
    windows = map_windows(height, width, group, order)
    flat = windows.source.flatten()
    assert sorted(flat[flat != PAD].tolist()) == list(range(height * width))
    assert flat[windows.place].tolist() == list(range(height * width))


@pytest.mark.parametrize("order", SHIFT_PAD_ORDERS)
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_tokens_of_a_map_share_windows_and_labels_as_the_oracle_says(
    group: HeadGroup, order: str
) -> None:
    height, width = 7, 8
    windows = map_windows(height, width, group, order)
    tokens = windows.source.shape[1]
    for token in range(height * width):
        window, place = divmod(int(windows.place[token]), tokens)
        agrees = windows.label[window] == windows.label[window, place]
        keys = oracle.keys_of(group, divmod(token, width), (height, width), order)
        sources = [PAD if k.source is None else k.source[0] * width + k.source[1] for k in keys]
        assert windows.source[window].tolist() == sources
        assert agrees.tolist() == [key.agrees for key in keys]


def test_bias_entries_run_over_query_minus_key_row_by_row() -> None:
    rows, cols = 2, 3
    windows = map_windows(4, 6, HeadGroup(1, (rows, cols)), "pad_then_roll")
    places = list(product(range(rows), range(cols)))
    for (q, (qy, qx)), (k, (ky, kx)) in product(enumerate(places), repeat=2):
        expected = (qy - ky + rows - 1) * (2 * cols - 1) + (qx - kx + cols - 1)
        assert windows.bias_index[q, k] == expected


def test_neighbors_of_a_map_are_the_product_of_those_of_its_axes() -> None:
    height, width = 5, 7
    group = HeadGroup(1, (3, 2), mode="neighborhood", dilation=(2, 3))
    neighbors = map_neighbors(height, width, group)
    for token in range(height * width):
        keys = oracle.keys_of(group, divmod(token, width), (height, width))
        present = neighbors.source[token] != PAD
        sources = [row * width + col for row, col in (key.source for key in keys)]
        entries = [(dy + 2) * 3 + (dx + 1) for dy, dx in (key.delta for key in keys)]
        assert neighbors.source[token][present].tolist() == sources
        assert neighbors.bias_index[token][present].tolist() == entries


def test_a_causal_group_refuses_a_map_of_several_rows() -> None:
    group = HeadGroup(1, (1, 3), mode="neighborhood", causal=True)
    with pytest.raises(SpecError, match=r"works on sequences \(H = 1\), got H = 2"):
        map_neighbors(2, 8, group)
