"""How fast windowed attention can be at best: bytes, products and exponentials against a GPU.

Per token and head, for windows of N tokens (P: N padded to a multiple of 16) and D channels:

    bytes = 4 · D · element_bytes       q, k and v read, the output written
    products = 4 · P² · D / N           floating point operations of QKᵀ and PV
    exponentials = N

so that the intensity is N / 2 operations per byte for FP16, whatever D is.

References:
    The roofline model: Williams et al., 2009. `mma.sync` and `ex2` rates: CUDA programming guide,
    throughput of native arithmetic instructions (16 special functions per clock and SM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgeattn.errors import TargetError
from edgeattn.targets import H200, Gpu
from edgeattn.targets.gpu import cited

# What is reached at best: of a board's peak bandwidth, of the matrix units' peak rate.
MEMORY_SHARE, TENSOR_SHARE = 0.85, 0.60
# Here measured figures of the card stand for the published ones: the bandwidth of a device copy,
# which is reached by definition, and the rate of large BF16 products.
MEASURED_H200 = H200.with_figures(
    cited("measured on the card", "clock_ghz memory_gb_s fp16_tflops"),
    clock_ghz=1.75,
    memory_gb_s=4300.0,
    fp16_tflops=790.0,
)
EXPONENTIALS_PER_CLOCK = 16

Bound = Literal["memory", "products", "exponentials"]


@dataclass(frozen=True)
class Roofline:
    """The least time of an attention on a GPU, by what it is spent on.

    Attributes:
        bytes_moved: Read and written.
        memory_us: Time for them.
        products_us: Time for the matrix products, padded to tiles of 16.
        exponentials_us: Time for the softmax's exponentials.
    """

    bytes_moved: int
    memory_us: float
    products_us: float
    exponentials_us: float

    @property
    def bound(self) -> Bound:
        """What takes longest."""
        times: dict[Bound, float] = {
            "memory": self.memory_us,
            "products": self.products_us,
            "exponentials": self.exponentials_us,
        }
        return max(times, key=lambda name: times[name])

    @property
    def least_us(self) -> float:
        """The least time: everything else hides behind what takes longest."""
        return max(self.memory_us, self.products_us, self.exponentials_us)


def roofline(
    gpu: Gpu, window: int, *, tokens: int, heads: int, head_dim: int, element_bytes: int = 2
) -> Roofline:
    """Work out the least time of block windows that divide the map.

    Args:
        gpu: The GPU.
        window: Tokens on a side.
        tokens: Of the batch.
        heads: Of all groups.
        head_dim: D.
        element_bytes: Of `qkv` and the output: 2 for FP16 and BF16, 1 for INT8. The products are
            taken in FP16 either way.

    Raises:
        TargetError: If a figure of the GPU is not known.
    """
    known = (gpu.memory_gb_s, gpu.fp16_tflops, gpu.sm_count, gpu.clock_ghz)
    if None in known:
        raise TargetError(f"not all figures of {gpu.name} are known: {known}")
    bandwidth, tflops, sm_count, clock = (float(value or 0) for value in known)
    share = 1.0 if gpu == MEASURED_H200 else MEMORY_SHARE
    window_tokens = window * window
    padded = math.ceil(window_tokens / 16) * 16
    rows = tokens * heads
    bytes_moved = rows * 4 * head_dim * element_bytes
    products = rows * 4 * padded**2 * head_dim / window_tokens
    return Roofline(
        bytes_moved,
        bytes_moved / (bandwidth * share * 1e3),
        products / (tflops * TENSOR_SHARE * 1e6),
        rows * window_tokens / (EXPONENTIALS_PER_CLOCK * sm_count * clock * 1e3),
    )
