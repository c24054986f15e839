"""The cases that judge every implementation of the attention operator.

One grid of named cases and one hypothesis strategy, in numpy alone, so that the torch operator,
the ONNX decomposition and the kernels are all held against the oracle on the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from edgeattn.spec import (
    PAD_MODES,
    QK_MODES,
    QKV_LAYOUTS,
    SHIFT_PAD_ORDERS,
    AttentionSpec,
    HeadGroup,
)


@dataclass(frozen=True)
class Case:
    """A spec with the size of a map, and how large the numbers are."""

    spec: AttentionSpec
    height: int
    width: int
    batch: int = 1
    magnitude: float = 1.0  # standard deviation of qkv and pad_kv
    largest_logit_scale: float = 10.0  # Swin V2 clamps at 100

    def tensors(self, dtype: str = "float64", seed: int = 0) -> dict[str, np.ndarray]:
        """Draw the operator's inputs, by name, in the order of the node's inputs."""
        rng = np.random.default_rng(seed)
        shapes = self.spec.input_shapes()
        size = (self.batch, self.height, self.width, self.spec.qkv_channels)
        drawn = {"qkv": rng.standard_normal(size) * self.magnitude}
        if "bias_table" in shapes:
            drawn["bias_table"] = rng.standard_normal(shapes["bias_table"])
        if "pad_kv" in shapes:
            drawn["pad_kv"] = rng.standard_normal(shapes["pad_kv"]) * self.magnitude
        if "logit_scale" in shapes:
            drawn["logit_scale"] = rng.uniform(1.0, self.largest_logit_scale, shapes["logit_scale"])
            drawn["logit_scale"][0] = self.largest_logit_scale
        return {name: tensor.astype(dtype) for name, tensor in drawn.items()}


def _case(
    height: int, width: int, *groups: HeadGroup, heads: int, dim: int = 4, **options: Any
) -> Case:
    of_case = {"batch", "magnitude", "largest_logit_scale"} & options.keys()
    sizes = {name: options.pop(name) for name in of_case}
    return Case(AttentionSpec(dim, heads, groups, **options), height, width, **sizes)


def _paddings(name: str, height: int, width: int, group: HeadGroup) -> dict[str, Case]:
    """Spell one shifted group out in both pad modes and both orders."""
    return {
        f"{name}_{pad_mode}_{order}": _case(
            height,
            width,
            group,
            heads=group.num_heads,
            batch=2,
            has_bias=True,
            pad_mode=pad_mode,
            shift_pad_order=order,
        )
        for pad_mode in PAD_MODES
        for order in SHIFT_PAD_ORDERS
    }


NAMED_CASES: dict[str, Case] = {
    "one_token": _case(1, 1, HeadGroup(1, (1, 1)), heads=1),
    "one_token_in_a_window_of_pads": _case(1, 1, HeadGroup(2, (4, 3)), heads=2, pad_mode="bias_kv"),
    "window_equal_to_the_map": _case(7, 7, HeadGroup(2, (7, 7)), heads=2, has_bias=True),
    "window_equal_to_the_map_forgets_its_shift": _case(7, 7, HeadGroup(2, (7, 7), (3, 3)), heads=2),
    "window_larger_than_the_map_masked": _case(
        5, 3, HeadGroup(2, (7, 7), (3, 3)), heads=2, has_bias=True
    ),
    "window_larger_than_the_map_padded": _case(
        5, 3, HeadGroup(2, (7, 7), (3, 3)), heads=2, has_bias=True, pad_mode="bias_kv"
    ),
    "map_a_multiple_of_the_window": _case(
        8, 12, HeadGroup(2, (4, 4), (2, 2)), heads=2, has_bias=True
    ),
    **_paddings("odd_map", 11, 13, HeadGroup(2, (4, 4), (2, 2))),
    **_paddings("odd_window_and_shift", 9, 16, HeadGroup(1, (7, 5), (3, 1))),
    # The last window holds one real row and seven padded ones.
    **_paddings("nearly_empty_last_window", 9, 9, HeadGroup(1, (8, 8), (7, 4))),
    **_paddings("shift_on_one_axis", 7, 10, HeadGroup(2, (3, 4), (0, 2))),
    "rectangular_window": _case(6, 10, HeadGroup(2, (2, 5), (1, 2)), heads=2, has_bias=True),
    "stripes_over_whole_axes": _case(
        7, 9, HeadGroup(1, (0, 2)), HeadGroup(2, (3, 0), (1, 0), 1), heads=3, pad_mode="bias_kv"
    ),
    "whole_map": _case(4, 5, HeadGroup(2, 0), heads=2, batch=2),
    "windows_of_one_token": _case(3, 4, HeadGroup(2, 1), heads=2, has_bias=True),
    "grid": _case(8, 6, HeadGroup(2, (4, 3), mode="grid"), heads=2, has_bias=True, batch=2),
    "grid_masked": _case(7, 10, HeadGroup(2, (3, 4), mode="grid"), heads=2, has_bias=True),
    "grid_padded": _case(
        7, 10, HeadGroup(2, (3, 4), mode="grid"), heads=2, has_bias=True, pad_mode="bias_kv"
    ),
    "grid_larger_than_the_map": _case(
        2, 3, HeadGroup(1, 5, mode="grid"), heads=1, has_bias=True, pad_mode="bias_kv"
    ),
    "grid_over_whole_axis": _case(5, 6, HeadGroup(2, (0, 2), mode="grid"), heads=2),
    "neighborhood": _case(
        7, 6, HeadGroup(2, 3, mode="neighborhood"), heads=2, has_bias=True, batch=2
    ),
    "neighborhood_even": _case(7, 9, HeadGroup(2, (4, 2), mode="neighborhood"), heads=2),
    "neighborhood_dilated": _case(
        11, 8, HeadGroup(2, (3, 2), mode="neighborhood", dilation=(2, 3)), heads=2, has_bias=True
    ),
    # Classes of 2 and 3 rows and of 1 and 2 columns under a window of 3 x 5.
    "neighborhood_larger_than_some_classes": _case(
        5, 4, HeadGroup(2, (3, 5), mode="neighborhood", dilation=(2, 3)), heads=2, has_bias=True
    ),
    "neighborhood_of_the_whole_axis": _case(
        4, 7, HeadGroup(1, (0, 3), mode="neighborhood", dilation=(3, 1)), heads=1
    ),
    # Neighborhoods know no padding, so the pad vector changes nothing.
    "neighborhood_beside_padded_blocks": _case(
        5,
        5,
        HeadGroup(1, 3, mode="neighborhood"),
        HeadGroup(1, 4, 2, 1),
        heads=2,
        has_bias=True,
        pad_mode="bias_kv",
    ),
    "sequence_of_blocks": _case(
        1, 19, HeadGroup(2, (1, 8), (0, 4)), heads=2, has_bias=True, pad_mode="bias_kv"
    ),
    "sequence_of_neighbors": _case(
        1, 17, HeadGroup(2, (1, 5), mode="neighborhood"), heads=2, has_bias=True
    ),
    "causal": _case(
        1, 13, HeadGroup(2, (1, 4), mode="neighborhood", causal=True), heads=2, has_bias=True
    ),
    "causal_dilated": _case(
        1, 14, HeadGroup(2, (1, 3), mode="neighborhood", dilation=(1, 4), causal=True), heads=2
    ),
    "causal_over_the_whole_axis": _case(
        1, 9, HeadGroup(1, (1, 0), mode="neighborhood", causal=True), heads=1
    ),
    "causal_window_longer_than_the_sequence": _case(
        1,
        5,
        HeadGroup(1, (1, 8), mode="neighborhood", dilation=(1, 2), causal=True),
        heads=1,
        has_bias=True,
    ),
    "three_scales_split_over_the_heads": _case(
        10,
        11,
        HeadGroup(1, 2, 1, 0),
        HeadGroup(2, 4, 2, 1),
        HeadGroup(1, 7, 3, 3),
        heads=4,
        has_bias=True,
        pad_mode="bias_kv",
    ),
    "every_head_at_every_scale": _case(
        6, 7, HeadGroup(3, 2), HeadGroup(3, 4, 2), HeadGroup(3, 0), heads=3
    ),
    "groups_overlap_out_of_order_and_leave_heads_out": _case(
        5, 6, HeadGroup(2, 3, 1, 3), HeadGroup(3, (2, 4), 0, 1), heads=6, has_bias=True
    ),
    "eight_groups_of_all_modes": _case(
        6,
        9,
        HeadGroup(1, 2, 1),
        HeadGroup(1, 3, mode="grid", head_offset=1),
        HeadGroup(1, 3, mode="neighborhood", head_offset=2),
        HeadGroup(1, (4, 5), (2, 0), 3),
        HeadGroup(2, (2, 4), mode="grid", head_offset=3),
        HeadGroup(1, 2, mode="neighborhood", dilation=2, head_offset=0),
        HeadGroup(2, (5, 1), (2, 0), 2),
        HeadGroup(4, 4, 2),
        heads=5,
        has_bias=True,
        pad_mode="bias_kv",
        shift_pad_order="roll_then_pad",
        qkv_layout="H3D",
    ),
    "packed_by_head": _case(5, 8, HeadGroup(2, 4, 2, 1), heads=3, dim=3, qkv_layout="H3D"),
    "packed_by_head_padded": _case(
        5, 6, HeadGroup(2, 4, 2, 1), heads=3, dim=3, qkv_layout="H3D", pad_mode="bias_kv"
    ),
    "head_dim_one": _case(4, 5, HeadGroup(2, 3), heads=2, dim=1),
    "head_dim_of_swin": _case(7, 7, HeadGroup(3, 4, 2), heads=3, dim=32, has_bias=True),
    "softmax_scale_of_one": _case(5, 5, HeadGroup(2, 3), heads=2, softmax_scale=1.0),
    "finite_mask": _case(6, 8, HeadGroup(2, 4, 2), heads=2, mask_value=-1.5),
    "finite_mask_leaves_padded_keys_out": _case(5, 6, HeadGroup(2, 4, 2), heads=2, mask_value=-1.5),
    "finite_mask_padded": _case(
        5, 6, HeadGroup(2, 4, 2), heads=2, mask_value=-1.5, pad_mode="bias_kv"
    ),
    "cosine": _case(6, 6, HeadGroup(2, 3), heads=2, qk_mode="cosine", batch=2),
    "cosine_padded": _case(
        5, 7, HeadGroup(2, 4, 2, 1), heads=3, qk_mode="cosine", pad_mode="bias_kv", has_bias=True
    ),
    "cosine_of_neighbors": _case(
        5, 6, HeadGroup(2, 3, mode="neighborhood", head_offset=1), heads=3, qk_mode="cosine"
    ),
    "swin_v2_at_its_clamp": _case(
        9,
        12,
        HeadGroup(2, 8, 4),
        heads=2,
        dim=8,
        qk_mode="cosine",
        has_bias=True,
        pad_mode="bias_kv",
        mask_value=-100.0,
        largest_logit_scale=100.0,
    ),
    "logits_of_sixty": _case(
        8, 8, HeadGroup(2, 4, 2), heads=2, dim=16, has_bias=True, magnitude=4.0
    ),
    "many_images": _case(5, 4, HeadGroup(2, 3, 1), heads=2, batch=6, pad_mode="bias_kv"),
}

MAX_WINDOW, MAX_SIZE = 8, 9


@st.composite
def head_groups(
    draw: st.DrawFn,
    qkv_heads: int,
    *,
    sequence: bool,
    has_bias: bool,
    max_window: int = MAX_WINDOW,
) -> HeadGroup:
    """Draw a head group that fits a projection, and the map's rank."""
    num_heads = draw(st.integers(1, qkv_heads))
    mode = draw(st.sampled_from(("block", "block", "grid", "neighborhood")))
    sizes = st.integers(1 if has_bias else 0, max_window)
    window = (draw(sizes), draw(sizes))
    causal = mode == "neighborhood" and sequence and draw(st.booleans())
    if sequence:
        window = (1, window[1])
    shift, dilation = (0, 0), (1, 1)
    if mode == "block":
        shift = tuple(draw(st.integers(0, max(w - 1, 0))) for w in window)
    if mode == "neighborhood":
        dilation = (1 if causal else draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    return HeadGroup(
        num_heads,
        window,
        shift,
        head_offset=draw(st.integers(0, qkv_heads - num_heads)),
        mode=mode,
        dilation=dilation,
        causal=causal,
    )


@st.composite
def specs(
    draw: st.DrawFn, *, sequence: bool | None = None, max_window: int = MAX_WINDOW
) -> AttentionSpec:
    """Draw an attention spec."""
    if sequence is None:
        sequence = draw(st.booleans())
    qkv_heads = draw(st.integers(1, 3))
    has_bias = draw(st.booleans())
    groups = head_groups(qkv_heads, sequence=sequence, has_bias=has_bias, max_window=max_window)
    return AttentionSpec(
        head_dim=draw(st.integers(1, 4)),
        qkv_heads=qkv_heads,
        head_groups=tuple(draw(st.lists(groups, min_size=1, max_size=3))),
        softmax_scale=draw(st.sampled_from((0.0, 0.5, 1.0))),
        qkv_layout=draw(st.sampled_from(QKV_LAYOUTS)),
        has_bias=has_bias,
        pad_mode=draw(st.sampled_from(PAD_MODES)),
        shift_pad_order=draw(st.sampled_from(SHIFT_PAD_ORDERS)),
        mask_value=draw(st.sampled_from((-np.inf, -100.0, -2.0))),
        qk_mode=draw(st.sampled_from(QK_MODES)),
    )


@st.composite
def cases(draw: st.DrawFn, *, max_window: int = MAX_WINDOW, max_size: int = MAX_SIZE) -> Case:
    """Draw a case, small by default: a spec and the size of a map or a sequence."""
    sequence = draw(st.booleans())
    spec = draw(specs(sequence=sequence, max_window=max_window))
    sizes = st.integers(1, max_size)
    height, width = (1, 2 * draw(sizes)) if sequence else (draw(sizes), draw(sizes))
    return Case(spec, height, width, batch=draw(st.integers(1, 2)))
