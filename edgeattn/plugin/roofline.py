"""How fast attention can be at best: bytes, products and exponentials against a GPU.

What our kernel moves and computes is in `attention_cost.py`: its intensity is N / 2 operations per
byte in FP16, for windows of N tokens, whatever the channels are.

References:
    The roofline model: Williams et al., 2009. `mma.sync`, `ex2` and FP32 rates: CUDA programming
    guide, throughput of native arithmetic instructions: per clock and SM 16 special functions, and
    128 multiply-adds in FP32, 64 on sm_80. TF32 at half of FP16's rate: NVIDIA's A100, GA102 and
    Ada white papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeattn.errors import TargetError
from edgeattn.plugin.attention_cost import AttentionCost, Way, attention_costs
from edgeattn.spec import AttentionSpec, HeadGroup
from edgeattn.targets import H200, Gpu
from edgeattn.targets.gpu import cited

# What is reached at best: of a board's peak bandwidth, of the peak rate of products.
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
_FP32_LANES = {80: 64}  # of an SM, where they are not 128

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


def roofline_of(
    cost: AttentionCost, gpu: Gpu, *, way: Way = "plugin", element_bytes: int = 2
) -> Roofline:
    """Work out the least time of what an attention moves and computes.

    Args:
        cost: What that is.
        gpu: The GPU.
        way: Who computes it. In FP32 our kernel multiplies by plain arithmetic, TensorRT on the
            matrix units in TF32, as is its default.
        element_bytes: Of `qkv` and the output: 4 for FP32, 2 for FP16 and BF16, 1 for INT8. The
            products of the latter are taken in FP16.

    Raises:
        TargetError: If a figure of the GPU is not known.
    """
    known = (gpu.memory_gb_s, gpu.fp16_tflops, gpu.sm_count, gpu.clock_ghz)
    if None in known:
        raise TargetError(f"not all figures of {gpu.name} are known: {known}")
    bandwidth, tflops, sm_count, clock = (float(value or 0) for value in known)
    share = 1.0 if gpu == MEASURED_H200 else MEMORY_SHARE
    if element_bytes == 4:
        lanes = _FP32_LANES.get(gpu.architecture, 128)
        tflops = 2 * lanes * sm_count * clock / 1e3 if way == "plugin" else tflops / 2
    return Roofline(
        cost.bytes_moved,
        cost.bytes_moved / (bandwidth * share * 1e3),
        cost.products / (tflops * TENSOR_SHARE * 1e6),
        cost.exponentials / (EXPONENTIALS_PER_CLOCK * sm_count * clock * 1e3),
    )


def roofline(
    gpu: Gpu, window: int, *, tokens: int, heads: int, head_dim: int, element_bytes: int = 2
) -> Roofline:
    """Work out the least time of our kernel on block windows that divide the map.

    Args:
        gpu: The GPU.
        window: Tokens on a side.
        tokens: Of the batch.
        heads: Of all groups.
        head_dim: D.
        element_bytes: As `roofline_of` takes it.

    Raises:
        TargetError: If a figure of the GPU is not known.
    """
    spec = AttentionSpec(head_dim, heads, (HeadGroup(heads, (window, window)),))
    of_one = attention_costs(spec, 1, window, window, element_bytes=element_bytes)["plugin"]
    windows = tokens / window**2
    cost = AttentionCost(
        round(of_one.bytes_moved * windows),
        round(of_one.products * windows),
        round(of_one.exponentials * windows),
    )
    return roofline_of(cost, gpu, element_bytes=element_bytes)
