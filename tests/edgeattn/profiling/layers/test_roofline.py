"""Shares of the ceiling, against divisions by hand."""

from __future__ import annotations

import pytest

from edgeattn.profiling.layers.cost import Cost
from edgeattn.profiling.layers.roofline import Ceiling, gpu_ceiling, with_rates
from edgeattn.profiling.layers.rows import LayerRow
from edgeattn.targets import AGX_ORIN, Gpu

CEILING = Ceiling("by hand", 100.0, {"float16": 2000.0})


def row(precision: str = "float16", median_ms: float = 0.5) -> LayerRow:
    return LayerRow("r", "MatMul", (), 1.0, median_ms, 1.0, 0.1, precision=precision)


def test_rates_are_per_second():
    rated = with_rates(row(), Cost(5_000_000, 8_000_000, 0))
    assert rated.gb_s == pytest.approx(10.0)
    assert rated.gflop_s == pytest.approx(16.0)
    assert (rated.ceiling_share, rated.bound) == (None, "")


def test_a_layer_of_many_bytes_is_bound_by_memory():
    # 5 MB at 100 GB/s take 0.05 ms, 8 MFLOP at 2 TFLOP/s take 0.004 ms; it took 0.5 ms.
    rated = with_rates(row(), Cost(5_000_000, 9_000_000, 8_000_000), CEILING)
    assert rated.bound == "memory"
    assert rated.ceiling_share == pytest.approx(0.1)


def test_a_layer_of_many_products_is_bound_by_compute():
    rated = with_rates(row(), Cost(5_000, 900_000_000, 800_000_000), CEILING)
    assert rated.bound == "compute"
    assert rated.ceiling_share == pytest.approx(0.8)


def test_products_of_a_type_without_a_known_peak_have_no_share():
    rated = with_rates(row("float32"), Cost(5_000_000, 8_000_000, 8_000_000), CEILING)
    assert (rated.ceiling_share, rated.bound) == (None, "")
    # Without products the memory is all that bounds.
    assert with_rates(row("float32"), Cost(5_000_000, 8_000_000, 0), CEILING).bound == "memory"


@pytest.mark.parametrize("cost", [Cost(None, 1, 1), Cost(1, None, 0), Cost(None, None, 0)])
def test_what_is_not_known_has_no_share(cost):
    rated = with_rates(row(), cost, CEILING)
    assert (rated.ceiling_share, rated.bound) == (None, "")
    assert (rated.gb_s is None, rated.gflop_s is None) == (cost.bytes is None, cost.flops is None)


def test_a_layer_of_no_time_has_no_rates():
    rated = with_rates(row(median_ms=0.0), Cost(8, 8, 8), CEILING)
    assert (rated.gb_s, rated.gflop_s, rated.ceiling_share) == (None, None, None)
    assert (rated.bytes, rated.flops) == (8, 8)


def test_a_layer_that_moves_and_computes_nothing_has_no_bound():
    assert with_rates(row(), Cost(0, 0, 0), CEILING).ceiling_share == 0.0


def test_the_ceiling_of_a_board_is_what_is_published_and_no_more():
    ceiling = gpu_ceiling(AGX_ORIN)
    assert ceiling.gb_s == 204.8
    assert ceiling.gflop_s == {"float16": 42600.0, "bfloat16": 42600.0, "int8": 85000.0}
    assert "AGX Orin" in ceiling.device
    unknown = gpu_ceiling(Gpu("a card", 86, None, None, None, None, None))
    assert (unknown.gb_s, unknown.gflop_s) == (None, {})
    assert with_rates(row(), Cost(8, 8, 8), unknown).ceiling_share is None
