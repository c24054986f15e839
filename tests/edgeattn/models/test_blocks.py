"""The parts around the attention, against plain formulas and loops over pixels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgeattn.errors import ModelError
from edgeattn.models.blocks import (
    ConvStem,
    DropPath,
    Mlp,
    PatchEmbed,
    PatchMerging,
    TransformerBlock,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("approximation", ["none", "tanh"])
def test_the_mlp_is_two_layers_around_a_gelu(approximation):
    mlp = Mlp(4, 10, approximation)
    x = torch.randn(2, 3, 5, 4)
    hidden = F.gelu(x @ mlp.fc1.weight.T + mlp.fc1.bias, approximate=approximation)
    torch.testing.assert_close(mlp(x), hidden @ mlp.fc2.weight.T + mlp.fc2.bias)


def block_with_random_norms(**keywords: object) -> TransformerBlock:
    block = TransformerBlock(4, nn.Linear(4, 4), 1.5, **keywords).eval()
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return block


def test_a_pre_norm_block_normalises_what_enters_each_branch():
    block = block_with_random_norms()
    x = torch.randn(2, 3, 3, 4)
    middle = x + block.attention(block.norm1(x))
    torch.testing.assert_close(block(x), middle + block.mlp(block.norm2(middle)))


def test_a_post_norm_block_normalises_what_leaves_each_branch():
    block = block_with_random_norms(norm_placement="res_post")
    x = torch.randn(2, 3, 3, 4)
    middle = x + block.norm1(block.attention(x))
    torch.testing.assert_close(block(x), middle + block.norm2(block.mlp(middle)))


def test_the_block_passes_its_settings_on():
    block = TransformerBlock(
        4, nn.Identity(), 1.5, drop_path=0.2, norm_eps=1e-3, gelu_approximation="tanh"
    )
    assert block.mlp.fc1.out_features == 6
    assert block.mlp.act.approximate == "tanh"
    assert block.norm1.eps == block.norm2.eps == 1e-3
    assert block.drop_path.drop_probability == 0.2


def test_an_unknown_norm_placement_is_refused():
    with pytest.raises(ModelError, match="norm_placement is 'middle'; expected pre or res_post"):
        TransformerBlock(4, nn.Identity(), norm_placement="middle")


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    out = drop(torch.ones(8000, 2, 3))
    values = out.flatten(1)
    assert bool((values == values[:, :1]).all())
    assert sorted(values[:, 0].unique().tolist()) == pytest.approx([0.0, 1 / 0.75])
    assert float(out.mean()) == pytest.approx(1.0, abs=0.02)


def test_drop_path_does_nothing_in_eval_mode():
    x = torch.randn(4, 3)
    assert DropPath(0.9).eval()(x) is x


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_a_drop_probability_out_of_range_is_refused(probability):
    with pytest.raises(ModelError, match="drop_probability"):
        DropPath(probability)


@pytest.mark.parametrize("size", [(8, 12), (9, 12), (8, 11), (3, 1)])
def test_patch_embedding_pads_to_whole_patches(size):
    embed = PatchEmbed(2, 6, 4)
    images = torch.randn(2, 2, *size)
    rows, cols = -(-size[0] // 4), -(-size[1] // 4)
    padded = torch.zeros(2, 2, 4 * rows, 4 * cols)
    padded[:, :, : size[0], : size[1]] = images
    tokens = embed(images)
    assert tokens.shape == (2, rows, cols, 6)
    last_patch = padded[:, :, -4:, -4:].flatten(1)
    projected = last_patch @ embed.proj.weight.flatten(1).T + embed.proj.bias
    torch.testing.assert_close(tokens[:, -1, -1], F.layer_norm(projected, (6,)))


def test_patch_embedding_can_cut_off_what_is_left_over():
    embed = PatchEmbed(2, 6, 4, pad=False)
    images = torch.randn(1, 2, 11, 9)
    assert torch.equal(embed(images), embed(images[:, :, :8, :8]))


@pytest.mark.parametrize("patch_size", [2, 4])
@pytest.mark.parametrize("size", [(8, 8), (28, 30), (7, 9), (1, 1)])
def test_the_convolution_stem_rounds_sizes_up(patch_size, size):
    tokens = ConvStem(3, 6, patch_size)(torch.randn(2, 3, *size))
    assert tokens.shape == (2, *(-(-length // patch_size) for length in size), 6)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(tokens.shape[:3]), atol=1e-5, rtol=0)


def test_a_convolution_stem_of_another_patch_size_is_refused():
    with pytest.raises(ModelError, match="patch_size of a convolution stem is 3; expected 2 or 4"):
        ConvStem(3, 6, 3)


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 1), (1, 8)])
@pytest.mark.parametrize("norm_first", [True, False])
def test_patch_merging_joins_four_neighbours_column_by_column(size, norm_first):
    merging = PatchMerging(3, 5, norm_first=norm_first)
    nn.init.normal_(merging.norm.weight)
    x = torch.randn(2, *size, 3)
    rows, cols = -(-size[0] // 2), -(-size[1] // 2)
    padded = torch.zeros(2, 2 * rows, 2 * cols, 3)
    padded[:, : size[0], : size[1]] = x
    merged = merging(x)
    assert merged.shape == (2, rows, cols, 5)
    for row in range(rows):
        for col in range(cols):
            corners = [padded[:, 2 * row + r, 2 * col + c] for c in (0, 1) for r in (0, 1)]
            joined = torch.cat(corners, dim=-1)
            expected = (
                merging.reduction(merging.norm(joined))
                if norm_first
                else merging.norm(merging.reduction(joined))
            )
            torch.testing.assert_close(merged[:, row, col], expected)


def test_patch_merging_doubles_the_channels_by_default():
    assert PatchMerging(3)(torch.randn(1, 2, 2, 3)).shape == (1, 1, 1, 6)
