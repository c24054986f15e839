"""DMSANet against einsums in float64, at all widths of a ResNet and at odd sizes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from edgeattn.errors import SpecError
from edgeattn.models.dmsanet import (
    ChannelAttention,
    DMSABlock,
    DMSANet,
    PositionAttention,
    ScaleRecalibration,
    channel_shuffle,
    dmsanet_26,
    dmsanet_50,
    dmsanet_101,
)

DYNAMIC = torch.export.Dim.DYNAMIC


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def switched_on(module: nn.Module) -> nn.Module:
    """Give every alpha and beta a value of its own, so that both attentions count."""
    for name, parameter in module.named_parameters():
        if name.rsplit(".")[-1] in ("alpha", "beta"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return module.eval()


def grouped_tokens(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    return x.reshape(batch, groups, channels // groups, height * width)


def materialised_pam(module: PositionAttention, x: Tensor, visible: Tensor | None = None) -> Tensor:
    """Position attention with its whole map; `visible[query, key]` leaves some pairs out."""
    groups, (key_dim, _, head_dim) = module.groups, module.splits
    out = []
    for g, tokens in enumerate(grouped_tokens(x, groups).unbind(1)):
        image = tokens.unflatten(2, x.shape[2:])
        rows = slice(None) if module.shared else slice(g * sum(module.splits), None)
        weight = module.qkv.weight[rows][: sum(module.splits)]
        bias = module.qkv.bias[rows][: sum(module.splits)]
        packed = nn.functional.conv2d(image, weight, bias, padding=weight.shape[-1] // 2)
        query, key, value = packed.flatten(2).split([key_dim, key_dim, head_dim], dim=1)
        energy = torch.einsum("bcq,bck->bqk", query, key)
        if visible is not None:
            energy = energy.masked_fill(~visible, -math.inf)
        attended = torch.einsum("bqk,bck->bcq", energy.softmax(dim=2), value)
        alpha = module.alpha[0 if module.shared else g]
        out.append(tokens + alpha * attended)
    return torch.cat(out, dim=1).reshape(x.shape)


@pytest.mark.parametrize("channels", [64, 128, 256, 512])
@pytest.mark.parametrize("mode", ["window", "full", "pool"])
def test_the_block_keeps_the_shape_at_every_width(channels: int, mode: str) -> None:
    block = switched_on(DMSABlock(channels, groups=4, pam_mode=mode))
    for height, width in ((7, 7), (1, 1), (9, 15)):
        x = torch.randn(2, channels, height, width)
        out = block(x)
        assert out.shape == x.shape
        assert out.isfinite().all()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("mode", ["window", "full", "pool"])
def test_new_attentions_are_the_identity_before_recalibration(mode: str, shared: bool) -> None:
    block = DMSABlock(64, groups=4, pam_mode=mode, shared_convs=shared)
    x = torch.randn(2, 64, 9, 11)
    torch.testing.assert_close(block.attend(x), x, rtol=0, atol=0)
    assert not torch.allclose(switched_on(block).attend(x), x, atol=1e-2)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("sign", ["paper", "danet"])
def test_channel_attention_is_the_formula(sign: str, shared: bool) -> None:
    groups = 3
    module = switched_on(ChannelAttention(groups, sign=sign, shared=shared)).double()
    x = torch.randn(2, 12, 5, 3, dtype=torch.float64) / 2
    tokens = grouped_tokens(x, groups)
    energy = torch.einsum("bgin,bgjn->bgji", tokens, tokens)
    if sign == "danet":
        energy = energy.max() - energy  # a softmax does not see what is added to all
    weight = torch.exp(energy) / torch.exp(energy).sum(dim=3, keepdim=True)
    expected = torch.einsum("bgji,bgin->bgjn", weight, tokens)
    expected = tokens + module.beta.reshape(1, -1, 1, 1) * expected
    torch.testing.assert_close(module(x), expected.reshape(x.shape))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("reduction", "kernel_size"), [(1, 1), (2, 1), (4, 3)])
def test_full_position_attention_equals_the_materialised_map(
    reduction: int, kernel_size: int, shared: bool
) -> None:
    module = PositionAttention(
        24, 3, mode="full", reduction=reduction, kernel_size=kernel_size, shared=shared
    )
    module = switched_on(module).double()
    x = torch.randn(2, 24, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(module(x), materialised_pam(module, x))


@pytest.mark.parametrize("shared", [True, False])
def test_windowed_position_attention_is_the_map_cut_into_windows(shared: bool) -> None:
    height, width, window = 7, 10, 4
    module = PositionAttention(24, 3, mode="window", windows=(window,), shared=shared)
    module = switched_on(module).double()
    x = torch.randn(2, 24, height, width, dtype=torch.float64)
    row, col = torch.arange(height) // window, torch.arange(width) // window
    label = (row[:, None] * width + col).flatten()
    visible = label[:, None] == label[None, :]
    torch.testing.assert_close(module(x), materialised_pam(module, x, visible))


def test_a_window_over_the_whole_map_is_full_attention() -> None:
    window = switched_on(PositionAttention(16, 2, mode="window", windows=(0,))).double()
    full = switched_on(PositionAttention(16, 2, mode="full")).double()
    full.load_state_dict(window.state_dict())
    x = torch.randn(1, 16, 6, 9, dtype=torch.float64)
    torch.testing.assert_close(window(x), full(x))


def test_windows_are_dealt_out_over_the_groups() -> None:
    mixed = switched_on(PositionAttention(16, 2, mode="window", windows=(2, 3))).double()
    x = torch.randn(1, 16, 6, 6, dtype=torch.float64)
    for group, window in enumerate((2, 3)):
        alone = PositionAttention(16, 2, mode="window", windows=(window,)).double().eval()
        alone.load_state_dict(mixed.state_dict())
        channels = slice(8 * group, 8 * group + 8)
        torch.testing.assert_close(mixed(x)[:, channels], alone(x)[:, channels])


def test_pooled_keys_of_one_position_are_full_attention() -> None:
    pool = switched_on(PositionAttention(16, 2, mode="pool", pool=1)).double()
    full = switched_on(PositionAttention(16, 2, mode="full")).double()
    full.load_state_dict(pool.state_dict())
    x = torch.randn(2, 16, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(pool(x), full(x))


def test_one_pooled_key_gives_every_position_the_mean_value() -> None:
    module = switched_on(PositionAttention(8, 1, mode="pool", pool=16)).double()
    x = torch.randn(1, 8, 5, 4, dtype=torch.float64)
    mean_value = module.qkv(x)[:, 16:].mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(module(x), x + module.alpha * mean_value)


def test_recalibration_weighs_the_scales_by_a_softmax() -> None:
    module = ScaleRecalibration(24, 3, reduction=4).double()
    x = torch.randn(2, 24, 4, 5, dtype=torch.float64)
    scales = x.reshape(2, 3, 8, 4, 5)
    hidden = torch.relu(module.squeeze(scales.mean(dim=(3, 4))))
    logits = torch.sigmoid(module.excite(hidden))
    weight = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
    torch.testing.assert_close(module(x), (scales * weight[..., None, None]).reshape(x.shape))
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(2, 8, dtype=torch.float64))


def test_the_shuffle_interleaves_groups() -> None:
    x = torch.arange(6).reshape(1, 6, 1, 1)
    assert channel_shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert channel_shuffle(channel_shuffle(x, 2), 3).flatten().tolist() == list(range(6))


def test_each_scale_has_its_own_kernel() -> None:
    block = DMSABlock(16, groups=2, scale_kernels=(1, 3, 5, 7))
    kernels = [conv.kernel_size[0] for conv in block.scale_convs if isinstance(conv, nn.Conv2d)]
    assert kernels == [3, 5, 7]
    x = torch.zeros(1, 16, 15, 15)
    x[:, :, 7, 7] = 1
    reached = block(x)[0].abs() > 0
    extents = {int(channel.any(dim=0).sum()) for channel in reached}
    assert extents == {1, 3, 5, 7}


def test_without_any_part_the_block_only_shuffles_and_scales() -> None:
    block = DMSABlock(16, groups=2, scale_kernels=(1,))  # the softmax over one scale is 1
    x = torch.randn(1, 16, 6, 6)
    torch.testing.assert_close(block(x), channel_shuffle(x, 2))


@pytest.mark.parametrize("mode", ["window", "full", "pool"])
def test_an_exported_block_takes_other_sizes(mode: str) -> None:
    block = switched_on(DMSABlock(32, groups=2, pam_mode=mode))
    x = torch.randn(2, 32, 8, 8)
    dims = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}
    dynamic = torch.export.export(block, (x,), dynamic_shapes=(dims,)).module()
    static = torch.export.export(block, (x,)).module()
    torch.testing.assert_close(static(x), block(x))
    for shape in ((2, 32, 8, 8), (1, 32, 7, 9), (3, 32, 16, 5)):
        x = torch.randn(shape)
        torch.testing.assert_close(dynamic(x), block(x))


def test_the_exported_network_takes_other_sizes() -> None:
    net = switched_on(DMSANet((1, 1), width=32, groups=(1, 2), num_classes=5))
    dims = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}
    exported = torch.export.export(net, (torch.randn(2, 3, 64, 64),), dynamic_shapes=(dims,))
    for shape in ((1, 3, 64, 64), (3, 3, 33, 49)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported.module()(x), net(x))


@pytest.mark.parametrize("reduction", [1, 4])
@pytest.mark.parametrize("mode", ["full", "pool"])
def test_full_attention_does_not_keep_the_map_of_all_positions(mode: str, reduction: int) -> None:
    """At 64x64 the map takes 67 MB, all positions with their 8 channels 0.1 MB."""
    module = switched_on(PositionAttention(8, 1, mode=mode, reduction=reduction))
    x = torch.randn(1, 8, 64, 64)
    with torch.profiler.profile(profile_memory=True) as profile:
        module(x).sum().backward()
    assert max(event.self_cpu_memory_usage for event in profile.events()) < 20e6


@pytest.mark.parametrize(
    ("build", "bottlenecks", "million"),
    [(dmsanet_26, 8, 16.1), (dmsanet_50, 16, 25.8), (dmsanet_101, 33, 45.0)],
)
def test_the_sizes_are_those_of_resnet(build: type, bottlenecks: int, million: float) -> None:
    with torch.device("meta"):
        net = build()
    assert sum(len(stage) for stage in net.stages) == bottlenecks
    parameters = sum(parameter.numel() for parameter in net.parameters())
    assert parameters / 1e6 == pytest.approx(million, abs=0.05)
    assert net(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_every_parameter_of_the_network_gets_a_gradient() -> None:
    net = switched_on(DMSANet((1, 1), width=32, groups=(1, 2), num_classes=5)).train()
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"groups": 3}, "cannot be divided by two halves of each group"),
        ({"scale_kernels": (3, 5, 7)}, "cannot be divided by scales"),
        ({"scale_kernels": (3, 4)}, "expected odd numbers"),
        ({"cam_sign": "plus"}, "cam_sign is 'plus'; expected paper or danet"),
        ({"pam_mode": "all"}, "pam_mode is 'all'; expected window or full or pool"),
        ({"pam_reduction": 2}, "queries as wide as values"),
        ({"pam_reduction": 3, "pam_mode": "full"}, "cannot be divided by pam_reduction"),
        ({"pam_kernel_size": 2}, "expected an odd number"),
    ],
)
def test_contradictions_are_named(keywords: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        DMSABlock(64, **keywords)


def test_stages_and_groups_must_agree() -> None:
    with pytest.raises(SpecError, match="2 stages have 4 numbers of groups"):
        DMSANet((1, 1))
