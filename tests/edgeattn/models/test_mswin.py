"""MSWin: sizes, windows, export, and what its keywords refuse."""

import math

import pytest
import torch

from edgeattn.errors import ModelError, SpecError
from edgeattn.models.attention import MultiScaleWindowAttention
from edgeattn.models.blocks import DropPath
from edgeattn.models.mswin import MSWin, mswin_base, mswin_nano, mswin_small, mswin_tiny

DYNAMIC = torch.export.Dim.DYNAMIC
SMALL = {
    "in_channels": 2,
    "num_classes": 5,
    "patch_size": 2,
    "dims": (8, 12),
    "depths": (2, 3),
    "num_heads": (2, 3),
    "windows": ((2, 3), (2, 3, 4)),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def attention_layers(model: MSWin) -> list[MultiScaleWindowAttention]:
    return [m for m in model.modules() if isinstance(m, MultiScaleWindowAttention)]


@pytest.mark.parametrize("size", [(28, 28), (29, 31), (40, 7), (2, 2), (1, 1)])
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_images_of_any_size_are_classified(size, stem):
    model = MSWin(**SMALL, stem=stem).eval()
    logits = model(torch.randn(3, 2, *size))
    assert logits.shape == (3, 5)
    assert bool(logits.isfinite().all())


def test_feature_maps_halve_from_stage_to_stage():
    maps = MSWin(**SMALL).feature_maps(torch.randn(1, 2, 23, 30))
    assert [tuple(m.shape) for m in maps] == [(1, 12, 15, 8), (1, 6, 8, 12)]


def test_the_logits_are_a_linear_map_of_the_mean_token():
    model = MSWin(**SMALL).eval()
    images = torch.randn(2, 2, 20, 24)
    tokens = model.norm(model.feature_maps(images)[-1]).flatten(1, 2)
    torch.testing.assert_close(model(images), model.head(tokens.sum(1) / tokens.shape[1]))


def test_an_image_gets_the_same_logits_alone_and_in_a_batch():
    model = MSWin(**SMALL).eval()
    images = torch.randn(4, 2, 22, 18)
    torch.testing.assert_close(model(images), torch.cat([model(image[None]) for image in images]))


def test_each_layer_mixes_its_windows_and_odd_blocks_shift_them():
    layers = attention_layers(MSWin(**SMALL, shifted=(True, False)))
    windows = [[g.window_size[0] for g in layer.spec.head_groups] for layer in layers]
    shifts = [[g.shift_size[0] for g in layer.spec.head_groups] for layer in layers]
    assert windows == [[2, 3]] * 2 + [[2, 3, 4]] * 3
    assert shifts == [[0, 0], [1, 1]] + [[0, 0, 0]] * 3


def test_the_keywords_reach_every_attention_layer():
    model = MSWin(
        **SMALL,
        qkv_bias=False,
        norm_placement="res_post",
        merge_norm_first=False,
        qk_mode="cosine",
        position_bias="none",
        pad_mode="mask",
        shift_pad_order="roll_then_pad",
        mask_value=-100.0,
        mlp_ratio=2.0,
    )
    for layer in attention_layers(model):
        assert layer.qkv.bias is None
        assert not layer.spec.has_bias
        assert layer.spec.qk_mode == "cosine"
        assert layer.spec.pad_mode == "mask"
        assert layer.spec.shift_pad_order == "roll_then_pad"
        assert layer.spec.mask_value == -100.0
    assert model.stages[1].merge.norm.normalized_shape == (12,)
    assert all(b.norm_placement == "res_post" for b in model.stages[0].blocks)
    assert model.stages[1].blocks[0].mlp.fc1.out_features == 24


def test_drop_path_rises_from_block_to_block():
    model = MSWin(**SMALL, drop_path=0.2)
    drops = [m.drop_probability for m in model.modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_training_reaches_every_parameter():
    model = mswin_nano()
    model(torch.randn(2, 1, 28, 28)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_nano_fits_in_four_megabytes():
    model = mswin_nano()
    assert sum(p.numel() for p in model.parameters()) < 0.95e6
    assert model(torch.randn(1, 1, 28, 28)).shape == (1, 10)
    assert any(len(layer.spec.head_groups) > 1 for layer in attention_layers(model))


@pytest.mark.parametrize(
    ("build", "dims", "blocks"),
    [(mswin_tiny, 768, 12), (mswin_small, 768, 24), (mswin_base, 1024, 24)],
)
def test_the_larger_variants_have_the_sizes_of_swin(build, dims, blocks):
    with torch.device("meta"):
        model = build()
        logits = model(torch.empty(1, 3, 224, 224))
    layers = attention_layers(model)
    assert logits.shape == (1, 1000)
    assert model.norm.normalized_shape == (dims,)
    assert len(layers) == blocks
    assert all(layer.spec.head_dim == 32 for layer in layers)
    assert {g.window_size[0] for layer in layers for g in layer.spec.head_groups} >= {4, 8, 16}


def test_a_builder_takes_changed_keywords():
    assert mswin_nano(num_classes=3)(torch.randn(1, 1, 28, 28)).shape == (1, 3)


@pytest.mark.parametrize("keywords", [{"stem": "conv"}, {"position_bias": "continuous"}])
def test_one_exported_program_serves_every_batch_and_size(keywords):
    model = MSWin(**SMALL, **keywords).eval()
    shapes = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}
    exported = torch.export.export(model, (torch.randn(2, 2, 24, 18),), dynamic_shapes=(shapes,))
    for shape in [(1, 2, 28, 28), (3, 2, 33, 47), (2, 2, 9, 16)]:
        images = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(exported.module()(images), model(images))
    calls = [str(n.target) for n in exported.graph.nodes if n.op == "call_function"]
    assert calls.count("edgeattn.multi_scale_window_attention.default") == 5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"depths": (2,)}, ModelError, r"dims \(2\), depths \(1\)"),
        ({"windows": ()}, ModelError, r"windows \(0\)"),
        ({"shifted": (True,)}, ModelError, r"shifted \(1\)"),
        ({"pretrained_windows": (1, 2, 3)}, ModelError, r"pretrained_windows \(3\)"),
        ({"stem": "pool"}, ModelError, "stem is 'pool'"),
        ({"position_bias": "absolute"}, ModelError, "position_bias is 'absolute'"),
        ({"norm_placement": "post"}, ModelError, "norm_placement is 'post'"),
        ({"drop_path": 1.5}, ModelError, "drop_probability"),
        ({"num_heads": (3, 3)}, SpecError, "3 heads do not divide 8 channels"),
        ({"windows": ((2, 3, 4), (2,))}, SpecError, "2 heads cannot be shared out over 3 windows"),
        ({"mask_value": math.inf}, SpecError, "mask_value"),
    ],
)
def test_contradicting_keywords_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        MSWin(**(SMALL | changes))
