"""Windowed models of transformers, torchvision and timm: small ones, and the published sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from torch import nn

from tests.foreign_graphs import (
    Expected,
    FirstTensor,
    ForeignModel,
    Size,
    WindowRule,
    always,
    keep_window,
    pyramid,
    randomized,
    shrink_both,
    shrink_each,
    stage_maps,
)
from tests.super_resolution import SuperResolution
from tests.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()  # all three import torchvision

Config = dict[str, Any]


def _hugging_face(
    config_name: str,
    class_name: str,
    config: Config,
    rule: WindowRule,
    attention: str = "eager",
    even: Size | None = None,
    **facts: Any,
) -> ForeignModel:
    patch, window, stages = config["patch_size"], config["window_size"], len(config["depths"])

    def build(size: Size) -> nn.Module:
        transformers = pytest.importorskip("transformers")
        # Swin V2 takes its windows from the image size of its configuration.
        made = getattr(transformers, config_name)(**(config | {"image_size": list(size)}))
        model_class = getattr(transformers, class_name)
        model = model_class._from_config(made, attn_implementation=attention)
        return FirstTensor(randomized(model))

    def attentions(size: Size) -> list[Expected]:
        maps, windows = stage_maps(size, patch, stages), [(window, window)] * stages
        return pyramid(maps, config["depths"], config["num_heads"], windows, rule, **facts)

    side = patch * window * 2 ** (stages - 1)
    odd = (patch * (2 * side // patch + 3), patch * (3 * side // patch - 1))
    return ForeignModel(build, attentions, even or (2 * side, 3 * side), odd)


def hf_swin(config: Config, attention: str = "eager", even: Size | None = None) -> ForeignModel:
    """Hugging Face's Swin."""
    names = ("SwinConfig", "SwinForImageClassification")
    return _hugging_face(*names, config, shrink_both, attention, even)


def hf_swinv2(config: Config, even: Size | None = None) -> ForeignModel:
    """Hugging Face's Swin V2, which adds its mask of -100 twice."""
    names = ("Swinv2Config", "Swinv2ForImageClassification")
    facts = {"qk_mode": "cosine", "mask_value": -200.0}
    return _hugging_face(*names, config, shrink_each, even=even, **facts)


def hf_donut(config: Config, even: Size | None = None) -> ForeignModel:
    """The encoder of Donut."""
    return _hugging_face("DonutSwinConfig", "DonutSwinModel", config, shrink_both, even=even)


def hf_maskformer(config: Config, even: Size | None = None) -> ForeignModel:
    """The backbone of MaskFormer, which shifts single windows too."""
    return _hugging_face("MaskFormerSwinConfig", "MaskFormerSwinModel", config, always, even=even)


def _whole_windows(size: Size, window: int, config: Config, **facts: Any) -> list[Expected]:
    """List the attentions of a network without stages whose images are padded to whole windows."""
    rows, cols = (-(-n // window) * window for n in size)
    blocks = len(config["depths"])
    maps, windows = [(rows, cols)] * blocks, [(window, window)] * blocks
    return pyramid(maps, config["depths"], config["num_heads"], windows, always, **facts)


def hf_swin2sr(config: Config) -> ForeignModel:
    """Hugging Face's Swin2SR, whose processor pads images to whole windows beforehand."""
    window = config["window_size"]

    def build(_: Size) -> nn.Module:
        transformers = pytest.importorskip("transformers")
        made = transformers.Swin2SRConfig(**config)
        model = transformers.Swin2SRForImageSuperResolution._from_config(made)
        return FirstTensor(randomized(model))

    facts = {"qk_mode": "cosine", "mask_value": -200.0}
    return ForeignModel(
        build,
        lambda size: _whole_windows(size, window, config, **facts),
        (3 * window, 4 * window),
        None,
    )


def swinir_style(config: Config) -> ForeignModel:
    """Our own super resolution network in the style of SwinIR."""
    window = config["window_size"]
    return ForeignModel(
        lambda _: randomized(SuperResolution(**config)),
        lambda size: _whole_windows(size, window, config),
        (3 * window, 4 * window),
        (3 * window + 1, 4 * window - 2),
    )


def torchvision_swin(version: int, config: Config) -> ForeignModel:
    """torchvision's Swin and Swin V2."""
    patch, stages = config["patch_size"], len(config["depths"])
    windows = [config["window_size"]] * stages

    def build(_: Size) -> nn.Module:
        module = pytest.importorskip("torchvision.models.swin_transformer")
        v2 = {
            "block": module.SwinTransformerBlockV2,
            "downsample_layer": module.PatchMergingV2,
        }
        settings = config | {"patch_size": [patch] * 2, "window_size": list(windows[0])}
        model = module.SwinTransformer(**settings, **(v2 if version == 2 else {}))
        return FirstTensor(randomized(model))

    def attentions(size: Size) -> list[Expected]:
        maps = stage_maps((size[0] // patch * patch, size[1] // patch * patch), patch, stages)
        facts = {"qk_mode": "cosine" if version == 2 else "dot"}
        return pyramid(maps, config["depths"], config["num_heads"], windows, keep_window, **facts)

    side = patch * windows[0][0] * 2 ** (stages - 1)
    return ForeignModel(build, attentions, (2 * side, 3 * side), (2 * side + 6, 3 * side - 1))


def timm_swin(version: int, config: Config, even: Size, odd: Size | None) -> ForeignModel:
    """timm's Swin and Swin V2."""
    file, name = {
        1: ("swin_transformer", "SwinTransformer"),
        2: ("swin_transformer_v2", "SwinTransformerV2"),
    }[version]
    window, stages = config["window_size"], len(config["depths"])
    # As timm reads them: two integers are one window, more are the sides of each stage's.
    windows = [window] * stages if len(window) == 2 else [(side, side) for side in window]

    def build(size: Size) -> nn.Module:
        module = pytest.importorskip(f"timm.models.{file}")
        return FirstTensor(randomized(getattr(module, name)(img_size=size, **config)))

    def attentions(size: Size) -> list[Expected]:
        maps = stage_maps(size, config["patch_size"], stages)
        facts = {"order": "roll_then_pad", "qk_mode": "cosine" if version == 2 else "dot"}
        return pyramid(maps, config["depths"], config["num_heads"], windows, shrink_each, **facts)

    return ForeignModel(build, attentions, even, odd)


def timm_maxvit(
    dims: Sequence[int], depths: Sequence[int], window: Size, even: Size, **transformer: Any
) -> ForeignModel:
    """timm's MaxViT, each block of which attends in windows, then in a grid."""
    head_dim = transformer["dim_head"]

    def build(size: Size) -> nn.Module:
        module = pytest.importorskip("timm.models.maxxvit")
        config = module.MaxxVitCfg(
            embed_dim=tuple(dims),
            depths=tuple(depths),
            block_type=("M",) * len(depths),
            stem_width=dims[0],
            transformer_cfg=module.MaxxVitTransformerCfg(
                window_size=window, grid_size=window, **transformer
            ),
        )
        return FirstTensor(randomized(module.MaxxVit(config, img_size=size, num_classes=5)))

    def attentions(size: Size) -> list[Expected]:
        return [
            Expected(map_size, window, (0, 0), dim // head_dim, mode=mode)
            for map_size, dim, depth in zip(
                stage_maps(size, 4, len(depths)), dims, depths, strict=True
            )
            for _ in range(depth)
            for mode in ("block", "grid")
        ]

    return ForeignModel(build, attentions, even, None)


def torchvision_maxvit(
    dims: Sequence[int], partition: int, even: Size, head_dim: int
) -> ForeignModel:
    """torchvision's MaxViT, which stays cut in windows from each attention to its MLP."""

    def build(size: Size) -> nn.Module:
        module = pytest.importorskip("torchvision.models.maxvit")
        model = module.MaxVit(
            input_size=size,
            stem_channels=dims[0],
            partition_size=partition,
            block_channels=list(dims),
            block_layers=[1] * len(dims),
            head_dim=head_dim,
            stochastic_depth_prob=0.0,
            num_classes=5,
        )
        return FirstTensor(randomized(model))

    def attentions(size: Size) -> list[Expected]:
        window = (partition, partition)
        return [
            Expected(window, window, (0, 0), dim // head_dim)
            for dim in dims
            for _ in ("window", "grid")
        ]

    return ForeignModel(build, attentions, even, None)


def timm_tiny_vit(
    dims: Sequence[int], heads: Sequence[int], windows: Sequence[int], even: Size, odd: Size
) -> ForeignModel:
    """timm's TinyViT, which normalizes the tokens of its windows, padded ones among them."""

    def build(_: Size) -> nn.Module:
        module = pytest.importorskip("timm.models.tiny_vit")
        model = module.TinyVit(
            embed_dims=tuple(dims),
            depths=(1,) * len(dims),
            num_heads=tuple(heads),
            window_sizes=tuple(windows),
            num_classes=5,
        )
        return FirstTensor(randomized(model))

    def attentions(size: Size) -> list[Expected]:
        maps = stage_maps(size, 4, len(dims))
        return [
            Expected(map_size, (window, window), (0, 0), num_heads)
            for map_size, num_heads, window in zip(maps[1:], heads[1:], windows[1:], strict=True)
        ]

    return ForeignModel(build, attentions, even, odd)


_TWO_STAGES = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
_HF = {**_TWO_STAGES, "patch_size": 2, "window_size": 4}
_TORCHVISION = {**_TWO_STAGES, "patch_size": 2, "window_size": (4, 4), "num_classes": 5}
_TIMM = _TORCHVISION
_SWIN2SR = {
    "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "image_size": 16,
    "upscale": 2, "upsampler": "pixelshuffledirect",
}  # fmt: skip

SMALL_MODELS: dict[str, ForeignModel] = {
    "hf-swin": hf_swin(_HF),
    "hf-swin-sdpa": hf_swin(_HF, "sdpa"),
    "hf-swin-no-qkv-bias": hf_swin({**_HF, "qkv_bias": False}),
    "hf-swinv2": hf_swinv2(_HF),
    "hf-donut": hf_donut(_HF),
    "hf-maskformer": hf_maskformer(_HF),
    "hf-swin2sr": hf_swin2sr(_SWIN2SR),
    "swinir-style": swinir_style(
        {"channels": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    ),
    "torchvision-swin": torchvision_swin(1, _TORCHVISION),
    "torchvision-swin-rectangle": torchvision_swin(1, {**_TORCHVISION, "window_size": (4, 3)}),
    "torchvision-swinv2": torchvision_swin(2, _TORCHVISION),
    "timm-swin": timm_swin(1, _TIMM, (32, 48), (38, 46)),
    "timm-swin-s3": timm_swin(
        1,
        {**_TIMM, "depths": [2, 2, 2], "num_heads": [2, 4, 4], "window_size": (4, 8, 5)},
        (32, 48),
        (38, 46),
    ),
    "timm-swinv2": timm_swin(2, _TIMM, (32, 48), (38, 46)),
    "timm-maxvit": timm_maxvit((16, 32), (1, 1), (4, 3), (64, 72), dim_head=8),
    "timm-maxvit-3hd": timm_maxvit(
        (16, 32), (1, 1), (4, 3), (64, 72), dim_head=8, head_first=False, rel_pos_type="bias_tf"
    ),
    "torchvision-maxvit": torchvision_maxvit((16, 32), 4, (64, 64), head_dim=8),
    "timm-tiny-vit": timm_tiny_vit((16, 16, 32), (2, 2, 4), (4, 4, 2), (64, 96), (72, 88)),
}

_TINY = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
_HF_TINY = {**_TINY, "patch_size": 4, "window_size": 7}
_SMALL = {**_HF_TINY, "depths": [2, 2, 18, 2]}
_BASE = {**_SMALL, "embed_dim": 128, "num_heads": [4, 8, 16, 32]}
_TV_TINY = {**_TINY, "patch_size": 4, "window_size": (7, 7)}

REAL_MODELS: dict[str, ForeignModel] = {
    "hf-swin-t": hf_swin(_HF_TINY, even=(224, 224)),
    "hf-swin-s": hf_swin(_SMALL, even=(224, 224)),
    "hf-swin-b": hf_swin(_BASE, even=(224, 224)),
    "hf-swinv2-t-w8": hf_swinv2({**_HF_TINY, "window_size": 8}, even=(256, 256)),
    "hf-swinv2-t-w16": hf_swinv2({**_HF_TINY, "window_size": 16}, even=(256, 256)),
    "hf-donut": hf_donut({**_BASE, "depths": [2, 2, 14, 2], "window_size": 10}, even=(320, 320)),
    "hf-maskformer-swin-t": hf_maskformer(_HF_TINY, even=(448, 448)),
    "hf-swin2sr-classical-x2": hf_swin2sr(
        {"embed_dim": 180, "depths": [6] * 6, "num_heads": [6] * 6, "window_size": 8}
    ),
    "swinir-style": swinir_style(
        {"channels": 60, "depths": [6] * 4, "num_heads": [6] * 4, "window_size": 8}
    ),
    "torchvision-swin-t": torchvision_swin(1, _TV_TINY),
    "torchvision-swin-v2-t": torchvision_swin(2, {**_TV_TINY, "window_size": (8, 8)}),
    "timm-swin-tiny": timm_swin(1, _TV_TINY, (224, 224), (236, 204)),
    "timm-swin-s3-tiny": timm_swin(
        1, {**_TV_TINY, "window_size": (7, 7, 14, 7)}, (224, 224), (236, 204)
    ),
    "timm-maxvit-tiny": timm_maxvit(
        (64, 128, 256, 512), (2, 2, 5, 2), (7, 7), (224, 224), dim_head=32
    ),
    "timm-tiny-vit-5m": timm_tiny_vit(
        (64, 128, 160, 320), (2, 4, 5, 10), (7, 7, 14, 7), (224, 224), (236, 204)
    ),
}


def timm_swin_of_any_size(version: int) -> ForeignModel:
    """timm's Swin and Swin V2, small, which draw their masks for the image at hand."""
    config = {**_TIMM, "dynamic_img_size": True}
    return timm_swin(version, config, (32, 48), (38, 46))
