"""timm's models before and after their attention is swapped."""

import warnings

import pytest
import torch
from torch import nn

import edgeattn
from edgeattn.models.adapters import PartlyAdaptedWarning, adapt_with_report
from tests.adapted import difference, exported_attention_nodes
from tests.random_weights import randomized
from tests.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own deprecations
    timm = pytest.importorskip("timm")
    from timm.models import maxxvit, swin_transformer, swin_transformer_v2

SWINS = {1: swin_transformer.SwinTransformer, 2: swin_transformer_v2.SwinTransformerV2}
SMALL = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "patch_size": 2, "num_classes": 5}


def swin(version, **settings):
    return randomized(SWINS[version](**(SMALL | {"window_size": 4} | settings)))


# Maps of 16 and 8, 19x23 and 10x12, 20x13 and 10x7: padded where the two orders differ.
@pytest.mark.parametrize("size", [(32, 32), (38, 46), (40, 26)])
@pytest.mark.parametrize("version", [1, 2])
def test_the_logits_are_equal_at_every_size(version, size):
    theirs = swin(version, img_size=size)
    assert difference(theirs, edgeattn.adapt(theirs), size) < 1e-5


@pytest.mark.parametrize("version", [1, 2])
def test_one_model_for_images_of_any_size_gives_the_same_logits(version):
    theirs = swin(version, img_size=64, strict_img_size=False)
    report = adapt_with_report(theirs)
    assert report.adapted[1].specs[0].shift_pad_order == "roll_then_pad"
    for size in [(64, 64), (38, 46), (44, 60)]:
        assert difference(theirs, report.module, size) < 1e-5, size


def test_windows_that_are_not_square_and_of_each_stage_give_the_same_logits():
    theirs = swin(1, img_size=(32, 48), window_size=((4, 6), (2, 3)))
    report = adapt_with_report(theirs)
    windows = [a.specs[0].head_groups[0].window_size for a in report.adapted]
    assert windows == [(4, 6), (4, 6), (2, 3), (2, 3)]
    assert difference(theirs, report.module, (32, 48)) < 1e-5


def test_swinv2_keeps_the_windows_that_it_was_trained_with_and_a_bias_of_its_own():
    theirs = swin(2, img_size=(38, 46), pretrained_window_sizes=(0, 3), qkv_bias=False)
    assert difference(theirs, edgeattn.adapt(theirs), (38, 46)) < 1e-5


# Second maps of 4x4, 4x10, and 3x10, where roll and pad come in the order that differs.
@pytest.mark.parametrize("size", [(16, 16), (16, 40), (12, 40)])
@pytest.mark.parametrize("version", [1, 2])
def test_a_shift_within_a_single_window_gives_the_same_logits(version, size):
    for settings in (
        {"img_size": size, "always_partition": True},
        {"img_size": 64, "strict_img_size": False},
    ):
        theirs = swin(version, **settings)
        for name, parameter in theirs.named_parameters():
            if name.endswith("logit_scale"):  # far enough from what a mask of -100 lets through
                nn.init.constant_(parameter, 2.0)
        assert difference(theirs, edgeattn.adapt(theirs), size) < 1e-5


def test_heads_of_another_width_are_left_with_the_reason():
    with pytest.warns(PartlyAdaptedWarning, match="4 of 8 .* from 16 to 24 channels for 2 heads"):
        report = adapt_with_report(nn.ModuleList([swin(1, img_size=32, head_dim=4), swin(1)]))
    assert len(report.left) == 4
    assert len(report.adapted) == 4


@pytest.mark.parametrize("partition", ["block", "grid"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"head_first": False, "rel_pos_type": "bias_tf"},
        {"attn_bias": False, "init_values": 0.5},
        {"rel_pos_type": "mlp", "rel_pos_dim": 16},
        {"rel_pos_type": ""},
    ],
)
@pytest.mark.parametrize("name", ["PartitionAttentionCl", "PartitionAttention2d"])
def test_maxvit_gives_the_same_map(name, settings, partition):
    config = maxxvit.MaxxVitTransformerCfg(
        dim_head=8, window_size=(4, 3), grid_size=(3, 2), act_layer="gelu_tanh", **settings
    )
    theirs = randomized(getattr(maxxvit, name)(32, partition, config))
    ours = edgeattn.adapt(theirs)
    maps = torch.randn(2, 12, 18, 32)
    if name == "PartitionAttention2d":
        maps = maps.permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = theirs(maps)
        assert (ours(maps) - expected).abs().max() / expected.abs().max() < 1e-5


def test_the_convolutions_of_a_maxvit_stay_and_each_attention_is_told():
    config = maxxvit.MaxxVitCfg(
        embed_dim=(16, 32),
        depths=(1, 1),
        block_type=("M", "M"),
        stem_width=8,
        transformer_cfg=maxxvit.MaxxVitTransformerCfg(dim_head=8, window_size=(4, 4)),
    )
    theirs = randomized(maxxvit.MaxxVit(config, img_size=32, num_classes=5))
    report = adapt_with_report(theirs)
    modes = [a.specs[0].head_groups[0].mode for a in report.adapted]
    assert modes == ["block", "grid", "block", "grid"]
    assert "8 heads" not in str(report)
    assert "stages.0.blocks.0.attn_block: 2 heads, block window 4x4" in str(report)
    assert difference(theirs, report.module, (32, 32)) < 1e-5


def test_the_graph_of_an_adapted_model_has_one_node_per_attention(tmp_path):
    ours = edgeattn.adapt(swin(2, img_size=(38, 46)))
    assert exported_attention_nodes(ours, (38, 46), tmp_path) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "attentions"),
    [
        ("swin_tiny_patch4_window7_224", 12),
        ("swin_s3_tiny_224", 12),
        ("swinv2_tiny_window8_256", 12),
        ("maxvit_tiny_tf_224", 22),
        ("maxvit_rmlp_pico_rw_256", 22),
    ],
)
def test_published_sizes_are_equal(name, attentions):
    # In float64: random weights magnify the rounding of MaxViT's convolutions layer by layer.
    theirs = randomized(timm.create_model(name, pretrained=False)).double()
    report = adapt_with_report(theirs)
    assert (len(report.adapted), report.left) == (attentions, ())
    size = theirs.pretrained_cfg["input_size"][1:]
    assert difference(theirs, report.module, size) < 1e-10
