"""Cases for the kernels beside the operator's own: large windows, many units, odd sizes.

The operator's cases are tiny and hold every rule; these fill tiles, leave remainders, run past the
keys that one pass holds, and reach the borders of the neighborhoods' tiles.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import strategies as st

from edgeattn.spec import PAD_MODES, SHIFT_PAD_ORDERS, AttentionSpec, HeadGroup
from tests.cases import NAMED_CASES, Case, cases

# What the half types and INT8 take is a multiple of 8; 32 and 64 are the fast ones.
HEAD_DIMS = (8, 16, 24, 32, 40, 64, 72, 96, 128)


def with_head_dim(case: Case, head_dim: int) -> Case:
    """Give a case other channels per head."""
    return replace(case, spec=replace(case.spec, head_dim=head_dim))


def _case(height: int, width: int, *groups: HeadGroup, dim: int = 32, **options: object) -> Case:
    of_case = {"batch", "magnitude", "largest_logit_scale"} & options.keys()
    sizes = {name: options.pop(name) for name in of_case}
    heads = options.pop("heads", max(g.head_offset + g.num_heads for g in groups))
    return Case(AttentionSpec(dim, heads, groups, **options), height, width, **sizes)


def _neighbors(heads: int, window: tuple[int, int] | int, *dilation: int) -> HeadGroup:
    return HeadGroup(heads, window, mode="neighborhood", dilation=dilation or (1, 1))


def _causal(heads: int, window: int, dilation: int = 1) -> HeadGroup:
    return HeadGroup(heads, (1, window), mode="neighborhood", dilation=(1, dilation), causal=True)


def _scales(windows: tuple[int, ...], heads: int, *, overlapping: bool) -> tuple[HeadGroup, ...]:
    return tuple(
        HeadGroup(heads, window, window // 2, 0 if overlapping else heads * g)
        for g, window in enumerate(windows)
    )


KERNEL_CASES: dict[str, Case] = {
    # The windows that models have: 49, 64, 144, 196 and 256 tokens.
    **{
        f"window_{window}_dim_{dim}": _case(
            window + 1,
            window + window // 2 if window < 14 else window,
            HeadGroup(96 // dim, window, window // 2),
            dim=dim,
            has_bias=True,
            pad_mode="bias_kv",
        )
        for window, dim in product((7, 8, 12, 14, 16), (32, 64))
    },
    # Whole tiles of keys are padding, or carry another label than the query.
    **{
        f"sixteen_by_sixteen_{pad_mode}_{order}": _case(
            17,
            17,
            HeadGroup(1, 16, (15, 8)),
            has_bias=True,
            pad_mode=pad_mode,
            shift_pad_order=order,
        )
        for pad_mode, order in product(PAD_MODES, SHIFT_PAD_ORDERS)
    },
    "more_keys_than_one_pass_holds": _case(20, 23, HeadGroup(1, 20, 9), has_bias=True),
    "more_keys_than_one_pass_holds_padded": _case(
        19, 20, HeadGroup(1, 20), pad_mode="bias_kv", dim=64, has_bias=True
    ),
    "window_of_1024": _case(32, 32, HeadGroup(1, 32), has_bias=True),
    "window_of_1024_dim_64": _case(1, 1030, HeadGroup(1, (1, 1024), (0, 512)), dim=64),
    "whole_map_of_300": _case(15, 20, HeadGroup(2, 0), dim=64),
    "seven_by_thirteen": _case(15, 27, HeadGroup(2, (7, 13), (3, 6)), has_bias=True),
    "thirteen_by_seven_padded": _case(
        14, 15, HeadGroup(3, (13, 7), (6, 3)), has_bias=True, pad_mode="bias_kv", dim=16
    ),
    "sequence_of_64": _case(1, 150, HeadGroup(3, (1, 64), (0, 32)), has_bias=True, batch=2),
    "sequence_of_100": _case(1, 333, HeadGroup(1, (1, 100), (0, 33)), pad_mode="bias_kv", dim=64),
    "sequence_of_256": _case(1, 300, HeadGroup(2, (1, 256), (0, 1)), has_bias=True),
    "column": _case(70, 1, HeadGroup(2, (16, 1), (5, 0)), has_bias=True),
    "prime_map": _case(13, 17, HeadGroup(3, (5, 6), (2, 3)), has_bias=True),
    "larger_prime_map": _case(23, 19, HeadGroup(1, 8, (4, 3)), pad_mode="bias_kv", dim=64),
    "many_small_windows": _case(12, 12, HeadGroup(3, 4, 2), has_bias=True, batch=3),
    "many_windows_of_four_tokens": _case(9, 9, HeadGroup(5, 2, 1), dim=8, batch=2),
    "many_windows_of_one_token": _case(9, 14, HeadGroup(3, 1), has_bias=True),
    "large_map_small_windows": _case(40, 36, HeadGroup(2, 4, 2), has_bias=True),
    "five_images": _case(8, 15, HeadGroup(1, 7, 3), has_bias=True, pad_mode="bias_kv", batch=5),
    "three_scales_apart": _case(
        20, 18, *_scales((4, 8, 16), 2, overlapping=False), has_bias=True, pad_mode="bias_kv"
    ),
    "three_scales_of_every_head": _case(
        18, 20, *_scales((4, 8, 16), 1, overlapping=True), has_bias=True, dim=64, qkv_layout="H3D"
    ),
    "thirty_two_groups": _case(
        5,
        6,
        *(HeadGroup(1, 1 + g % 6, g % (1 + g % 6) // 2, g // 2) for g in range(32)),
        dim=8,
        has_bias=True,
        pad_mode="bias_kv",
    ),
    "seventeen_heads_of_one_window": _case(4, 4, HeadGroup(17, 4), has_bias=True),
    "middle_heads_of_many": _case(7, 9, HeadGroup(2, 4, 1, 5), heads=11, qkv_layout="H3D"),
    "grid_of_64": _case(20, 24, HeadGroup(2, 8, mode="grid"), has_bias=True),
    "grid_of_64_masked": _case(19, 22, HeadGroup(1, 8, mode="grid"), has_bias=True, dim=64),
    "grid_of_64_padded": _case(
        17, 23, HeadGroup(1, 8, mode="grid"), has_bias=True, pad_mode="bias_kv"
    ),
    "neighborhood_of_49": _case(20, 19, _neighbors(2, 7), has_bias=True),
    "neighborhood_of_64": _case(17, 11, _neighbors(1, 8), has_bias=True, dim=64),
    "neighborhood_dilated_by_two_and_three": _case(
        21, 26, _neighbors(1, 7, 2, 3), has_bias=True, batch=2
    ),
    "neighborhood_dilated_past_the_map": _case(9, 20, _neighbors(2, (3, 5), 9, 7)),
    "neighborhood_dilated_by_millions": _case(
        3, 20, _neighbors(2, 3, 5_000_000, 2_000_000_000), has_bias=True
    ),
    "neighborhood_of_169": _case(27, 16, _neighbors(1, 13), has_bias=True),
    "neighborhood_of_more_than_the_map": _case(9, 10, _neighbors(2, 13), has_bias=True),
    "neighborhood_of_the_whole_map": _case(12, 13, _neighbors(1, 0)),
    "sequence_of_65_neighbors": _case(1, 200, _neighbors(2, (1, 65)), has_bias=True),
    "sequence_of_neighbors_dilated": _case(1, 301, _neighbors(1, (1, 33), 1, 4), has_bias=True),
    "column_of_neighbors": _case(80, 1, _neighbors(1, (9, 1)), has_bias=True),
    "causal_of_one_tile": _case(1, 64, _causal(2, 64), has_bias=True),
    "causal_longer_than_a_tile": _case(1, 201, _causal(2, 100), has_bias=True),
    "causal_dilated_over_tiles": _case(1, 300, _causal(1, 70, 3), has_bias=True, dim=64),
    "causal_over_all_of_400": _case(1, 400, _causal(1, 0)),
    "logits_of_sixty_in_a_large_window": _case(
        12, 13, HeadGroup(2, 12, 6), has_bias=True, dim=64, magnitude=4.0
    ),
    "logits_of_sixty_in_more_than_one_pass": _case(1, 320, HeadGroup(1, 0), magnitude=4.0),
    "small_numbers": _case(8, 8, HeadGroup(2, 8, 4), has_bias=True, magnitude=1e-3),
    "finite_mask_in_a_large_window": _case(
        17, 16, HeadGroup(1, 12, 6), mask_value=-100.0, has_bias=True
    ),
    "cosine_at_its_clamp": _case(
        13,
        12,
        HeadGroup(2, 12, 6),
        qk_mode="cosine",
        has_bias=True,
        pad_mode="bias_kv",
        largest_logit_scale=100.0,
    ),
    "cosine_of_a_large_neighborhood": _case(
        12, 15, _neighbors(1, 9), qk_mode="cosine", dim=64, largest_logit_scale=100.0
    ),
}

# Half a minute each in the emulator.
SLOW_CASES = {"window_of_1024", "window_of_1024_dim_64"}


def is_slow(name: str, in_type: str) -> bool:
    """Tell whether the emulator takes long: the plain FP32 kernel does on large windows."""
    return name in SLOW_CASES or (in_type == "float32" and _num_logits(name) > 40_000)


def _num_logits(name: str) -> int:
    case = KERNEL_CASES.get(name) or NAMED_CASES[name]
    height, width = case.height, case.width
    keys = sum(
        group.num_heads * (group.window_size[0] or height) * (group.window_size[1] or width)
        for group in case.spec.head_groups
    )
    return case.batch * height * width * keys


def case_of(name: str, in_type: str) -> Case:
    """Give a named case in a size that the kernels of a type take.

    The operator's own cases have head dimensions of 1 to 32, which FP32 serves; the other types
    go through `HEAD_DIMS` in turn.
    """
    if name in KERNEL_CASES:
        return KERNEL_CASES[name]
    case = NAMED_CASES[name]
    if in_type == "float32":
        return case
    turn = list(NAMED_CASES).index(name) + ("float16", "bfloat16", "int8").index(in_type)
    return with_head_dim(case, HEAD_DIMS[turn % len(HEAD_DIMS)])


@st.composite
def kernel_cases(draw: st.DrawFn, in_type: str, *, max_window: int = 8, max_size: int = 9) -> Case:
    """Draw a case that the kernels of a type take."""
    case = draw(cases(max_window=max_window, max_size=max_size))
    if in_type == "float32":
        return case
    return with_head_dim(case, draw(st.sampled_from(HEAD_DIMS)))
