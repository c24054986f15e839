"""Small models without windows, and with windows that no attention node can stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.foreign_graphs import FirstTensor, images_of, randomized
from tests.super_resolution import from_windows, to_windows
from tests.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()

Example = tuple[nn.Module, Tensor]


def _torchvision(build: Callable[[Any], nn.Module]) -> Example:
    return FirstTensor(build(pytest.importorskip("torchvision.models"))), images_of((32, 32))


def _timm(name: str, size: int = 32, **settings: Any) -> Example:
    model = pytest.importorskip("timm").create_model(name, num_classes=5, **settings)
    return FirstTensor(model), images_of((size, size))


def _hugging_face(name: str, config_name: str, example: Tensor, **settings: Any) -> Example:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, config_name)(**settings)
    model_class = getattr(transformers, name)
    return FirstTensor(model_class._from_config(config, attn_implementation="eager")), example


def resnet() -> Example:
    """Convolutions and residuals."""
    return _torchvision(lambda tv: tv.resnet18(num_classes=5))


def convnext() -> Example:
    """Large convolutions, norms over channels, layer scales."""
    return _torchvision(
        lambda tv: tv.ConvNeXt(
            [tv.convnext.CNBlockConfig(16, 32, 1), tv.convnext.CNBlockConfig(32, None, 1)],
            num_classes=5,
        )
    )


_TEXT = torch.arange(24).reshape(2, 12)
_ENCODER = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip


def vit() -> Example:
    """Every token to every token, a class token among them."""
    sizes = {"image_size": 32, "patch_size": 8, **_ENCODER}
    return _hugging_face("ViTModel", "ViTConfig", images_of((32, 32)), **sizes)


def bert() -> Example:
    """Text: attention of all to all, over a mask of padding."""
    return _hugging_face("BertModel", "BertConfig", _TEXT, vocab_size=32, **_ENCODER)


def beit() -> Example:
    """A bias by relative position, of all to all, with entries of its own for the class token."""
    sizes = {"image_size": 32, "patch_size": 8, "use_relative_position_bias": True, **_ENCODER}
    return _hugging_face("BeitModel", "BeitConfig", images_of((32, 32)), **sizes)


def segformer() -> Example:
    """Keys and values of a map that was made smaller."""
    sizes = {
        "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16],
        "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2],
        "mlp_ratios": [2, 2],
    }  # fmt: skip
    return _hugging_face("SegformerModel", "SegformerConfig", images_of((32, 32)), **sizes)


def poolformer() -> Example:
    """Pooling in the place of attention."""
    sizes = {
        "depths": [1, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3], "strides": [4, 2],
        "padding": [2, 1], "num_encoder_blocks": 2,
    }  # fmt: skip
    return _hugging_face("PoolFormerModel", "PoolFormerConfig", images_of((32, 32)), **sizes)


def efficientvit() -> Example:
    """Attention without a softmax, over tokens gathered at several scales."""
    return _timm("efficientvit_b0", 64)


def mixer() -> Example:
    """A product over the tokens."""
    module = pytest.importorskip("timm.models.mlp_mixer")
    return module.MlpMixer(5, 32, patch_size=8, num_blocks=2, embed_dim=16), images_of((32, 32))


class UNet(nn.Module):
    """Down, up, and across."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, H, W]` to `[B, 5, H, W]`."""
        fine = F.relu(self.down1(images))
        coarse = F.relu(self.down2(F.max_pool2d(fine, 2)))
        return self.out(torch.cat([fine, self.up(coarse)], 1)).softmax(1)


class Detector(nn.Module):
    """As YOLO: attention of all to all on the last map, boxes as means of distributions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.qkv = nn.Conv2d(16, 48, 1)
        self.local = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.boxes = nn.Conv2d(16, 32, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, H, W]` to boxes `[B, 4, H·W / 16]`."""
        x = F.silu(self.stem(images))
        x = torch.cat([x[:, :8], F.max_pool2d(x[:, 8:], 5, stride=1, padding=2)], 1)
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).view(b, 2, 24, h * w).split(8, dim=2)
        weights = (q.transpose(-2, -1) @ k * 8**-0.5).softmax(-1)
        attended = (v @ weights.transpose(-2, -1)).view(b, c, h, w)
        x = x + attended + self.local(v.reshape(b, c, h, w))
        bins = self.boxes(x).view(b, 4, 8, h * w).softmax(2)
        return (bins * torch.arange(8.0).view(1, 1, 8, 1)).sum(2)


class Sequence(nn.Module):
    """An LSTM, and the states that a learnt query picks."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 8, batch_first=True)
        self.query = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, T, 3]` to `[B, 8]`."""
        states, _ = self.lstm(x)
        return (self.query(states).softmax(1) * states).sum(1)


class Causal(nn.Module):
    """Text: attention to what came before, under a mask made for the length at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, T, 16]` to the same shape."""
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, 2, 8).permute(2, 0, 3, 1, 4)
        later = torch.ones(t, t).triu(1).bool()
        logits = (q @ k.transpose(-2, -1) * 8**-0.5).masked_fill(later, float("-inf"))
        return x + (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """Queries of a coarse map that look at a fine one, as a decoder's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.query, self.key_value = nn.Linear(16, 16), nn.Linear(16, 32)

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, H, W]` to `[B, H·W / 64, 16]`."""
        fine = self.stem(images)
        coarse = F.avg_pool2d(fine, 2)
        q = self.query(coarse.flatten(2).transpose(1, 2))
        k, v = self.key_value(fine.flatten(2).transpose(1, 2)).chunk(2, -1)
        return (q @ k.transpose(-2, -1) / 4).softmax(-1) @ v


class Windowed(nn.Module):
    """Windows of 4x4 tokens of a map, and within each what a subclass does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, H, W]` to tokens."""
        x = self.norm(self.stem(images).permute(0, 2, 3, 1))
        return self.attend(to_windows(x, 4), x)

    def attend(self, windows: Tensor, x: Tensor) -> Tensor:
        """Attend within `[B·nW, 4, 4, 16]`, windows of `x`."""
        raise NotImplementedError

    def heads(self, tokens: Tensor) -> list[Tensor]:
        """Give queries, keys and values of `[R, N, 16]` as `[R, 2, N, 8]`."""
        rows, n, _ = tokens.shape
        return list(self.qkv(tokens).view(rows, n, 3, 2, 8).permute(2, 0, 3, 1, 4))


class ClassTokens(Windowed):
    """A class token in every window, as windows folded into the batch have."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 16))

    def attend(self, windows: Tensor, x: Tensor) -> Tensor:
        """Let each window's tokens and its class token see each other."""
        tokens = windows.flatten(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
        q, k, v = self.heads(tokens)
        y = ((q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return from_windows(y[:, 1:].unflatten(1, (4, 4)), x.shape[1], x.shape[2])


class PooledQueries(Windowed):
    """Queries pooled two by two within each window, as between the stages of Hiera."""

    def attend(self, windows: Tensor, x: Tensor) -> Tensor:
        """Give one token for four."""
        q, k, v = self.heads(windows.flatten(1, 2))
        q = q.unflatten(2, (2, 2, 2, 2)).amax((3, 5)).flatten(2, 3)
        y = ((q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return from_windows(y.unflatten(1, (2, 2)), x.shape[1] // 2, x.shape[2] // 2)


class SharedWindow(Windowed):
    """Every window attends to the keys of the first one as well."""

    def attend(self, windows: Tensor, x: Tensor) -> Tensor:
        """Attend to twice as many keys."""
        q, k, v = self.heads(windows.flatten(1, 2))
        count = len(windows) // len(x)
        k, v = (
            torch.cat(
                [t, t.unflatten(0, (-1, count))[:, :1].expand(-1, count, -1, -1, -1).flatten(0, 1)],
                2,
            )
            for t in (k, v)
        )
        y = ((q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return from_windows(y.unflatten(1, (4, 4)), x.shape[1], x.shape[2])


def sam() -> Example:
    """SAM's encoder: a bias of windows that depends on the query, row and column apart."""
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 32,
        "output_channels": 8, "image_size": 48, "patch_size": 8, "window_size": 4,
        "global_attn_indexes": [1], "use_rel_pos": True,
    }  # fmt: skip
    return _hugging_face("SamVisionModel", "SamVisionConfig", images_of((48, 48)), **sizes)


_IMAGES = images_of((32, 32))

WITHOUT_WINDOWS: dict[str, Callable[[], Example]] = {
    "resnet": resnet,
    "convnext": convnext,
    "vit": vit,
    "bert": bert,
    "beit": beit,
    "segformer": segformer,
    "poolformer": poolformer,
    "efficientvit": efficientvit,
    "mixer": mixer,
    "unet": lambda: (UNet(), _IMAGES),
    "yolo-like": lambda: (Detector(), _IMAGES),
    "causal": lambda: (Causal(), torch.randn(2, 9, 16)),
    "lstm": lambda: (Sequence(), torch.randn(2, 7, 3)),
    "cross attention": lambda: (CrossAttention(), _IMAGES),
}
OTHER_WINDOWS: dict[str, Callable[[], Example]] = {
    "sam": sam,
    "class tokens": lambda: (ClassTokens(), _IMAGES),
    "pooled queries": lambda: (PooledQueries(), _IMAGES),
    "shared window": lambda: (SharedWindow(), _IMAGES),
}


def made(build: Callable[[], Example]) -> Example:
    """Build a model, with weights drawn anew."""
    model, example = build()
    return randomized(model), example
