"""Our models against the libraries' own, with the libraries' weights, every one of them random."""

import warnings

import pytest
import torch
from torch import nn

from edgeattn.errors import ModelError
from edgeattn.models.attention import MultiScaleWindowAttention
from edgeattn.models.blocks import TransformerBlock
from edgeattn.models.foreign import (
    state_dict_from_hf_swin,
    state_dict_from_hf_swinv2,
    state_dict_from_timm_maxvit,
    state_dict_from_timm_swin,
    state_dict_from_timm_swinv2,
    state_dict_from_torchvision_swin,
)
from edgeattn.models.mswin import MSWin
from edgeattn.spec import HeadGroup
from tests.random_weights import randomized
from tests.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the libraries' own deprecations
    maxxvit = pytest.importorskip("timm.models.maxxvit")
    timm_swin = pytest.importorskip("timm.models.swin_transformer")
    timm_swinv2 = pytest.importorskip("timm.models.swin_transformer_v2")
    torchvision_swin = pytest.importorskip("torchvision.models.swin_transformer")
    transformers = pytest.importorskip("transformers")
    swin_class = transformers.SwinForImageClassification
    swinv2_class = transformers.Swinv2ForImageClassification

RELATIVE_TOLERANCE = 1e-4  # float32, two stages of two blocks

SMALL = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
# Height and width: maps of 16 and 8, of 20 and 10 by 24 and 12, of odd sizes, of primes.
EVEN_SIZES = [(32, 32), (40, 48)]
ODD_SIZES = [(38, 46), (46, 26)]
RAGGED_SIZES = [(33, 45), (47, 25)]


def relative_error(theirs: nn.Module, ours: nn.Module, size: tuple[int, int]) -> float:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(sum(size)))
    with torch.no_grad():
        expected = theirs(images)
        expected = getattr(expected, "logits", expected)
        return float((ours(images) - expected).abs().max() / expected.abs().max())


def mswin(state: dict[str, torch.Tensor], keywords: dict, **changes: object) -> MSWin:
    model = MSWin(**(keywords | changes))
    model.load_state_dict(state)
    return model.eval()


def hf_config(config_class: type, **changes: object):
    settings = {"image_size": 32, "patch_size": 2, "window_size": 4, "num_labels": 5}
    return config_class(
        **(
            {k: list(v) if isinstance(v, tuple) else v for k, v in SMALL.items()}
            | settings
            | changes
        )
    )


@pytest.fixture(scope="module")
def hf_swin() -> nn.Module:
    return randomized(swin_class(hf_config(transformers.SwinConfig)))


@pytest.mark.parametrize("size", [*EVEN_SIZES, *ODD_SIZES, *RAGGED_SIZES])
def test_hugging_face_swin_gives_the_same_logits(hf_swin, size):
    ours = mswin(*state_dict_from_hf_swin(hf_swin.state_dict()))
    assert relative_error(hf_swin, ours, size) < RELATIVE_TOLERANCE


def test_hugging_face_swin_is_read_from_its_saved_file_too(hf_swin, tmp_path):
    from safetensors.torch import load_file

    hf_swin.save_pretrained(tmp_path)  # under the names of transformers 4
    saved = load_file(tmp_path / "model.safetensors")
    state, keywords = state_dict_from_hf_swin(saved)
    expected, expected_keywords = state_dict_from_hf_swin(hf_swin.state_dict())
    assert keywords == expected_keywords
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_hugging_face_swin_without_qkv_bias_gives_the_same_logits():
    theirs = randomized(swin_class(hf_config(transformers.SwinConfig, qkv_bias=False)))
    state, keywords = state_dict_from_hf_swin(theirs.state_dict())
    assert keywords["qkv_bias"] is False
    assert relative_error(theirs, mswin(state, keywords), (38, 46)) < RELATIVE_TOLERANCE


def test_hugging_face_drops_both_shifts_where_one_axis_equals_the_window(hf_swin):
    # Maps of 8x20 and 4x10: at the second stage one axis has one window.
    theirs = randomized(swin_class(hf_config(transformers.SwinConfig)))
    state, keywords = state_dict_from_hf_swin(theirs.state_dict())
    size = (16, 40)
    assert relative_error(theirs, mswin(state, keywords, shifted=(True, False)), size) < 1e-4
    assert relative_error(theirs, mswin(state, keywords), size) > 1e-3


@pytest.mark.parametrize("size", [*EVEN_SIZES, *ODD_SIZES, *RAGGED_SIZES])
@pytest.mark.parametrize("pretrained", [None, (6, 3)])
def test_hugging_face_swinv2_gives_the_same_logits(size, pretrained):
    changes = {"pretrained_window_sizes": list(pretrained)} if pretrained else {}
    theirs = randomized(swinv2_class(hf_config(transformers.Swinv2Config, **changes)))
    converted = state_dict_from_hf_swinv2(theirs.state_dict(), (4, 4), pretrained)
    assert relative_error(theirs, mswin(*converted), size) < RELATIVE_TOLERANCE


def test_hugging_face_swinv2_adds_its_mask_twice():
    # With heads of two channels and the largest factor, logits differ by more than 100: a mask of
    # -100 lets some of the masked keys through.
    theirs = randomized(swinv2_class(hf_config(transformers.Swinv2Config, num_heads=(8, 16))))
    for name, parameter in theirs.named_parameters():
        if name.endswith("logit_scale"):
            nn.init.constant_(parameter, 5.0)
    state, keywords = state_dict_from_hf_swinv2(theirs.state_dict(), (4, 4))
    assert relative_error(theirs, mswin(state, keywords), (32, 32)) < RELATIVE_TOLERANCE
    once = mswin(state, keywords, mask_value=-100.0)
    assert relative_error(theirs, once, (32, 32)) > 10 * RELATIVE_TOLERANCE


def test_hugging_face_swinv2_with_a_shrunk_window_gives_the_same_logits():
    # Window 8 on maps of 16 and 8: no shift at the second stage. Window 12 shrinks to 8 there.
    theirs = randomized(swinv2_class(hf_config(transformers.Swinv2Config, window_size=12)))
    converted = state_dict_from_hf_swinv2(theirs.state_dict(), (12, 8))
    assert relative_error(theirs, mswin(*converted), (32, 32)) < RELATIVE_TOLERANCE


@pytest.mark.parametrize("size", [*EVEN_SIZES, *ODD_SIZES, *RAGGED_SIZES])
@pytest.mark.parametrize("version", [1, 2])
def test_torchvision_swin_gives_the_same_logits(version, size):
    v2 = {
        "block": torchvision_swin.SwinTransformerBlockV2,
        "downsample_layer": torchvision_swin.PatchMergingV2,
    }
    theirs = torchvision_swin.SwinTransformer(
        [2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=5, **(v2 if version == 2 else {})
    )
    randomized(theirs)
    ours = mswin(*state_dict_from_torchvision_swin(theirs.state_dict()))
    assert relative_error(theirs, ours, size) < RELATIVE_TOLERANCE


def test_torchvision_swin_with_windows_larger_than_the_map_gives_the_same_logits():
    theirs = randomized(
        torchvision_swin.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [7, 7], num_classes=5)
    )
    ours = mswin(*state_dict_from_torchvision_swin(theirs.state_dict()))
    for size in [(28, 28), (20, 34), (10, 12)]:  # second maps of 7x7, 5x9 and 3x3
        assert relative_error(theirs, ours, size) < RELATIVE_TOLERANCE


@pytest.mark.parametrize("size", [*EVEN_SIZES, *ODD_SIZES])
@pytest.mark.parametrize("version", [1, 2])
def test_timm_swin_gives_the_same_logits(version, size):
    model_class = timm_swin.SwinTransformer if version == 1 else timm_swinv2.SwinTransformerV2
    changes = {} if version == 1 else {"pretrained_window_sizes": (0, 3)}
    theirs = randomized(
        model_class(img_size=size, patch_size=2, window_size=4, num_classes=5, **SMALL, **changes)
    )
    if version == 1:
        state, keywords = state_dict_from_timm_swin(theirs.state_dict())
    else:
        state, keywords = state_dict_from_timm_swinv2(theirs.state_dict(), (4, 4), (0, 3))
    assert relative_error(theirs, mswin(state, keywords), size) < RELATIVE_TOLERANCE
    if size == (38, 46):  # padded and shifted: here the two orders part
        other = mswin(state, keywords, shift_pad_order="pad_then_roll")
        assert relative_error(theirs, other, size) > 1e-3


@pytest.mark.parametrize("partition", ["block", "grid"])
@pytest.mark.parametrize(
    ("settings", "attention_keywords"),
    [
        ({}, {"qkv_layout": "H3D"}),
        ({"head_first": False, "rel_pos_type": "bias_tf"}, {"qkv_layout": "3HD"}),
        ({"attn_bias": False, "init_values": 0.5}, {"qkv_layout": "H3D", "qkv_bias": False}),
    ],
)
def test_timm_maxvit_partition_attention_gives_the_same_map(
    partition, settings, attention_keywords
):
    config = maxxvit.MaxxVitTransformerCfg(
        dim_head=8, window_size=(4, 3), grid_size=(3, 2), act_layer="gelu_tanh", **settings
    )
    theirs = randomized(maxxvit.PartitionAttentionCl(32, partition, config))
    window = config.window_size if partition == "block" else config.grid_size
    ours = TransformerBlock(
        32,
        MultiScaleWindowAttention(
            32,
            [HeadGroup(4, window, mode=partition)],
            proj_bias=config.attn_bias,
            **attention_keywords,
        ),
        norm_eps=1e-6,
        gelu_approximation="tanh",
    )
    ours.load_state_dict(state_dict_from_timm_maxvit(theirs.state_dict()))
    x = torch.randn(2, 12, 18, 32)
    with torch.no_grad():
        expected = theirs(x)
        error = (ours(x) - expected).abs().max() / expected.abs().max()
    assert error < RELATIVE_TOLERANCE


def test_tensors_without_a_place_are_named():
    state = randomized(swin_class(hf_config(transformers.SwinConfig, use_absolute_embeddings=True)))
    with pytest.raises(ModelError, match=r"swin\.embeddings\.position_embeddings"):
        state_dict_from_hf_swin(state.state_dict())


def test_a_state_dict_of_another_version_is_refused():
    theirs = swinv2_class(hf_config(transformers.Swinv2Config))
    with pytest.raises(ModelError, match="not that of a whole classifier"):
        state_dict_from_hf_swin(theirs.state_dict())


def test_a_window_that_is_not_square_is_refused():
    theirs = torchvision_swin.SwinTransformer([2, 2], 16, [2], [2], [4, 6], num_classes=5)
    with pytest.raises(ModelError, match="no square window"):
        state_dict_from_torchvision_swin(theirs.state_dict())


def test_heads_of_another_width_are_refused():
    theirs = timm_swin.SwinTransformer(
        img_size=32, patch_size=2, window_size=4, head_dim=4, num_classes=5, **SMALL
    )
    with pytest.raises(ModelError, match="channels"):
        state_dict_from_timm_swin(theirs.state_dict())
