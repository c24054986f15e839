"""The treemap: areas are times, and nothing covers anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.profiling.page.treemap import squarified, treemap
from tests.edgeattn.profiling.page import reports

SIZES = st.lists(st.floats(0.001, 1000), min_size=1, max_size=40)


@given(SIZES, st.floats(0.2, 5))
def test_each_area_is_its_share_and_none_overlap(sizes, aspect):
    boxes = squarified(sizes, aspect)
    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(1e6 * size / sum(sizes), rel=1e-6)
        assert box.left >= -1e-6
        assert box.top >= -1e-6
        assert box.left + box.width <= 1000 + 1e-6
        assert box.top + box.height <= 1000 + 1e-6
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            shared_x = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
            shared_y = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
            assert shared_x < 1e-6 or shared_y < 1e-6


def test_the_published_example_comes_out_as_published():
    # Bruls, Huizing, van Wijk, figure 4: 6 x 4, areas 6, 6, 4, 3, 2, 2, 1; the first two stand
    # in a column of width 3, then 4 and 3 in a row of width 3.
    boxes = squarified([6, 6, 4, 3, 2, 2, 1], 1.5)
    in_units = [(b.left * 6 / 1000, b.top * 4 / 1000, b.width * 6 / 1000) for b in boxes]
    assert in_units[0] == pytest.approx((0, 0, 3))
    assert in_units[1] == pytest.approx((0, 2, 3))
    assert in_units[2] == pytest.approx((3, 0, 12 / 7))
    assert in_units[3] == pytest.approx((3 + 12 / 7, 0, 9 / 7))


def test_every_module_is_in_its_group_and_the_shares_add_up():
    layers = reports.layer_profile()
    groups = treemap(layers)
    assert [group.text for group in groups] == [module["label"] for module in layers["modules"]]
    for group, module in zip(groups, layers["modules"], strict=True):
        area = sum(cell.box.width * cell.box.height for cell in group.cells)
        assert area == pytest.approx(1e6)
        assert group.box.width * group.box.height == pytest.approx(
            1e6 * module["ms"] / layers["total_ms"]
        )
        assert all(cell.label.startswith(module["label"]) for cell in group.cells)


def test_what_a_module_does_beside_its_own_modules_is_a_cell():
    group = next(group for group in treemap(reports.layer_profile()) if group.text == "stage 1")
    texts = {(cell.where, cell.text) for cell in group.cells}
    assert ("block 0", "attention (windows 4, 8), rest") in texts
    assert ("block 0 / attention", "group 1 (window 8)") in texts
    assert ("", "downsample") in texts


def test_modules_that_take_no_time_are_left_out():
    empty = {"path": ["a"], "label": "a", "ms": 0.0, "share": 0.0, "layers": 1, "children": []}
    assert treemap({"modules": [empty]}) == []
