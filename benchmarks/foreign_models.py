"""Public architectures that people bring along, each in a configuration that is published.

The libraries' own code, the sizes of published weights, the image size that they are meant for.
The weights themselves are drawn at random: none is downloaded, and nothing depends on them.

    python -m benchmarks.foreign_models      lists them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import nn

Library = Literal["transformers", "timm", "torchvision", "this repository"]
# Windows that the operator can express, windows that it cannot, and none at all.
Kind = Literal["windows", "other windows", "no windows"]


@dataclass(frozen=True)
class PublicModel:
    """One architecture in one published configuration.

    Attributes:
        name: Short, for the command line and the tables.
        library: Whose code it is.
        architecture: The class of transformers, or what timm or torchvision call the model.
        published: Weights or a paper that the configuration is from.
        input_shape: `[1, C, H, W]` of an image or a spectrogram, `[1, T]` of token numbers.
        kind: What its attention is like.
        settings: What the configuration sets apart from the library's defaults.
    """

    name: str
    library: Library
    architecture: str
    published: str
    input_shape: tuple[int, ...]
    kind: Kind = "windows"
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def example(self) -> np.ndarray:
        """Draw an input: normal values float32, or token numbers int64; always the same."""
        rng = np.random.default_rng(0)
        if len(self.input_shape) == 2:
            return rng.integers(1000, 20000, self.input_shape)
        return rng.standard_normal(self.input_shape, dtype=np.float32)

    def build(self, attention: str | None = None) -> nn.Module:
        """Make the module, its random weights drawn from one seed.

        Args:
            attention: How transformers shall compute attention; its own choice by default.
        """
        from tests.foreign_graphs import randomized
        from tests.torchvision_ops import declare_torchvision_ops

        declare_torchvision_ops()  # all three import torchvision
        return randomized(_all_tensors(self._module(attention)))

    def _module(self, attention: str | None) -> nn.Module:
        if self.library == "timm":
            import timm

            return timm.create_model(self.architecture, **self.settings)
        if self.library == "torchvision":
            import torchvision

            return getattr(torchvision.models, self.architecture)(**self.settings)
        if self.library == "transformers":
            import transformers

            model_class = getattr(transformers, self.architecture)
            config = model_class.config_class(**self.settings)
            return model_class._from_config(config, attn_implementation=attention)
        from tests.super_resolution import SuperResolution

        return SuperResolution(**self.settings)


def _all_tensors(model: nn.Module) -> nn.Module:
    """Wrap a model so that it gives its tensors as a plain tuple, and computes all of them."""
    import torch

    class AllTensors(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(_tensors_of(self.model(x), torch.Tensor))

    return AllTensors()


def _tensors_of(value: Any, tensor: type) -> list[Any]:
    if isinstance(value, tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    return [t for part in parts if part is not None for t in _tensors_of(part, tensor)]


def _swin(
    name: str, class_name: str, published: str, side: int, window: int, **settings: Any
) -> PublicModel:
    given = {"window_size": window, "image_size": side} | settings
    shape = (1, 3, side, side)
    return PublicModel(name, "transformers", class_name, published, shape, settings=given)


def _timm(name: str, published: str, side: int, kind: Kind = "windows") -> PublicModel:
    architecture = published.partition(".")[0]
    return PublicModel(name, "timm", architecture, published, (1, 3, side, side), kind)


def _other(
    name: str, class_name: str, published: str, side: int, kind: Kind, **settings: Any
) -> PublicModel:
    shape = (1, 3, side, side)
    return PublicModel(name, "transformers", class_name, published, shape, kind, settings)


_SWIN, _SWINV2 = "SwinForImageClassification", "Swinv2ForImageClassification"
_SMALL = {"depths": [2, 2, 18, 2]}
_BASE = {**_SMALL, "embed_dim": 128, "num_heads": [4, 8, 16, 32]}
_LARGE = {**_SMALL, "embed_dim": 192, "num_heads": [6, 12, 24, 48]}
_DONUT = {**_BASE, "depths": [2, 2, 14, 2], "window_size": 10, "image_size": [1280, 960]}
_MASKFORMER = {"backbone_config": {"model_type": "swin", "image_size": 512, "out_features": [
    "stage1", "stage2", "stage3", "stage4"]}, "num_labels": 150}  # fmt: skip
_SMALL_VIT = {"hidden_size": 384, "num_attention_heads": 6}

WINDOWED: tuple[PublicModel, ...] = (
    _swin("hf-swin-t", _SWIN, "microsoft/swin-tiny-patch4-window7-224", 224, 7),
    _swin("hf-swin-s", _SWIN, "microsoft/swin-small-patch4-window7-224", 224, 7, **_SMALL),
    _swin("hf-swin-b", _SWIN, "microsoft/swin-base-patch4-window7-224", 224, 7, **_BASE),
    _swin("hf-swin-l", _SWIN, "microsoft/swin-large-patch4-window12-384", 384, 12, **_LARGE),
    _swin("hf-swinv2-t-w8", _SWINV2, "microsoft/swinv2-tiny-patch4-window8-256", 256, 8),
    _swin("hf-swinv2-t-w16", _SWINV2, "microsoft/swinv2-tiny-patch4-window16-256", 256, 16),
    PublicModel(
        "hf-donut", "transformers", "DonutSwinModel",
        "naver-clova-ix/donut-base-finetuned-cord-v2", (1, 3, 1280, 960), settings=_DONUT,
    ),
    PublicModel(
        "hf-grounding-dino-backbone", "transformers", "SwinBackbone",
        "IDEA-Research/grounding-dino-tiny", (1, 3, 544, 960),
        settings={"out_features": ["stage2", "stage3", "stage4"]},
    ),
    PublicModel(
        "hf-maskformer", "transformers", "MaskFormerForInstanceSegmentation",
        "facebook/maskformer-swin-tiny-ade", (1, 3, 512, 512), settings=_MASKFORMER,
    ),
    PublicModel(
        "hf-swin2sr", "transformers", "Swin2SRForImageSuperResolution",
        "caidas/swin2SR-classical-sr-x2-64", (1, 3, 64, 64),
    ),
    PublicModel(
        "hf-clap-audio", "transformers", "ClapAudioModelWithProjection",
        "laion/clap-htsat-unfused", (1, 1, 1001, 64),
    ),
    PublicModel(
        "swinir-style", "this repository", "SuperResolution",
        "SwinIR's lightweight x2 (arXiv:2108.10257)", (1, 3, 64, 64),
        settings={"channels": 60, "depths": [6] * 4, "num_heads": [6] * 4, "window_size": 8},
    ),
    PublicModel("tv-swin-t", "torchvision", "swin_t", "swin_t", (1, 3, 224, 224)),
    PublicModel("tv-swin-v2-t", "torchvision", "swin_v2_t", "swin_v2_t", (1, 3, 256, 256)),
    PublicModel("tv-maxvit-t", "torchvision", "maxvit_t", "maxvit_t", (1, 3, 224, 224)),
    _timm("timm-swin-t", "swin_tiny_patch4_window7_224.ms_in1k", 224),
    _timm("timm-swin-s3-t", "swin_s3_tiny_224.ms_in1k", 224),
    _timm("timm-swinv2-t", "swinv2_tiny_window8_256.ms_in1k", 256),
    _timm("timm-swinv2-cr-t", "swinv2_cr_tiny_ns_224.sw_in1k", 224),
    _timm("timm-maxvit-t", "maxvit_tiny_tf_224.in1k", 224),
    _timm("timm-davit-t", "davit_tiny.msft_in1k", 224),
    _timm("timm-tiny-vit-5m", "tiny_vit_5m_224.dist_in22k_ft_in1k", 224),
    _timm("timm-twins-svt-s", "twins_svt_small.in1k", 224),
    _timm("timm-nest-t", "nest_tiny_jx.goog_in1k", 224),
    _timm("timm-gcvit-t", "gcvit_tiny.in1k", 224),
    _timm("timm-mobilevit-s", "mobilevit_s.cvnets_in1k", 256),
)  # fmt: skip

OTHER_WINDOWS: tuple[PublicModel, ...] = (
    _other(
        "hf-sam-vit-b", "SamVisionModel", "facebook/sam-vit-base", 1024, "other windows",
    ),
    _other(
        "hf-rf-detr-backbone", "RfDetrDinov2Backbone", "Roboflow/rf-detr-base", 560,
        "other windows", **_SMALL_VIT, num_windows=4, image_size=560,
        out_features=["stage3", "stage6", "stage9", "stage12"],
    ),
    _other(
        "hf-lw-detr-backbone", "LwDetrViTBackbone", "AnnaZhang/lwdetr_small_60e_coco", 640,
        "other windows", hidden_size=192, num_hidden_layers=10, num_attention_heads=12,
        image_size=1024, window_block_indices=[0, 1, 3, 6, 7, 9],
        out_features=["stage3", "stage5", "stage6", "stage10"],
    ),
    _timm("timm-hiera-t", "hiera_tiny_224.mae_in1k_ft_in1k", 224, "other windows"),
    _timm("timm-sam2-hiera-t", "sam2_hiera_tiny.fb_r896", 896, "other windows"),
)  # fmt: skip

WITHOUT_WINDOWS: tuple[PublicModel, ...] = (
    _other("hf-vit-b", "ViTModel", "google/vit-base-patch16-224-in21k", 224, "no windows"),
    _other(
        "hf-deit-s", "DeiTForImageClassification", "facebook/deit-small-patch16-224", 224,
        "no windows", **_SMALL_VIT, intermediate_size=1536,
    ),
    _other(
        "hf-dinov2-s", "Dinov2Model", "facebook/dinov2-small", 224, "no windows",
        **_SMALL_VIT, image_size=518,
    ),
    _other(
        "hf-beit-b", "BeitModel", "microsoft/beit-base-patch16-224", 224, "no windows",
        use_relative_position_bias=True, use_mean_pooling=True, layer_scale_init_value=0.1,
    ),
    _other(
        "hf-segformer-b0", "SegformerForSemanticSegmentation",
        "nvidia/segformer-b0-finetuned-ade-512-512", 512, "no windows", num_labels=150,
    ),
    PublicModel(
        "hf-bert-base", "transformers", "BertModel", "google-bert/bert-base-uncased", (1, 128),
        "no windows",
    ),
    _timm("timm-mvitv2-t", "mvitv2_tiny.fb_in1k", 224, "no windows"),
    _timm("timm-efficientvit-b1", "efficientvit_b1.r224_in1k", 224, "no windows"),
    _timm("timm-poolformer-s12", "poolformer_s12.sail_in1k", 224, "no windows"),
    _timm("timm-mixer-b16", "mixer_b16_224.goog_in21k_ft_in1k", 224, "no windows"),
    PublicModel(
        "tv-convnext-t", "torchvision", "convnext_tiny", "convnext_tiny", (1, 3, 224, 224),
        "no windows",
    ),
    PublicModel(
        "tv-resnet-50", "torchvision", "resnet50", "resnet50", (1, 3, 224, 224), "no windows",
    ),
)  # fmt: skip

MODELS: dict[str, PublicModel] = {
    model.name: model for model in (*WINDOWED, *OTHER_WINDOWS, *WITHOUT_WINDOWS)
}


if __name__ == "__main__":
    for each in MODELS.values():
        size = "x".join(map(str, each.input_shape[1:]))
        print(f"{each.name:28}{each.library:17}{each.architecture:36}{size:12}{each.published}")
