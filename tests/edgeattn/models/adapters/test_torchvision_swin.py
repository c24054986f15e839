"""torchvision's models before and after their attention is swapped."""

import warnings

import pytest
import torch
from torch import nn

import edgeattn
from edgeattn.models.adapters import PartlyAdaptedWarning, adapt_with_report
from edgeattn.models.attention import MultiScaleWindowAttention
from tests.adapted import difference
from tests.random_weights import randomized
from tests.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own deprecations
    swins = pytest.importorskip("torchvision.models.swin_transformer")

# Maps of 16 and 8, 19x23 and 10x12, 16x22 and 8x11, 8x20 and 4x10, 7x7 and 4x4, 3x4 and 2x2.
SIZES = [(32, 32), (38, 46), (33, 45), (16, 40), (14, 14), (6, 8)]


def swin(version=1, window=(4, 3)):
    v2 = {"block": swins.SwinTransformerBlockV2, "downsample_layer": swins.PatchMergingV2}
    return randomized(
        swins.SwinTransformer(
            [2, 2], 16, [2, 2], [2, 4], list(window), num_classes=5, **(v2 if version == 2 else {})
        )
    )


@pytest.mark.parametrize("version", [1, 2])
def test_the_logits_are_equal_at_every_size(version):
    theirs = swin(version)
    ours = edgeattn.adapt(theirs)
    for size in SIZES:
        assert difference(theirs, ours, size) < 1e-5, size


def test_each_attention_is_one_layer_of_ours_with_the_windows_of_the_original():
    report = adapt_with_report(swin())
    assert [a.name for a in report.attentions] == [
        "features.1.0.attn",
        "features.1.1.attn",
        "features.3.0.attn",
        "features.3.1.attn",
    ]
    groups = [a.specs[0].head_groups[0] for a in report.adapted]
    assert [(g.num_heads, g.window_size, g.shift_size) for g in groups] == [
        (2, (4, 3), (0, 0)),
        (2, (4, 3), (2, 1)),
        (4, (4, 3), (0, 0)),
        (4, (4, 3), (2, 1)),
    ]
    assert report.left == ()
    assert not any(type(m).__name__ == "ShiftedWindowAttention" for m in report.module.modules())


def test_an_attention_by_itself_is_replaced():
    theirs = randomized(swins.ShiftedWindowAttention(16, [4, 4], [2, 2], 2))
    ours = edgeattn.adapt(theirs)
    assert isinstance(ours, MultiScaleWindowAttention)
    maps = torch.randn(2, 9, 11, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(maps), theirs(maps), rtol=1e-5, atol=1e-5)


def test_an_attention_without_biases_is_replaced():
    theirs = swins.ShiftedWindowAttention(16, [4, 4], [2, 2], 2, qkv_bias=False, proj_bias=False)
    randomized(theirs)
    maps = torch.randn(1, 9, 11, 16)
    with torch.no_grad():
        torch.testing.assert_close(edgeattn.adapt(theirs)(maps), theirs(maps), rtol=1e-5, atol=1e-5)


def test_types_and_frozen_weights_are_kept():
    theirs = swin().double().requires_grad_(False)
    ours = edgeattn.adapt(theirs)
    attention = ours.features[1][1].attn
    assert {p.dtype for p in attention.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in attention.parameters())
    assert all(p.requires_grad for p in edgeattn.adapt(swin()).features[1][1].attn.parameters())
    images = torch.randn(1, 3, 38, 46, dtype=torch.float64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("version", [1, 2])
def test_gradients_reach_the_attention_as_they_did(version):
    theirs = swin(version).double()
    ours = edgeattn.adapt(theirs)
    images = torch.randn(1, 3, 22, 26, dtype=torch.float64)
    for model in (theirs, ours):
        model(images).square().sum().backward()
    theirs_weight = theirs.features[1][1].attn.qkv.weight.grad
    weight = ours.features[1][1].attn.qkv.weight.grad
    torch.testing.assert_close(weight, theirs_weight, rtol=1e-6, atol=1e-9)


class LowRank(nn.Module):
    """A linear layer with something added, as fine-tuning libraries wrap it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base_layer.weight + self.up.weight @ self.down.weight

    @property
    def bias(self):
        return self.base_layer.bias


class Fixed(nn.Linear):
    """A linear layer that keeps something other than tensors, as quantized ones do."""

    def get_extra_state(self):
        return "packed"


class Bare(nn.Module):
    """A linear layer whose weight no state dict has."""

    def __init__(self, base):
        super().__init__()
        self.weight = base.weight.detach()
        self.bias = None


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (LowRank, r"no place for: qkv\.base_layer\.weight, "),
        (lambda base: Fixed(base.in_features, base.out_features), r"qkv\._extra_state.*no tensor"),
        (Bare, r"has no weight"),
    ],
)
def test_a_layer_that_something_was_added_to_is_left_with_the_reason(wrap, reason):
    theirs = swin()
    theirs.features[1][0].attn.qkv = wrap(theirs.features[1][0].attn.qkv)
    with pytest.warns(PartlyAdaptedWarning, match=reason):
        report = adapt_with_report(theirs)
    assert [a.name for a in report.left] == ["features.1.0.attn"]
    assert difference(theirs, report.module, (32, 32)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_published_sizes_are_equal(name):
    import torchvision.models

    theirs = randomized(getattr(torchvision.models, name)(weights=None))
    report = adapt_with_report(theirs)
    assert len(report.adapted) == 12
    assert difference(theirs, report.module, (224, 224)) < 1e-5
    assert difference(theirs, report.module, (203, 250)) < 1e-5
