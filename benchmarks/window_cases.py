"""What the benchmark of the attention kernels measures: cases, the bytes they must move, goals.

The fewest bytes of a call are its packed projection, read once, and its output, written once:

    bytes = batch * height * width * (3 * qkv_channels * size_in + out_channels * size_out)

where both have `heads * head_dim` channels. The tables beside them are a few kilobytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from edgeattn.spec import AttentionSpec, head_groups_from_windows

Kind = Literal["bandwidth", "padded", "model"]

SIZES = {"float16": 2, "bfloat16": 2, "int8": 1, "float32": 4}
SHORT = {"float16": "fp16", "bfloat16": "bf16", "int8": "int8", "float32": "fp32"}
WINDOWS: tuple[tuple[int, ...], ...] = ((4,), (7,), (8,), (12,), (14,), (16,), (4, 8, 16))

# What a call must move at least before a goal judges it: the largest GPUs hold 50 to 130 MB in L2.
LEAST_BYTES = 200e6

# Bytes per second of a device-to-device copy, read and written bytes both counted: measured on
# the first two, 85 % of the data sheet's bandwidth on the boards.
COPY_RATES = {
    "H200": 4.3e12,
    "H100": 3.0e12,
    "AGX Orin": 174e9,
    "Orin Nano Super": 87e9,
    "Thor": 232e9,
}

# One step of INT8 inputs that are normally distributed: four standard deviations fit.
QKV_QUANT_SCALE = 4.0 / 127


@dataclass(frozen=True)
class WindowCase:
    """One attention call.

    Attributes:
        windows: Window sizes, squares; the heads are shared out over them.
        head_dim: Channels per head.
        heads: Heads.
        batch: Images.
        height: Tokens.
        width: Tokens.
        in_type: Type of the packed projection.
        out_type: Type of the output.
        shift: Windows are shifted by half of their size.
        bias: There is a relative position bias.
        kind: `bandwidth`: large, no padding, the case of the goals; `padded`: large, no multiple
            of the window; `model`: one layer of a model at batch 1, bound by launch and L2.
    """

    windows: tuple[int, ...]
    head_dim: int
    heads: int
    batch: int
    height: int
    width: int
    in_type: str
    out_type: str
    shift: bool
    bias: bool
    kind: Kind = "bandwidth"

    @property
    def name(self) -> str:
        """A short name, such as `w7-d32-fp16-shift-bias`."""
        windows = "+".join(map(str, self.windows))
        types = SHORT[self.in_type]
        if self.out_type != self.in_type:
            types += "to" + SHORT[self.out_type]
        options = "-".join(n for n in ("shift", "bias") if getattr(self, n)) or "plain"
        size = "" if self.kind == "bandwidth" else f"-{self.kind}{self.height}x{self.width}"
        return f"w{windows}-d{self.head_dim}-{types}-{options}{size}"

    @property
    def spec(self) -> AttentionSpec:
        """The operator's attributes."""
        groups = []
        for group in head_groups_from_windows(self.heads, self.windows):
            window = group.window_size[0]
            # No shift where one window covers the map, as models have it.
            shift = window // 2 if self.shift and window < min(self.height, self.width) else 0
            groups.append(replace(group, shift_size=(shift, shift)))
        return AttentionSpec(
            self.head_dim,
            self.heads,
            tuple(groups),
            has_bias=self.bias,
            qkv_quant_scale=QKV_QUANT_SCALE if self.in_type == "int8" else 0.0,
            out_quant_scale=self._out_quant_scale if self.out_type == "int8" else 0.0,
        )

    @property
    def _out_quant_scale(self) -> float:
        """A step that lets four standard deviations fit.

        An output is a mean of N normal values with weights exp(normal): its variance is about
        e / N.
        """
        return 4.0 * math.sqrt(math.e / min(self.windows) ** 2) / 127

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(B, H, W)`."""
        return self.batch, self.height, self.width

    @property
    def window_tokens(self) -> int:
        """N, tokens of the largest window."""
        return max(self.windows) ** 2

    @property
    def bytes_moved(self) -> int:
        """The fewest bytes that a call moves, by the formula above."""
        channels = self.heads * self.head_dim
        per_token = channels * (3 * SIZES[self.in_type] + SIZES[self.out_type])
        return self.batch * self.height * self.width * per_token

    @property
    def least_share(self) -> float | None:
        """Goal: the share of the bandwidth of a copy of the same bytes."""
        if not self._is_large:
            return None
        return 0.80 if self.window_tokens <= 144 else 0.65

    @property
    def least_speedup(self) -> float | None:
        """Goal: how many times faster than the best of PyTorch's ways."""
        if not self._is_large or self.in_type == "int8":
            return None
        return 3.0 if max(self.windows) <= 8 else 2.0 if max(self.windows) == 16 else None

    @property
    def least_int8_gain(self) -> float | None:
        """Goal: how many times faster INT8, in and out, is than FP16."""
        both = self.in_type == self.out_type == "int8"
        return 1.6 if both and self._is_large and max(self.windows) <= 8 else None

    @property
    def _is_large(self) -> bool:
        return self.kind == "bandwidth" and self.bytes_moved >= LEAST_BYTES


def all_cases(batch: int = 2) -> list[WindowCase]:
    """List the cases, those that say most first.

    Args:
        batch: Images of 336 x 336 tokens, a size that every window divides; 2 make 231 MB in INT8
            and 462 MB in FP16.
    """
    fp16, bf16, int8 = (("float16",) * 2, ("bfloat16",) * 2, ("int8",) * 2)
    even = (batch, 336, 336)
    of_dim = {32: (32, 8), 64: (64, 4)}
    cases = [
        WindowCase(windows, *of_dim[head_dim], *even, *types, masked, masked)
        for masked in (True, False)
        for types in (fp16, int8, bf16)
        for head_dim in of_dim
        for windows in WINDOWS
    ]
    for window in (7, 16):
        odd = (batch, 333, 341)
        cases += [
            WindowCase((window,), *of_dim[32], *odd, *fp16, True, True, kind="padded"),
            WindowCase((window,), *of_dim[32], *even, "int8", "float16", True, True),
        ]
    # The layers of Swin-T at 224 x 224.
    cases += [
        WindowCase((7,), 32, heads, 1, side, side, *types, True, True, kind="model")
        for side, heads in ((56, 3), (28, 6), (14, 12), (7, 24))
        for types in (fp16, int8)
    ]
    # Types differ in how they load and multiply, not in how they mask and add: one will do.
    cases += [
        WindowCase(windows, *of_dim[head_dim], *even, *fp16, shift, not shift)
        for shift in (False, True)
        for head_dim in of_dim
        for windows in WINDOWS
    ]
    return cases
