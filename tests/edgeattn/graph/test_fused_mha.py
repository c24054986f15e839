"""The limits of TensorRT's own fused attention, in FP16 and BF16; INT8's are in test_int8_mha."""

from __future__ import annotations

import pytest

from edgeattn.graph.fused_mha import QUERIES_APART, half_group_obstacle, half_mha_obstacle
from edgeattn.spec import AttentionSpec, HeadGroup


@pytest.mark.parametrize("head_size", [16, 24, 32, 40, 64, 96, 128, 248, 256])
def test_multiples_of_8_from_16_to_256_may_fuse(head_size: int) -> None:
    assert half_mha_obstacle(head_size, 49, 49) == ""


@pytest.mark.parametrize("head_size", [1, 8, 15, 17, 20, 252, 257, 264, 512])
def test_other_head_sizes_do_not_and_the_rule_is_quoted(head_size: int) -> None:
    assert half_mha_obstacle(head_size, 49, 49) == (
        f"its heads have {head_size} channels; TensorRT fuses 16 to 256 in steps of 8 in FP16 and "
        "BF16"
    )


@pytest.mark.parametrize(
    ("head_size", "fuses"), [(17, True), (252, True), (8, False), (264, False)]
)
def test_a_version_that_pads_heads_wants_no_steps(head_size: int, fuses: bool) -> None:
    obstacle = half_mha_obstacle(head_size, 49, 49, pads_heads=True)
    assert (obstacle == "") is fuses
    assert "steps" not in obstacle


def test_an_unknown_head_size_is_said_so() -> None:
    assert half_mha_obstacle(None, 49, 49).startswith("its heads have an unknown number of chan")


def test_any_number_of_tokens_may_fuse_known_or_not() -> None:
    for tokens in (1, 7, 512, 513, 100_000, None):
        assert half_mha_obstacle(32, tokens, tokens) == ""


def test_a_query_with_keys_of_its_own_does_not() -> None:
    assert half_mha_obstacle(32, 1, 9) == QUERIES_APART
    assert half_mha_obstacle(32, 1, None) == QUERIES_APART
    assert half_mha_obstacle(32, 1, 1) == ""


def test_head_groups_of_a_node_are_judged_by_mode_and_head_size() -> None:
    groups = (
        HeadGroup(1, 4),
        HeadGroup(1, 4, mode="grid", head_offset=1),
        HeadGroup(1, 3, mode="neighborhood", head_offset=2),
    )
    for head_dim, expected in ((32, ["", "", QUERIES_APART]), (20, [None, None, QUERIES_APART])):
        spec = AttentionSpec(head_dim, 3, groups)
        found = [half_group_obstacle(spec, group) for group in groups]
        for obstacle, wanted in zip(found, expected, strict=True):
            assert obstacle == wanted or (wanted is None and "heads have 20" in obstacle)
    assert half_group_obstacle(AttentionSpec(20, 3, groups), groups[0], pads_heads=True) == ""
