"""PyTorch's ways that the kernels are timed against must compute the same attention."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.window_peers import WindowGroup, partition, ways, window_block_mask
from edgeattn.errors import SpecError
from edgeattn.spec import AttentionSpec, HeadGroup
from tests import oracle
from tests.cases import NAMED_CASES, Case
from tests.tolerances import assert_close

WAYS = ("sdpa", "sdpa-compiled", "plain-compiled", "flex-windows", "flex-sequence")
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile:UserWarning"
)

CASES = {
    "one_window": Case(AttentionSpec(16, 2, (HeadGroup(2, 7),), has_bias=True), 7, 7, 2),
    "divided": Case(AttentionSpec(16, 2, (HeadGroup(2, 4),)), 8, 12, 2),
    "with_bias": Case(AttentionSpec(16, 2, (HeadGroup(2, 4),), has_bias=True), 8, 12, 2),
    "shifted": Case(AttentionSpec(16, 2, (HeadGroup(2, 4, 2),)), 8, 12, 2),
    "shifted_with_bias": Case(AttentionSpec(16, 2, (HeadGroup(2, 4, 2),), has_bias=True), 8, 12, 2),
    "padded": Case(AttentionSpec(16, 1, (HeadGroup(1, (4, 3)),)), 9, 8, 2),
    "padded_and_shifted": Case(
        AttentionSpec(16, 2, (HeadGroup(2, (4, 5), (2, 1)),), has_bias=True), 11, 13, 2
    ),
    "shifted_on_one_axis": Case(
        AttentionSpec(16, 2, (HeadGroup(2, (3, 4), (0, 2)),), has_bias=True), 7, 10
    ),
    "window_larger_than_the_map": Case(
        AttentionSpec(16, 2, (HeadGroup(2, (7, 7), (3, 3)),), has_bias=True), 5, 3
    ),
    # Longer than a block of 128: a window of one block, and windows over the borders of blocks.
    "many_blocks": Case(AttentionSpec(16, 1, (HeadGroup(1, 16),), has_bias=True), 16, 32),
    "many_shifted_blocks": Case(AttentionSpec(16, 1, (HeadGroup(1, (8, 16), (4, 8)),)), 16, 32),
    "windows_across_blocks": Case(AttentionSpec(16, 1, (HeadGroup(1, 7, 3),)), 14, 28),
    "three_sizes": Case(
        AttentionSpec(
            16,
            4,
            (HeadGroup(1, 2, 1), HeadGroup(2, 4, 2, 1), HeadGroup(1, 8, 4, 3)),
            has_bias=True,
        ),
        8,
        16,
        2,
    ),
}


def _compute(case: Case, way: str) -> np.ndarray:
    tensors = {name: torch.from_numpy(t) for name, t in case.tensors("float32").items()}
    made = ways(
        case.spec,
        (case.height, case.width),
        tensors.get("bias_table"),
        torch.float32,
        CPU,
        compiled=False,
    )
    out = made[way](tensors["qkv"])
    assert out.shape == (*tensors["qkv"].shape[:3], case.spec.out_channels)
    return out.numpy()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_way_equals_the_oracle(case: Case, way: str) -> None:
    expected = oracle.attention(case.spec, **case.tensors("float32"))
    assert_close(_compute(case, way), expected, "attention", "float32")


def test_the_ways_are_these() -> None:
    spec = AttentionSpec(16, 1, (HeadGroup(1, 4),))
    assert tuple(ways(spec, (8, 8), None, torch.float32, CPU)) == WAYS


def test_the_way_of_one_group_makes_no_copy_to_join_groups() -> None:
    # Such a copy would be a cost that PyTorch does not have.
    case = CASES["divided"]
    made = ways(case.spec, (8, 12), None, torch.float32, CPU, compiled=False)
    qkv = torch.from_numpy(case.tensors("float32")["qkv"])
    with torch.profiler.profile() as profile:
        made["sdpa"](qkv)
    assert "aten::cat" not in {event.key for event in profile.key_averages()}


def _group(case: Case) -> WindowGroup:
    seen: list[WindowGroup] = []
    from benchmarks import window_peers

    for group in case.spec.head_groups:
        seen.append(
            window_peers._window_group(
                case.spec, group, (case.height, case.width), None, torch.float32, CPU
            )
        )
    return seen[0]


@pytest.mark.parametrize(
    "name", ["many_blocks", "many_shifted_blocks", "windows_across_blocks", "padded_and_shifted"]
)
def test_the_block_mask_lets_through_what_the_labels_do(name: str) -> None:
    group = _group(CASES[name])
    mask = window_block_mask(group)
    length = group.num_windows * group.tokens
    token = torch.arange(length)
    none = torch.tensor(0)
    visible = mask.mask_mod(none, none, token[:, None], token[None, :])
    blocks = -(-length // 128)
    padded = torch.zeros(blocks * 128, blocks * 128, dtype=torch.bool)
    padded[:length, :length] = visible
    tiles = padded.view(blocks, 128, blocks, 128).transpose(1, 2).flatten(2)
    listed = mask.to_dense()[0, 0].bool()
    assert torch.equal(listed, tiles.any(2))

    full = torch.zeros(blocks, blocks, dtype=torch.bool)
    for row in range(blocks):
        count = int(mask.full_kv_num_blocks[0, 0, row])
        full[row, mask.full_kv_indices[0, 0, row, :count].long()] = True
    assert torch.equal(full, tiles.all(2))


def test_blocks_within_one_window_of_sixteen_need_no_mask() -> None:
    mask = window_block_mask(_group(CASES["many_blocks"]))
    assert int(mask.kv_num_blocks.sum()) == 0
    assert int(mask.full_kv_num_blocks.sum()) == 2 * 2 * 2


def test_partition_and_merge_are_inverse() -> None:
    case = CASES["padded_and_shifted"]
    from benchmarks.window_peers import merge

    group = _group(case)
    packed = torch.randn(2, case.height, case.width, 3, 2, 16)
    windows = partition(packed, group)
    assert windows.shape == (3, 2, group.num_windows, 2, group.tokens, 16)
    back = merge(windows[1], group, (case.height, case.width))
    assert torch.equal(back, packed[:, :, :, 1].flatten(3))


@pytest.mark.parametrize(
    "name", ["grid", "neighborhood", "cosine", "packed_by_head", "many_images"]
)
def test_what_the_ways_do_not_know_is_refused(name: str) -> None:
    case = NAMED_CASES[name]
    with pytest.raises(SpecError, match="PyTorch's ways here know block windows"):
        ways(case.spec, (case.height, case.width), None, torch.float32, CPU)


def test_a_finite_mask_is_refused() -> None:
    spec = dataclasses.replace(CASES["shifted"].spec, mask_value=-100.0)
    with pytest.raises(SpecError, match="block windows"):
        ways(spec, (8, 12), None, torch.float32, CPU)
