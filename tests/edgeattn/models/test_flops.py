"""The operator's cost, against a count of query-key pairs one by one."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import edgeattn.models.flops  # noqa: F401  # registers the formula
from edgeattn.models.operator import multi_scale_window_attention
from edgeattn.spec import AttentionSpec, HeadGroup
from tests import oracle

GROUPS = {
    "windows": [HeadGroup(2, (3, 4))],
    "shifted windows": [HeadGroup(1, 4, 2), HeadGroup(2, 3, 1)],
    "whole axis": [HeadGroup(1, (0, 2))],
    "grid": [HeadGroup(2, (2, 3), mode="grid")],
    "sliding": [HeadGroup(1, (3, 5), mode="neighborhood", dilation=(2, 1))],
    "wider than the map": [HeadGroup(1, (9, 0), mode="neighborhood", dilation=(1, 3))],
}


def pairs_of(group: HeadGroup, height: int, width: int) -> int:
    """Count query-key pairs; in block and grid mode those of padded queries too."""
    if group.mode == "neighborhood":
        tokens = [(row, col) for row in range(height) for col in range(width)]
        return sum(len(oracle.keys_of(group, token, (height, width))) for token in tokens)
    pairs = 1
    for axis, length in enumerate((height, width)):
        shift, window = group.shift_size[axis], group.window_size[axis]
        places = oracle.axis_places(length, window, shift, group.mode, "pad_then_roll")
        pairs *= sum(key.window == query.window for query in places for key in places)
    return pairs


def counted(spec: AttentionSpec, batch: int, height: int, width: int) -> int:
    with FlopCounterMode(display=False) as counter:
        multi_scale_window_attention(torch.randn(batch, height, width, spec.qkv_channels), spec)
    return counter.get_total_flops()


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
@pytest.mark.parametrize("size", [(5, 7), (6, 8), (1, 9)])
def test_each_pair_costs_two_products_of_a_head(groups, size):
    spec = AttentionSpec(head_dim=3, qkv_heads=2, head_groups=groups)
    pairs = sum(g.num_heads * pairs_of(g, *size) for g in groups)
    assert counted(spec, 2, *size) == 2 * pairs * 2 * 2 * 3


def test_causal_windows_are_shorter_at_the_beginning():
    group = HeadGroup(1, (1, 4), mode="neighborhood", dilation=(1, 2), causal=True)
    spec = AttentionSpec(head_dim=1, qkv_heads=1, head_groups=[group])
    # Tokens 0 to 8 have 1 1 2 2 3 3 4 4 4 keys: themselves and every second one before.
    assert counted(spec, 1, 1, 9) == 24 * 2 * 2
