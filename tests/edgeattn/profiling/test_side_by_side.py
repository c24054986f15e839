"""What counts as surely faster: bounds decide, and the engine's own difference from itself."""

from __future__ import annotations

import pytest

from edgeattn.profiling.side_by_side import Measured


def measured(ratio: float, interval: tuple[float, float] | None) -> Measured:
    return Measured([], ratio, interval, None)


@pytest.mark.parametrize(
    ("ratio", "interval", "margin"),
    [
        (1.0, (0.97, 1.02), 0.03),
        (1.01, (1.0, 1.04), 0.04),
        (0.95, None, 0.05),
        (1.06, (1.0, 1.05), 0.06),
    ],
)
def test_noise_reaches_as_far_as_the_bounds_of_the_same_engine(ratio, interval, margin) -> None:
    assert measured(ratio, interval).margin == pytest.approx(margin)


def test_faster_is_what_is_so_at_its_upper_bound_and_by_more_than_noise() -> None:
    found = measured(0.95, (0.9, 0.98))
    assert found.is_faster(0.0)
    assert found.is_faster(0.01)
    assert not found.is_faster(0.03)
    assert not measured(0.95, (0.9, 1.0)).is_faster(0.0)
    assert not measured(0.5, None).is_faster(0.0)  # too few queries to tell
