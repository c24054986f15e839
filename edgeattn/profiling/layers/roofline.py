"""How near a layer comes to what the hardware allows: the roofline.

A layer can be no faster than its bytes at the memory's bandwidth, nor than its matrix products at
the rate of the units that compute them. Operations that are no products run on other units and
bound nothing here.

References:
    Williams, Waterman, Patterson: Roofline, 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgeattn.profiling.layers.cost import Cost
from edgeattn.profiling.layers.rows import Bound, LayerRow
from edgeattn.targets import Gpu


@dataclass(frozen=True)
class Ceiling:
    """What a device can do at best.

    Attributes:
        device: Which device, and where its figures are from.
        gb_s: Memory bandwidth in 10^9 bytes a second; `None` if not known.
        gflop_s: 10^9 operations of matrix products a second, by numpy's name of their type.
    """

    device: str
    gb_s: float | None
    gflop_s: Mapping[str, float] = field(default_factory=dict)

    def roofs(self) -> dict[str, Any]:
        """Give the figures as JSON values."""
        return {"gb_s": self.gb_s, "gflop_s": dict(self.gflop_s)}


def gpu_ceiling(gpu: Gpu) -> Ceiling:
    """Give the ceiling of a GPU: the published peaks, which no kernel quite reaches.

    Only types whose peak is known are in it: products in float32 have none.
    """
    peaks = {
        "float16": gpu.fp16_tflops,
        "bfloat16": gpu.fp16_tflops,
        "int8": gpu.int8_tops,
        "float8_e4m3fn": gpu.fp8_tflops,
        "float4_e2m1fn": gpu.fp4_tflops,
    }
    return Ceiling(
        f"{gpu.name}: published peaks ({gpu.source})",
        gpu.memory_gb_s,
        {dtype: tera * 1e3 for dtype, tera in peaks.items() if tera is not None},
    )


def with_rates(row: LayerRow, cost: Cost, ceiling: Ceiling | None = None) -> LayerRow:
    """Add a layer's cost to it, the rates that it reaches, and its share of the ceiling.

    The share is that of the nearer ceiling. It is left open where a ceiling that may be the nearer
    one is not known.

    Args:
        row: The layer with its time.
        cost: What it moves and computes.
        ceiling: What the device can do; rates alone are added without.
    """
    row = replace(
        row,
        bytes=cost.bytes,
        flops=cost.flops,
        gb_s=_rate(cost.bytes, row.median_ms),
        gflop_s=_rate(cost.flops, row.median_ms),
    )
    if ceiling is None or not row.median_ms or cost.bytes is None or cost.flops is None:
        return row
    least_ms = _least_ms(cost.bytes, cost.products, row.precision, ceiling)
    if not least_ms:
        return row
    bound = max(least_ms, key=lambda name: least_ms[name])
    return replace(row, ceiling_share=least_ms[bound] / row.median_ms, bound=bound)


def _least_ms(moved: int, products: int, precision: str, ceiling: Ceiling) -> dict[Bound, float]:
    peak = ceiling.gflop_s.get(precision)
    if ceiling.gb_s is None or (products and peak is None):
        return {}
    times: dict[Bound, float] = {"memory": moved / (ceiling.gb_s * 1e6)}
    if products and peak is not None:
        times["compute"] = products / (peak * 1e6)
    return times


def _rate(amount: int | None, milliseconds: float) -> float | None:
    """Give 10^9 a second."""
    return None if amount is None or not milliseconds else amount / (milliseconds * 1e6)
