"""What an attention moves and computes: by our kernel, by another, or by a kernel for each step.

Elements moved per token and head, for windows of N tokens and D channels:

    plugin, our kernel        4 · D   q, k and v read, the output written
    mha, attention alone     12 · D   copies too: q, k and v are taken apart and transposed (6 D),
                                      heads are put together again (2 D)
                            + 4 · D   where windows are cut out before and put back after
                            +     N   where a bias or a mask, materialised, is added
    separate, each step as    12 · D, + 4 · D where windows are cut
    a kernel                + 4 · N   scores written; read by the softmax, written; read again
                            + 2 · N   where a bias or a mask is added: scores read, written

Each way takes 4 · P² · D / N operations of products (P: N padded to a multiple of 16) and N
exponentials. Where windows do not divide the map, all ways compute whole windows; our kernel alone
does not move the padding.

Cutting windows counts as one copy before and one after; a graph that rolls besides moves 4 · D
more. What stays in a cache from one kernel to the next costs less than it counts here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgeattn.errors import SpecError
from edgeattn.spec import AttentionSpec, HeadGroup

Way = Literal["plugin", "mha", "separate"]

TILE_TOKENS = 16  # of the matrix units: queries and keys are padded to it


@dataclass(frozen=True)
class AttentionCost:
    """What an attention moves and computes.

    Attributes:
        bytes_moved: Read and written.
        products: Floating point operations of QKᵀ and PV, in tiles of 16 tokens.
        exponentials: Of the softmax.
    """

    bytes_moved: int
    products: int
    exponentials: int

    def __add__(self, other: AttentionCost) -> AttentionCost:
        """Add up what two do."""
        return AttentionCost(
            self.bytes_moved + other.bytes_moved,
            self.products + other.products,
            self.exponentials + other.exponentials,
        )


def attention_costs(
    spec: AttentionSpec,
    batch: int,
    height: int,
    width: int,
    *,
    element_bytes: int = 2,
    copies: bool = True,
) -> dict[Way, AttentionCost]:
    """Count what an attention moves and computes, each way.

    Args:
        spec: The attention; block or grid windows.
        batch: Maps.
        height: Of a map in tokens.
        width: Likewise.
        element_bytes: Of `qkv`, the output and everything between: 4 for FP32, 2 for FP16 and BF16,
            1 for INT8.
        copies: Whether the copies around attention are kernels; without them they are taken to be
            part of the layers before and after, as an engine that fuses well may have it.

    Returns:
        `plugin`: our kernel; `mha`: a kernel for attention alone, with copies around it;
        `separate`: a kernel for each step. Head groups are added up.

    Raises:
        SpecError: If windows slide: nobody else has one kernel, or matrices of scores, for those.
    """
    total: dict[Way, AttentionCost] = {}
    for group in spec.head_groups:
        shape = _Shape(spec, group, batch, height, width)
        for way, elements in shape.elements(copies=copies).items():
            cost = AttentionCost(elements * element_bytes, shape.products, shape.exponentials)
            total[way] = total[way] + cost if way in total else cost
    return total


class _Shape:
    """The windows of a head group on a map, and what they make of work."""

    def __init__(
        self, spec: AttentionSpec, group: HeadGroup, batch: int, height: int, width: int
    ) -> None:
        if group.mode == "neighborhood":
            raise SpecError("costs are counted of block and grid windows, not of neighborhood ones")
        axes = [
            (length, size or length)
            for length, size in zip((height, width), group.window_size, strict=True)
        ]
        # Windows of each axis; a map without tokens has none.
        counts = [-(-length // size) if size else 0 for length, size in axes]
        self.is_cut = max(counts) > 1
        self.head_dim = spec.head_dim
        self.window_tokens = math.prod(size for _, size in axes)
        self.windows = batch * math.prod(counts) * group.num_heads
        # Tokens of the map, and those of whole windows; of all heads.
        self.tokens = batch * height * width * group.num_heads
        self.places = self.windows * self.window_tokens
        is_shifted = any(
            shift and count > 1 for shift, count in zip(group.shift_size, counts, strict=True)
        )
        masks_padding = self.places > self.tokens and spec.pad_mode == "mask"
        self.has_addend = spec.has_bias or is_shifted or masks_padding

    @property
    def products(self) -> int:
        padded = -(-self.window_tokens // TILE_TOKENS) * TILE_TOKENS
        return self.windows * 4 * padded**2 * self.head_dim

    @property
    def exponentials(self) -> int:
        return self.places * self.window_tokens

    def elements(self, *, copies: bool) -> dict[Way, int]:
        """Count the elements moved each way."""
        d, n = self.head_dim, self.window_tokens
        around = 4 * d * self.places
        if copies:
            around += 8 * d * self.places
            around += 2 * d * (self.places + self.tokens) if self.is_cut else 0
        return {
            "plugin": 4 * d * self.tokens,
            "mha": around + (n * self.places if self.has_addend else 0),
            "separate": around + (6 if self.has_addend else 4) * n * self.places,
        }
