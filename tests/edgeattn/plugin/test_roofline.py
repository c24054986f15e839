"""The roofline against figures worked out by hand, and against its own laws."""

from __future__ import annotations

import pytest

from edgeattn.errors import TargetError
from edgeattn.plugin.roofline import MEASURED_H200, roofline
from edgeattn.targets import AGX_ORIN, ORIN_NANO_SUPER, THOR, Gpu


@pytest.mark.parametrize(
    ("gpu", "window", "products", "exponentials"),
    [
        # Time of the products and of the exponentials in units of the memory's, D = 32.
        (MEASURED_H200, 7, 0.38, 0.22),
        (MEASURED_H200, 14, 1.00, 0.89),
        (AGX_ORIN, 4, 0.05, 0.03),
        (AGX_ORIN, 7, 0.28, 0.10),
        (AGX_ORIN, 14, 0.75, 0.40),
        (AGX_ORIN, 32, 3.5, 2.1),
        (ORIN_NANO_SUPER, 12, 0.63, 0.37),
        (ORIN_NANO_SUPER, 16, 1.11, 0.67),
        (THOR, 8, 0.05, 0.12),
        (THOR, 32, 0.77, 1.85),
    ],
)
def test_what_binds_on_each_gpu(
    gpu: Gpu, window: int, products: float, exponentials: float
) -> None:
    found = roofline(gpu, window, tokens=window**2, heads=3, head_dim=32)
    assert found.products_us / found.memory_us == pytest.approx(products, rel=0.03, abs=0.006)
    assert found.exponentials_us / found.memory_us == pytest.approx(
        exponentials, rel=0.03, abs=0.006
    )


@pytest.mark.parametrize(
    ("gpu", "microseconds"),
    [(MEASURED_H200, 0.6), (AGX_ORIN, 13.8), (ORIN_NANO_SUPER, 27.7), (THOR, 10.4)],
)
def test_the_first_stage_of_swin_t_takes_at_least(gpu: Gpu, microseconds: float) -> None:
    found = roofline(gpu, 7, tokens=56 * 56, heads=3, head_dim=32)
    assert found.bytes_moved == 4 * 56 * 56 * 96 * 2
    assert found.bound == "memory"
    assert found.least_us == pytest.approx(found.memory_us)
    assert found.least_us == pytest.approx(microseconds, rel=0.08)


def test_the_intensity_does_not_depend_on_the_head_dim_and_int8_halves_the_bytes() -> None:
    small, large = (roofline(THOR, 8, tokens=64, heads=1, head_dim=d) for d in (32, 64))
    assert small.products_us / small.memory_us == pytest.approx(large.products_us / large.memory_us)
    int8 = roofline(THOR, 8, tokens=64, heads=1, head_dim=32, element_bytes=1)
    assert int8.memory_us == pytest.approx(small.memory_us / 2)
    assert int8.products_us == small.products_us


def test_large_windows_are_bound_by_products_or_exponentials() -> None:
    bounds = [
        roofline(gpu, 32, tokens=1024, heads=1, head_dim=32).bound for gpu in (AGX_ORIN, THOR)
    ]
    assert bounds == ["products", "exponentials"]


def test_a_gpu_without_figures_is_refused() -> None:
    unknown = Gpu("a card", 86, None, None, 600.0, None, None)
    with pytest.raises(TargetError, match="not all figures of a card are known"):
        roofline(unknown, 7, tokens=49, heads=1, head_dim=32)
