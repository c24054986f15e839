"""What attention moves, against factors worked out by hand, and counts on small maps."""

from __future__ import annotations

import pytest

from edgeattn.errors import SpecError, TargetError
from edgeattn.plugin.attention_cost import AttentionCost, attention_costs
from edgeattn.plugin.roofline import roofline, roofline_of
from edgeattn.spec import AttentionSpec, HeadGroup
from edgeattn.targets import AGX_ORIN, H200, Gpu


def windowed(head_dim: int, window: int, **more: object) -> AttentionSpec:
    group = HeadGroup(3, (window, window), (window // 2, window // 2))
    return AttentionSpec(head_dim, 3, (group,), has_bias=True, **more)  # type: ignore[arg-type]


def whole(head_dim: int, heads: int = 1) -> AttentionSpec:
    return AttentionSpec(head_dim, heads, (HeadGroup(heads, (0, 0)),))


@pytest.mark.parametrize(
    ("head_dim", "window", "separate"),
    [
        *((32, 7, 6.3), (32, 8, 7.0), (32, 12, 10.75), (32, 14, 13.2), (32, 16, 16.0)),
        *((64, 7, 5.15), (64, 8, 5.5), (64, 12, 7.4), (64, 14, 8.6), (64, 16, 10.0)),
    ],
)
def test_a_kernel_for_each_step_moves_so_many_times_what_ours_does(
    head_dim: int, window: int, separate: float
) -> None:
    costs = attention_costs(windowed(head_dim, window), 2, 4 * window, 3 * window)
    assert costs["plugin"].bytes_moved == 2 * 12 * window**2 * 3 * 4 * head_dim * 2
    ratio = costs["separate"].bytes_moved / costs["plugin"].bytes_moved
    assert ratio == pytest.approx(separate, rel=0.01)
    tokens = window**2
    of_mha = costs["mha"].bytes_moved / costs["plugin"].bytes_moved
    assert of_mha == pytest.approx(4 + tokens / (4 * head_dim))


def test_without_bias_or_shift_scores_are_touched_two_times_less() -> None:
    spec = AttentionSpec(32, 3, (HeadGroup(3, (8, 8)),))
    costs = attention_costs(spec, 1, 16, 16)
    rows = 16 * 16 * 3
    assert costs["mha"].bytes_moved == rows * 16 * 32 * 2
    assert costs["separate"].bytes_moved == rows * (16 * 32 + 4 * 64) * 2


def test_a_bias_is_added_without_a_shift_too() -> None:
    group = HeadGroup(3, (8, 8))
    biased, plain = (
        attention_costs(AttentionSpec(32, 3, (group,), has_bias=has_bias), 1, 16, 16)
        for has_bias in (True, False)
    )
    for way, scores in (("mha", 1), ("separate", 2)):
        more = biased[way].bytes_moved - plain[way].bytes_moved  # type: ignore[index]
        assert more == 16 * 16 * 3 * scores * 64 * 2


@pytest.mark.parametrize("group", [HeadGroup(2, (0, 0)), HeadGroup(2, (5, 7), mode="grid")])
def test_one_window_of_the_whole_map_is_not_cut(group: HeadGroup) -> None:
    costs = attention_costs(AttentionSpec(20, 2, (group,)), 1, 5, 7, element_bytes=4)
    rows = 35 * 2
    assert costs["plugin"] == AttentionCost(rows * 4 * 20 * 4, 2 * 4 * 48**2 * 20, rows * 35)
    assert costs["mha"].bytes_moved == rows * 12 * 20 * 4
    assert costs["separate"].bytes_moved == rows * (12 * 20 + 4 * 35) * 4


def test_copies_can_be_left_to_the_layers_around() -> None:
    spec = windowed(32, 7)
    costs = attention_costs(spec, 1, 14, 14, copies=False)
    rows = 14 * 14 * 3
    assert costs["plugin"] == attention_costs(spec, 1, 14, 14)["plugin"]
    assert costs["mha"].bytes_moved == rows * (4 * 32 + 49) * 2
    assert costs["separate"].bytes_moved == rows * (4 * 32 + 6 * 49) * 2


def test_windows_that_do_not_divide_the_map_compute_padding_and_ours_does_not_move_it() -> None:
    spec = AttentionSpec(32, 1, (HeadGroup(1, (4, 4)),), pad_mode="bias_kv")
    costs = attention_costs(spec, 1, 5, 4)
    assert costs["plugin"] == AttentionCost(20 * 4 * 32 * 2, 2 * 4 * 16**2 * 32, 32 * 16)
    assert {(cost.products, cost.exponentials) for cost in costs.values()} == {(65536, 512)}
    # Cut out: 20 tokens read, 32 places written; put back: the other way round.
    assert costs["mha"].bytes_moved == (12 * 32 * 32 + 2 * 32 * (20 + 32)) * 2
    masked = AttentionSpec(32, 1, (HeadGroup(1, (4, 4)),), pad_mode="mask")
    more = attention_costs(masked, 1, 5, 4)["mha"].bytes_moved - costs["mha"].bytes_moved
    assert more == 32 * 16 * 2


def test_a_shift_that_a_window_swallows_needs_no_mask() -> None:
    shifted = AttentionSpec(32, 1, (HeadGroup(1, (4, 4), (2, 2)),))
    plain = AttentionSpec(32, 1, (HeadGroup(1, (4, 4)),))
    assert attention_costs(shifted, 1, 4, 4) == attention_costs(plain, 1, 4, 4)
    assert attention_costs(shifted, 1, 8, 4) != attention_costs(plain, 1, 8, 4)


def test_head_groups_add_up() -> None:
    groups = (HeadGroup(1, (4, 4)), HeadGroup(2, (8, 8), head_offset=1))
    both = attention_costs(AttentionSpec(32, 3, groups), 1, 8, 8)
    alone = [attention_costs(AttentionSpec(32, 3, (group,)), 1, 8, 8) for group in groups]
    assert both == {way: alone[0][way] + alone[1][way] for way in both}


def test_no_tokens_cost_nothing_and_one_attends_to_itself() -> None:
    for size in ((0, 4, 4), (1, 0, 5)):
        assert set(attention_costs(whole(32), *size).values()) == {AttentionCost(0, 0, 0)}
    one = attention_costs(whole(32), 1, 1, 1)["separate"]
    assert one == AttentionCost((12 * 32 + 4) * 2, 4 * 16**2 * 32, 1)


def test_sliding_windows_are_refused() -> None:
    spec = AttentionSpec(32, 1, (HeadGroup(1, (7, 7), mode="neighborhood"),))
    with pytest.raises(SpecError, match="not of neighborhood"):
        attention_costs(spec, 1, 14, 14)


def test_in_float32_ours_multiplies_by_plain_arithmetic_and_tensorrt_in_tf32() -> None:
    cost = AttentionCost(0, 10**9, 0)
    ours, theirs, half = (
        roofline_of(cost, AGX_ORIN, way=way, element_bytes=size).products_us  # type: ignore[arg-type]
        for way, size in (("plugin", 4), ("separate", 4), ("separate", 2))
    )
    assert half == pytest.approx(1e9 / (42.6e12 * 0.6) * 1e6)
    assert theirs == pytest.approx(2 * half)
    assert ours == pytest.approx(1e9 / (16 * 1.3e9 * 128 * 2 * 0.6) * 1e6)
    a30 = Gpu("A30", 80, 56, 1.44, 933.1, 165.0, 330.0)
    assert roofline_of(cost, a30, element_bytes=4).products_us == pytest.approx(
        1e9 / (56 * 1.44e9 * 64 * 2 * 0.6) * 1e6
    )


def test_both_rooflines_are_one() -> None:
    spec = AttentionSpec(32, 3, (HeadGroup(3, (7, 7)),))
    cost = attention_costs(spec, 1, 56, 56)["plugin"]
    assert roofline_of(cost, H200) == roofline(H200, 7, tokens=56 * 56, heads=3, head_dim=32)


def test_figures_that_are_not_known_are_refused() -> None:
    unknown = Gpu("a card", 86, 10, 1.0, None, 10.0, None)
    with pytest.raises(TargetError, match="not all figures of a card are known"):
        roofline_of(AttentionCost(1, 1, 1), unknown)
