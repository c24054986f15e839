"""Parallel multi-scale attention: each branch against plain torch, shapes, sharing and export."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeattn.errors import SpecError
from edgeattn.models.parallel import (
    PMSA,
    Expansion,
    ParallelMultiScaleSelfAttention,
    Reduction,
    pmsa_nano,
    pmsa_tiny,
)

DYNAMIC = torch.export.Dim.DYNAMIC
AGGREGATIONS = ("concat", "sum", "softmax")
UPSAMPLES = ("nearest", "bilinear", "pixel_shuffle")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def full_attention(attention: nn.Module, x: Tensor) -> Tensor:
    """Attention of all tokens to all, by torch's own multi-head function, without a bias table."""
    tokens = x.flatten(1, 2).transpose(0, 1)
    out, _ = F.multi_head_attention_forward(
        tokens,
        tokens,
        tokens,
        x.shape[-1],
        attention.spec.qkv_heads,
        attention.qkv.weight,
        attention.qkv.bias,
        None,
        None,
        False,
        0.0,
        attention.proj.weight,
        attention.proj.bias,
        need_weights=False,
    )
    return out.transpose(0, 1).reshape(x.shape)


def by_hand(layer: ParallelMultiScaleSelfAttention, x: Tensor, upsample: str) -> Tensor:
    """The layer with windows over the whole map, written branch by branch in NCHW."""
    height, width = x.shape[1:3]
    branches = []
    for i, reduce in enumerate(layer.reductions):
        rate = reduce.rate
        rows, cols = -(-height // rate) * rate, -(-width // rate) * rate
        image = torch.zeros(x.shape[0], x.shape[3], rows, cols, dtype=x.dtype)
        image[:, :, :height, :width] = x.permute(0, 3, 1, 2)
        reduced = F.conv2d(image, reduce.conv.weight, reduce.conv.bias, stride=rate).relu()
        tokens = F.layer_norm(
            reduced.permute(0, 2, 3, 1),
            reduced.shape[1:2],
            reduce.norm.weight,
            reduce.norm.bias,
        )
        attended = full_attention(layer.attentions[i % len(layer.attentions)], tokens)
        image = attended.permute(0, 3, 1, 2)
        if rate > 1:
            if upsample == "pixel_shuffle":
                linear = layer.expansions[i].linear
                spread = F.linear(attended, linear.weight, linear.bias)
                # F.pixel_shuffle has the places of a patch last, our layer has them first.
                spread = spread.unflatten(3, (rate * rate, -1)).transpose(3, 4).flatten(3)
                image = F.pixel_shuffle(spread.permute(0, 3, 1, 2), rate)
            else:
                image = F.interpolate(image, scale_factor=float(rate), mode=upsample)
        branches.append(image[:, :, :height, :width].permute(0, 2, 3, 1))
    if layer.aggregation == "concat":
        mixed = torch.cat(branches, dim=3)
    elif layer.aggregation == "sum":
        mixed = sum(branches)
    else:
        shares = layer.branch_logits.exp() / layer.branch_logits.exp().sum()
        mixed = sum(share * branch for share, branch in zip(shares, branches, strict=True))
    return F.linear(mixed, layer.proj.weight, layer.proj.bias)


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("upsample", UPSAMPLES)
def test_the_layer_is_its_formula(upsample: str, aggregation: str, share_weights: bool) -> None:
    layer = ParallelMultiScaleSelfAttention(
        12,
        2,
        branch_dim=8,
        rates=(1, 2, 3),
        windows=0,
        share_weights=share_weights,
        aggregation=aggregation,
        upsample=upsample,
    ).double()
    if layer.branch_logits is not None:
        nn.init.normal_(layer.branch_logits)
    for height, width in ((6, 12), (7, 5), (1, 4)):
        x = torch.randn(2, height, width, 12, dtype=torch.float64)
        torch.testing.assert_close(layer(x), by_hand(layer, x, upsample))


@pytest.mark.parametrize("upsample", UPSAMPLES)
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (3, 14)])
def test_every_map_keeps_its_shape(size: tuple[int, int], upsample: str) -> None:
    layer = ParallelMultiScaleSelfAttention(16, 2, windows=(4, 3, 2), upsample=upsample)
    x = torch.randn(3, *size, 16)
    out = layer(x)
    assert out.shape == x.shape
    assert out.isfinite().all()


def test_shared_weights_are_one_attention_and_separate_ones_are_three() -> None:
    shared = ParallelMultiScaleSelfAttention(16, 2, share_weights=True)
    separate = ParallelMultiScaleSelfAttention(16, 2)
    assert len(shared.attentions) == 1
    assert len(separate.attentions) == 3
    for attention in separate.attentions:
        attention.load_state_dict(shared.attentions[0].state_dict())
    rest = {k: v for k, v in shared.state_dict().items() if not k.startswith("attentions")}
    separate.load_state_dict(rest, strict=False)
    x = torch.randn(1, 8, 8, 16)
    torch.testing.assert_close(separate(x), shared(x))


def test_a_window_spans_more_of_the_map_in_a_coarser_branch() -> None:
    """One token changed: what changes with it shows how far each branch sees."""
    for rate, extent in ((1, 2), (2, 4), (4, 8)):
        layer = ParallelMultiScaleSelfAttention(8, 1, rates=(rate,), windows=2).double()
        x = torch.randn(1, 16, 16, 8, dtype=torch.float64)
        changed = x.clone()
        changed[0, 0, 0] += 1
        seen = (layer(x) != layer(changed)).any(dim=3)[0]
        expected = torch.zeros(16, 16, dtype=torch.bool)
        expected[:extent, :extent] = True
        assert torch.equal(seen, expected)


def test_shifted_windows_are_moved_by_half() -> None:
    layer = ParallelMultiScaleSelfAttention(8, 1, rates=(1,), windows=4, shifted=True)
    assert layer.attentions[0].spec.head_groups[0].shift_size == (2, 2)


def test_reduction_and_nearest_expansion_cover_the_map() -> None:
    reduced = Reduction(4, 6, 3)(torch.randn(2, 7, 9, 4))
    assert reduced.shape == (2, 3, 3, 6)
    expanded = Expansion(6, 3, "nearest")(reduced, 7, 9)
    assert expanded.shape == (2, 7, 9, 6)
    torch.testing.assert_close(expanded[:, 6, 8], reduced[:, 2, 2], rtol=0, atol=0)
    torch.testing.assert_close(expanded[:, 5, 2], reduced[:, 1, 0], rtol=0, atol=0)


@pytest.mark.parametrize("upsample", UPSAMPLES)
@pytest.mark.parametrize("traced", [(12, 12), (7, 9)])
def test_a_dynamic_layer_is_not_tied_to_the_size_it_was_traced_at(
    traced: tuple[int, int], upsample: str
) -> None:
    layer = ParallelMultiScaleSelfAttention(8, 1, windows=(4, 3, 2), upsample=upsample).eval()
    x = torch.randn(2, *traced, 8)
    dims = {0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC}
    exported = torch.export.export(layer, (x,), dynamic_shapes=(dims,)).module()
    for shape in ((2, 12, 12, 8), (1, 7, 9, 8), (3, 16, 6, 8), (1, 5, 13, 8)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported(x), layer(x))


def test_a_whole_model_exports_static_and_dynamic() -> None:
    net = PMSA((1, 1), (8, 8), (1, 1), (3, 2), num_classes=2, rates=(1, 2), patch_size=2).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))
    dims = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}
    exported = torch.export.export(net, (x,), dynamic_shapes=(dims,)).module()
    for shape in ((1, 3, 16, 16), (3, 3, 31, 45)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported(x), net(x))


def test_the_sizes_of_the_models() -> None:
    with torch.device("meta"):
        nano, tiny = pmsa_nano(), pmsa_tiny()
    assert sum(p.numel() for p in nano.parameters()) < 950_000
    assert nano(torch.empty(2, 1, 28, 28, device="meta")).shape == (2, 10)
    assert 5e6 < sum(p.numel() for p in tiny.parameters()) < 20e6
    assert tiny(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_every_parameter_of_the_model_gets_a_gradient() -> None:
    net = PMSA(
        (2, 1),
        (8, 16),
        (1, 2),
        (2, (2, 2, 0)),
        num_classes=3,
        aggregation="softmax",
        upsample="pixel_shuffle",
        drop_path=0.1,
    )
    net(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rates": ()}, r"rates are \(\); expected one or more"),
        ({"rates": (1, 0)}, "each at least 1"),
        ({"windows": (7, 7)}, "3 branches have 2 windows"),
        ({"windows": (7, 7, 4), "share_weights": True}, "share their attention"),
        ({"aggregation": "mean"}, "aggregation is 'mean'; expected concat or sum or softmax"),
        ({"upsample": "cubic"}, "upsample is 'cubic'"),
        ({"branch_dim": 9}, "2 heads do not divide 9 channels"),
    ],
)
def test_contradictions_are_named(keywords: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ParallelMultiScaleSelfAttention(16, 2, **keywords)


def test_stages_must_be_described_alike() -> None:
    with pytest.raises(SpecError, match="expected one of each per stage"):
        PMSA((2, 2), (16, 32), (1,), (7, 7))
