"""Two small windowed backbones for 3x32x32 images and five classes: another's and ours."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from edgeattn.models.mswin import MSWin
from tests.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()  # transformers imports torchvision


class HuggingFaceSwin(nn.Module):
    """Swin as transformers writes it: four blocks, every other one shifted."""

    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers")
        config = transformers.SwinConfig(
            image_size=32, patch_size=2, embed_dim=32, depths=[2, 2], num_heads=[2, 4],
            window_size=4, num_labels=5,
        )  # fmt: skip
        # transformers' other implementations of attention do not survive torch's own exporter.
        self.swin = transformers.SwinForImageClassification._from_config(
            config, attn_implementation="eager"
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, 32, 32]` to `[B, 5]`."""
        return self.swin(images).logits


def mswin() -> nn.Module:
    """Build our backbone with windows of 4 and 3 tokens."""
    return MSWin(
        in_channels=3, num_classes=5, patch_size=2, dims=(32, 64), depths=(2, 2),
        num_heads=(2, 4), windows=((4,), (4, 3)),
    )  # fmt: skip
