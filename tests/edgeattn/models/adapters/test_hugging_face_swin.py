"""Hugging Face's models before and after their attention is swapped."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import edgeattn
from edgeattn.errors import ModelError
from edgeattn.models.adapters import adapt_with_report
from edgeattn.models.attention import MultiScaleWindowAttention
from tests.adapted import difference, exported_attention_nodes
from tests.random_weights import randomized
from tests.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own deprecations
    transformers = pytest.importorskip("transformers")
    from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinModel

# With patches of 2: maps of 16 and 8, 19x23 and 10x12, 17x23 and 9x12.
SIZES = [(32, 32), (38, 46), (33, 45)]
SMALL = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 5,
}


def model(architecture, config=None, **changes):
    config_class = getattr(transformers, config or f"{architecture.partition('For')[0]}Config")
    settings = config_class(**(SMALL | changes))
    model_class = getattr(transformers, architecture)
    return randomized(model_class._from_config(settings, attn_implementation="eager"))


def swin(**changes):
    return model("SwinForImageClassification", **changes)


def swinv2(**changes):
    return model("Swinv2ForImageClassification", **changes)


def hidden_state_of(output):
    return output.last_hidden_state


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("build", [swin, swinv2])
def test_the_logits_are_equal_at_every_size(build, qkv_bias):
    theirs = build(qkv_bias=qkv_bias)
    ours = edgeattn.adapt(theirs)
    for size in SIZES:
        assert difference(theirs, ours, size) < 1e-5, size


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (16, 13)])
def test_swin_drops_both_shifts_where_the_window_covers_one_axis(size):
    # Second maps of 4x4, 4x10 and 4x4. The original forgets its shift for good there: a new one
    # for each size.
    assert difference(swin(), edgeattn.adapt(swin()), size) < 1e-5


def test_what_swin_forgot_before_it_was_adapted_stays_forgotten():
    theirs = swin()
    theirs(torch.randn(1, 3, 16, 40))
    report = adapt_with_report(theirs)
    shifts = [a.specs[0].head_groups[0].shift_size for a in report.adapted]
    assert shifts == [(0, 0), (2, 2), (0, 0), (0, 0)]
    assert difference(theirs, report.module, (38, 46)) < 1e-5


def test_swinv2_adds_its_mask_twice_and_so_do_we():
    # With heads of two channels and the largest factor, logits differ by more than 100: a mask of
    # -100 lets some of the masked keys through.
    theirs = swinv2(num_heads=[8, 16])
    for name, parameter in theirs.named_parameters():
        if name.endswith("logit_scale"):
            nn.init.constant_(parameter, 5.0)
    ours = edgeattn.adapt(theirs)
    assert difference(theirs, ours, (32, 32)) < 1e-4  # a softmax that steep magnifies rounding
    for module in ours.modules():
        if isinstance(module, MultiScaleWindowAttention):
            module.spec = replace(module.spec, mask_value=-100.0)
    assert difference(theirs, ours, (32, 32)) > 1e-3


def test_swinv2_keeps_the_windows_that_it_was_trained_with():
    theirs = swinv2(pretrained_window_sizes=[6, 3])
    assert difference(theirs, edgeattn.adapt(theirs), (38, 46)) < 1e-5


# Second maps of 4x10, 4x4, 10x4, and 3x9, whose one window on an axis is padded too.
@pytest.mark.parametrize("size", [(16, 40), (16, 16), (40, 13), (10, 33)])
def test_swinv2_shifts_within_a_single_window(size):
    theirs = swinv2()
    assert difference(theirs, edgeattn.adapt(theirs), size) < 1e-5


def test_swinv2_with_a_shrunk_window_gives_the_same_logits():
    theirs = swinv2(window_size=12)
    assert difference(theirs, edgeattn.adapt(theirs), (32, 32)) < 1e-5


def test_donut_swin_gives_the_same_tokens():
    theirs = model("DonutSwinModel", "DonutSwinConfig")
    report = adapt_with_report(theirs)
    assert len(report.adapted) == 4
    for size in SIZES:
        assert difference(theirs, report.module, size, hidden_state_of) < 1e-5, size


def test_maskformer_swin_gives_the_same_tokens():
    settings = {name: value for name, value in SMALL.items() if name != "num_labels"}
    theirs = randomized(MaskFormerSwinModel(transformers.MaskFormerSwinConfig(**settings)))
    report = adapt_with_report(theirs)
    assert len(report.adapted) == 4
    for size in [*SIZES, (16, 40)]:
        assert difference(theirs, report.module, size, hidden_state_of) < 1e-5, size


def test_swin2sr_gives_the_same_image():
    theirs = model("Swin2SRForImageSuperResolution", "Swin2SRConfig", patch_size=1, upscale=2)
    report = adapt_with_report(theirs)
    assert len(report.adapted) == 4
    for size in [(16, 24), (20, 12)]:
        assert (
            difference(theirs, report.module, size, lambda output: output.reconstruction) < 1e-5
        ), size


@pytest.mark.parametrize("size", [(38, 46), (16, 40), (16, 16)])
def test_a_backbone_shifts_within_a_single_window(size):
    theirs = model("SwinBackbone", "SwinConfig", out_features=["stage1", "stage2"])
    ours = edgeattn.adapt(theirs)
    assert difference(theirs, ours, size, lambda output: output.feature_maps[-1]) < 1e-5


def test_attention_weights_that_ours_does_not_have_are_refused():
    ours = edgeattn.adapt(swinv2())
    with pytest.raises(ModelError, match="no attention weights"):
        ours(torch.randn(1, 3, 32, 32), output_attentions=True)


class Logits(nn.Module):
    """A classifier of transformers that gives a tensor."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images).logits


@pytest.mark.parametrize("build", [swin, pytest.param(swinv2, marks=pytest.mark.slow)])
def test_the_graph_of_an_adapted_model_has_one_node_per_attention(build, tmp_path):
    assert exported_attention_nodes(edgeattn.adapt(Logits(build())), (38, 46), tmp_path) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "settings", "attentions"),
    [
        ("SwinForImageClassification", {}, 12),
        ("SwinForImageClassification", {"depths": [2, 2, 18, 2]}, 24),
        ("Swinv2ForImageClassification", {"image_size": 256, "window_size": 8}, 12),
        ("Swinv2ForImageClassification", {"image_size": 256, "window_size": 16}, 12),
    ],
)
def test_published_sizes_are_equal(architecture, settings, attentions):
    config = getattr(transformers, f"{architecture.partition('For')[0]}Config")(**settings)
    theirs = randomized(
        getattr(transformers, architecture)._from_config(config, attn_implementation="eager")
    )
    report = adapt_with_report(theirs)
    assert len(report.adapted) == attentions
    assert difference(theirs, report.module, (config.image_size, config.image_size)) < 1e-5
