"""MSWin: a hierarchical vision backbone whose layers attend in windows of several sizes at once.

It is Swin with head groups: within one layer some heads see windows of 4, others of 8 or 16
tokens. With one window per stage it is Swin or Swin V2, weight for weight (`foreign.py`).

References:
    Swin (arXiv:2103.14030), Swin V2 (arXiv:2111.09883), DW-ViT (arXiv:2203.12856).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from edgeattn.errors import ModelError
from edgeattn.models.attention import MultiScaleWindowAttention
from edgeattn.models.blocks import (
    ConvStem,
    NormPlacement,
    PatchEmbed,
    PatchMerging,
    TransformerBlock,
    drop_path_schedule,
)
from edgeattn.models.position_bias import ContinuousPositionBias
from edgeattn.spec import PadMode, QkMode, ShiftPadOrder, head_groups_from_windows

Stem = Literal["patch", "conv"]
PositionBias = Literal["table", "continuous", "none"]
Window = int | tuple[int, int]


class MSWin(nn.Module):
    """Stages of windowed attention at falling resolution, then a linear classifier.

    The defaults are Swin-T. Every sequence has one entry per stage.

    Args:
        in_channels: Channels of the images.
        num_classes: Outputs.
        patch_size: Pixels per token and axis at the first stage.
        stem: `patch` (one strided convolution, Swin) or `conv` (two overlapping 3x3 ones).
        pad_images: Zero-pad images to whole patches, or cut off what is left over; `patch` only.
        dims: Channels.
        depths: Blocks.
        num_heads: Heads; each divides its entry of `dims`.
        windows: Window sizes mixed in each layer of the stage, one per head group; the heads are
            shared out evenly. A window may be larger than the map: the map is then padded to it.
            Swin implementations shrink such a window instead; give the shrunk one to match them.
        shifted: Whether every second block of the stage shifts its windows by half; one value
            for all stages, or one each.
        mlp_ratio: Hidden channels of the MLPs per channel.
        qkv_bias: The projections to query, key and value have a bias.
        norm_placement: `pre` (Swin) or `res_post` (Swin V2).
        merge_norm_first: Patch merging normalises before it reduces (Swin) or after (Swin V2).
        qk_mode: `dot` (Swin) or `cosine` (Swin V2).
        position_bias: A learned `table` (Swin), a `continuous` function of the offset (Swin V2)
            or `none`.
        pretrained_windows: With a continuous bias, the window that the weights were trained
            with; 0 or `None` for the window at hand.
        pad_mode: Padded keys are left out (`mask`) or attend with the projection's bias
            (`bias_kv`, as in Swin implementations).
        shift_pad_order: `pad_then_roll` (torchvision, Hugging Face) or `roll_then_pad` (timm).
        mask_value: Added to the logits of tokens that a shift brought together.
        drop_path: Share of the samples that skip the last block while training; it rises
            linearly from 0 at the first.

    Raises:
        ModelError: If the sequences' lengths differ or a value is unknown.
        SpecError: If heads, windows and channels do not go together.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1000,
        patch_size: int = 4,
        stem: Stem = "patch",
        pad_images: bool = True,
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        windows: Sequence[Sequence[Window]] = ((7,), (7,), (7,), (7,)),
        shifted: bool | Sequence[bool] = True,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_placement: NormPlacement = "pre",
        merge_norm_first: bool = True,
        qk_mode: QkMode = "dot",
        position_bias: PositionBias = "table",
        pretrained_windows: Sequence[int] | None = None,
        pad_mode: PadMode = "bias_kv",
        shift_pad_order: ShiftPadOrder = "pad_then_roll",
        mask_value: float = -math.inf,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        stages = len(dims)
        if isinstance(shifted, bool):
            shifted = [shifted] * stages
        pretrained_windows = pretrained_windows or [0] * stages
        _check_lengths(
            dims=dims,
            depths=depths,
            num_heads=num_heads,
            windows=windows,
            shifted=shifted,
            pretrained_windows=pretrained_windows,
        )
        _check_choice("stem", stem, get_args(Stem))
        _check_choice("position_bias", position_bias, get_args(PositionBias))

        def attention(stage: int, shift: bool) -> MultiScaleWindowAttention:
            groups = head_groups_from_windows(num_heads[stage], windows[stage], shifted=shift)
            bias: bool | nn.Module = position_bias == "table"
            if position_bias == "continuous":
                pretrained = [pretrained_windows[stage]] * len(groups)
                bias = ContinuousPositionBias(groups, pretrained_windows=pretrained)
            return MultiScaleWindowAttention(
                dims[stage],
                groups,
                qkv_bias=qkv_bias,
                relative_position_bias=bias,
                pad_mode=pad_mode,
                shift_pad_order=shift_pad_order,
                mask_value=mask_value,
                qk_mode=qk_mode,
            )

        self.embed: nn.Module = (
            ConvStem(in_channels, dims[0], patch_size)
            if stem == "conv"
            else PatchEmbed(in_channels, dims[0], patch_size, pad=pad_images)
        )
        drop_paths = iter(drop_path_schedule(drop_path, sum(depths)))
        self.stages = nn.ModuleList()
        for stage, dim in enumerate(dims):
            blocks = (
                TransformerBlock(
                    dim,
                    attention(stage, shift=shifted[stage] and block % 2 == 1),
                    mlp_ratio,
                    norm_placement,
                    next(drop_paths),
                )
                for block in range(depths[stage])
            )
            layers = nn.Sequential()
            if stage:
                merge = PatchMerging(dims[stage - 1], dim, norm_first=merge_norm_first)
                layers.add_module("merge", merge)
            layers.add_module("blocks", nn.Sequential(*blocks))
            self.stages.append(layers)
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes)
        self.apply(_init_linear)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Give the map after each stage, for detection or segmentation heads.

        Args:
            images: `[B, in_channels, height, width]`.

        Returns:
            Per stage `[B, H, W, dims[stage]]`, not normalised; H and W halve from stage to stage.
        """
        maps, x = [], self.embed(images)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Classify images of any size.

        Args:
            images: `[B, in_channels, height, width]`.

        Returns:
            Logits, `[B, num_classes]`.
        """
        tokens = self.norm(self.feature_maps(images)[-1])
        logits: Tensor = self.head(tokens.mean(dim=(1, 2)))
        return logits


def mswin_nano(**keywords: Any) -> MSWin:
    """Build the backbone for 28x28 grey images, under a million parameters.

    Two stages: 14x14 tokens with windows of 4 and 8, then 7x7 with windows of 4 and 7.

    Args:
        **keywords: Keywords of `MSWin` to change.
    """
    return _mswin(
        keywords,
        in_channels=1,
        num_classes=10,
        patch_size=2,
        stem="conv",
        dims=(64, 128),
        depths=(2, 3),
        num_heads=(2, 4),
        windows=((4, 8), (4, 7)),
    )


# Windows of 4, 8 and 16 tokens while the map (56, 28, 14, 7 at 224x224) has room for them.
_WINDOWS_224 = ((4, 8, 16), (4, 8, 16), (4, 8), (4, 7))


def mswin_tiny(**keywords: Any) -> MSWin:
    """Build the backbone at the size of Swin-T, for 224x224 images.

    Args:
        **keywords: Keywords of `MSWin` to change.
    """
    return _mswin(keywords, windows=_WINDOWS_224)


def mswin_small(**keywords: Any) -> MSWin:
    """Build the backbone at the size of Swin-S, for 224x224 images.

    Args:
        **keywords: Keywords of `MSWin` to change.
    """
    return _mswin(keywords, windows=_WINDOWS_224, depths=(2, 2, 18, 2))


def mswin_base(**keywords: Any) -> MSWin:
    """Build the backbone at the size of Swin-B, for 224x224 images.

    Args:
        **keywords: Keywords of `MSWin` to change.
    """
    return _mswin(
        keywords,
        windows=_WINDOWS_224,
        dims=(128, 256, 512, 1024),
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
    )


def _mswin(changes: dict[str, Any], **keywords: Any) -> MSWin:
    # Without foreign weights to match, padding is better left out than attended to.
    return MSWin(**{"pad_mode": "mask", **keywords, **changes})


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        # Swin's deviation of 0.02 suits 768 channels; this one keeps narrow layers learning too.
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_lengths(**per_stage: Sequence[Any]) -> None:
    lengths = {name: len(values) for name, values in per_stage.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ModelError(
            "the backbone needs one entry per stage in each of: "
            + ", ".join(f"{name} ({count})" for name, count in lengths.items())
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ModelError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
