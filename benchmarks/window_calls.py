"""The tensors of a benchmark case, our ways to call the kernels on them, and the check of results.

Several sets of tensors take turns, so that a call does not find its data in the cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.window_cases import QKV_QUANT_SCALE, WindowCase
from edgeattn.models.operator import multi_scale_window_attention, reference_attention
from edgeattn.plugin.kernels import KernelLibrary

# Bytes of tensors that take turns and of a timed graph; a multiple of the largest L2 caches, and
# long enough that the start of a graph does not count.
_SET_BYTES = 600e6
_GRAPH_BYTES = 4e9
_MOST_CALLS = 200

# Largest relative error, of norms, against the reference in float32. Ours keeps scores and sums in
# float32; PyTorch's ways may round the scores to the type of the tensors.
OUR_ERROR = {"float16": 2e-3, "bfloat16": 1.5e-2, "float32": 1e-5}
PEER_ERROR = {"float16": 6e-3, "bfloat16": 5e-2, "float32": 1e-5}
# INT8 results may differ by one step, where a value lies between two.
INT8_ROUNDED_OTHERWISE = 0.02


class CaseTensors:
    """Inputs and outputs of a case, and the calls that work on them.

    Args:
        case: What to compute.
        device: Where.
        seed: Of the random numbers.

    Attributes:
        case: As given.
        qkv: The sets of inputs that take turns, each `[B, H, W, qkv_channels]`.
        out: The outputs of the calls that write in place, `[B, H, W, out_channels]` each.
        bias_table: `[bias_entries]` float32, or `None`.
    """

    def __init__(self, case: WindowCase, device: torch.device, seed: int = 0) -> None:
        self.case = case
        self.spec = case.spec
        generator = torch.Generator(device).manual_seed(seed)
        size = (*case.shape, self.spec.qkv_channels)
        sets = 1 if case.kind == "model" else max(2, math.ceil(_SET_BYTES / case.bytes_moved))
        in_type, out_type = getattr(torch, case.in_type), getattr(torch, case.out_type)
        self.qkv = []
        for _ in range(sets):
            values = torch.randn(size, generator=generator, device=device)
            if in_type == torch.int8:
                values = (values / QKV_QUANT_SCALE).round_().clamp_(-128, 127)
            self.qkv.append(values.to(in_type))
        self.out = [
            torch.empty((*case.shape, self.spec.out_channels), dtype=out_type, device=device)
            for _ in range(sets)
        ]
        self.bias_table = None
        if self.spec.has_bias:
            entries = self.spec.bias_entries
            self.bias_table = torch.randn(entries, generator=generator, device=device) / 2

    @property
    def calls_per_graph(self) -> int:
        """Calls of one timed graph: all sets, as often as it takes."""
        sets = len(self.qkv)
        turns = math.ceil(_GRAPH_BYTES / (sets * self.case.bytes_moved))
        return min(turns * sets, max(sets, _MOST_CALLS))

    def calls(self, call: Callable[[int], object], count: int) -> list[Callable[[], object]]:
        """Make `count` calls of a function of a set's number, the sets taking turns."""
        return [functools.partial(call, number % len(self.qkv)) for number in range(count)]

    def by_library(self, library: KernelLibrary, variant: int = 0) -> Callable[[int], Tensor]:
        """Call a kernel library in place, without PyTorch's operator."""
        table = 0 if self.bias_table is None else self.bias_table.data_ptr()
        on_gpu = self.qkv[0].is_cuda

        def call(number: int) -> Tensor:
            library.launch(
                self.spec,
                qkv=self.qkv[number].data_ptr(),
                out=self.out[number].data_ptr(),
                bias_table=table,
                shape=self.case.shape,
                in_type=self.case.in_type,
                out_type=self.case.out_type,
                variant=variant,
                stream=torch.cuda.current_stream().cuda_stream if on_gpu else 0,
            )
            return self.out[number]

        return call

    def by_operator(self, number: int) -> Tensor:
        """Call PyTorch's operator; of the INT8 form there is none."""
        return multi_scale_window_attention(self.qkv[number], self.spec, self.bias_table)

    def poison(self) -> None:
        """Fill the outputs with what no result is, so that a place left out shows."""
        for out in self.out:
            out.fill_(torch.nan if out.is_floating_point() else 111)

    @functools.cached_property
    def expected(self) -> list[Tensor]:
        """The first set's output, computed in float32 image by image: `[1, H, W, C]` each."""
        spec = replace(self.spec, qkv_quant_scale=0.0, out_quant_scale=0.0)
        scale = self.spec.qkv_quant_scale or 1.0
        return [
            reference_attention(spec, image.float() * scale, self.bias_table)
            for image in self.qkv[0].split(1)
        ]

    def error_of(self, out: Tensor) -> float:
        """Compare an output of the first set with the reference.

        Returns:
            `‖out - expected‖ / ‖expected‖`; for INT8 the share of values that were rounded
            otherwise, and infinity if one is off by more than a step.
        """
        pairs = list(zip(out.split(1), self.expected, strict=True))
        if out.dtype == torch.int8:
            scale = self.spec.out_quant_scale
            off = [_steps_off(image, expected, scale) for image, expected in pairs]
            if max(float(steps.max()) for steps in off) > 1:
                return math.inf
            return sum(int((steps > 0).sum()) for steps in off) / out.numel()
        difference = sum(_square_sum(image.float() - expected) for image, expected in pairs)
        return math.sqrt(difference / sum(_square_sum(expected) for _, expected in pairs))

    def allowed_error(self, *, ours: bool) -> float:
        """Give the bound of `error_of`."""
        if self.case.out_type == "int8":
            return INT8_ROUNDED_OTHERWISE
        return (OUR_ERROR if ours else PEER_ERROR)[self.case.out_type]


def _steps_off(image: Tensor, expected: Tensor, quant_scale: float) -> Tensor:
    return (image.float() - (expected / quant_scale).round().clamp(-128, 127)).abs()


def _square_sum(values: Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))
