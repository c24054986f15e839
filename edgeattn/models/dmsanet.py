"""DMSANet: dual multi-scale attention inside ResNet bottlenecks.

Convolutions at several scales, then in every feature group channel attention beside position
attention, then a softmax over the scales and a channel shuffle. The maps are NCHW, as everywhere
in a ResNet.

The paper leaves much open and no code was released. Its formulas fix the two attentions, the
scale softmax, the shuffle and the place in the bottleneck. **Every default below that the paper
does not fix is ours**, marked "(ours)"; accuracy figures of the paper do not carry over.

References:
    Sagar, "DMSANet: Dual Multi Scale Attention Network" (arXiv:2106.08382). The parts it builds
    on: DANet (arXiv:1809.02983, the two attentions), SA-Net (arXiv:2102.00076, feature groups,
    halves, shuffle), EPSANet (arXiv:2105.14447, kernels per scale, scale softmax), ResNet
    (arXiv:1512.03385).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeattn.errors import SpecError
from edgeattn.models.operator import multi_scale_window_attention
from edgeattn.spec import AttentionSpec, head_groups_from_windows

CamSign = Literal["paper", "danet"]
PamMode = Literal["window", "full", "pool"]


class ChannelAttention(nn.Module):
    """Attention of the channels of a group to each other (CAM): `A + beta * softmax(A·Aᵀ)·A`.

    Args:
        groups: Feature groups, G; the channels of one do not see those of another.
        sign: `paper` takes the softmax of the energies; `danet` takes that of `max - energy`,
            as the public DANet code does, which prefers *unlike* channels.
        shared: One `beta` for all groups instead of one each.
    """

    def __init__(self, groups: int, *, sign: CamSign = "paper", shared: bool = True) -> None:
        super().__init__()
        _require_choice("cam_sign", sign, CamSign)
        self.groups, self.sign = groups, sign
        self.beta = nn.Parameter(torch.zeros(1 if shared else groups))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, G*c, H, W]` to the same shape."""
        tokens = x.unflatten(1, (self.groups, -1)).flatten(3)  # [B, G, c, H*W]
        energy = tokens @ tokens.transpose(2, 3)  # [B, G, c, c]
        if self.sign == "danet":
            energy = energy.amax(dim=-1, keepdim=True) - energy
        attended = energy.softmax(dim=-1) @ tokens
        out = tokens + self.beta.view(-1, 1, 1) * attended
        return out.flatten(1, 2).unflatten(2, x.shape[2:])


class PositionAttention(nn.Module):
    """Attention of the positions of a group to each other (PAM): `A + alpha * softmax(q·k)·v`.

    The energies are not scaled, as in the paper. No mode keeps an `[H*W, H*W]` map in PyTorch.

    Args:
        channels: Channels of all groups, G*c.
        groups: Feature groups, G: one head each.
        mode: `window`: the attention operator, so that it ends up in the fused kernel; `full`:
            all positions, as in the paper; `pool`: all queries on average-pooled keys and values.
        windows: Window sizes in positions, dealt out over the groups; window mode.
        pool: Side of the pooled squares in positions; pool mode.
        reduction: Queries and keys have `c / reduction` channels; window mode has no such form.
        kernel_size: Of the convolutions that give queries, keys and values; odd.
        shared: One convolution and one `alpha` for all groups instead of one each.

    Raises:
        SpecError: If a value is out of range or does not go with the mode.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        *,
        mode: PamMode = "window",
        windows: Sequence[int] = (7,),
        pool: int = 4,
        reduction: int = 1,
        kernel_size: int = 1,
        shared: bool = True,
    ) -> None:
        super().__init__()
        _require_choice("pam_mode", mode, PamMode)
        head_dim = _divide("channels", channels, "groups", groups)
        key_dim = _divide("channels of a group", head_dim, "pam_reduction", reduction)
        if mode == "window" and reduction != 1:
            raise SpecError(
                f"pam_reduction is {reduction}; window mode has queries as wide as values",
                "use pam_reduction 1, or pam_mode full or pool",
            )
        if kernel_size % 2 != 1:
            raise SpecError(f"pam_kernel_size is {kernel_size}; expected an odd number")
        self.groups, self.mode, self.pool, self.shared = groups, mode, pool, shared
        self.splits = (key_dim, key_dim, head_dim)
        copies = 1 if shared else groups
        # Grouped convolution gives each group its own (q, k, v): the operator's layout H3D.
        self.qkv = nn.Conv2d(
            copies * head_dim,
            copies * sum(self.splits),
            kernel_size,
            padding=kernel_size // 2,
            groups=copies,
        )
        self.alpha = nn.Parameter(torch.zeros(copies))
        self.spec = AttentionSpec(
            head_dim=head_dim,
            qkv_heads=groups,
            head_groups=head_groups_from_windows(groups, windows[:groups]),
            softmax_scale=1.0,
            qkv_layout="H3D",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, G*c, H, W]` to the same shape."""
        if self.shared:
            packed = self.qkv(x.unflatten(1, (self.groups, -1)).flatten(0, 1))
            packed = packed.unflatten(0, (-1, self.groups)).flatten(1, 2)
        else:
            packed = self.qkv(x)
        attend = self._attend_windows if self.mode == "window" else self._attend_all
        attended = attend(packed).unflatten(1, (self.groups, -1))
        grouped = x.unflatten(1, (self.groups, -1))
        return (grouped + self.alpha.view(-1, 1, 1, 1) * attended).flatten(1, 2)

    def _attend_windows(self, packed: Tensor) -> Tensor:
        out = multi_scale_window_attention(packed.permute(0, 2, 3, 1), self.spec)
        return out.permute(0, 3, 1, 2)

    def _attend_all(self, packed: Tensor) -> Tensor:
        size = packed.shape[2:]
        grouped = packed.unflatten(1, (self.groups, -1))  # [B, G, q+k+v, H, W]
        query, key, value = grouped.split(self.splits, dim=2)
        if self.mode == "pool":
            key, value = self._pooled(key), self._pooled(value)
        # PyTorch falls back to the whole map unless channels are dense and equally many; further
        # channels of zeros do not change q·k.
        query, key, value = (t.flatten(3).transpose(2, 3).contiguous() for t in (query, key, value))
        key_dim, _, head_dim = self.splits
        if key_dim < head_dim:
            query, key = (F.pad(t, (0, head_dim - key_dim)) for t in (query, key))
        out = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # [B, G, H*W, c]
        return out.transpose(2, 3).flatten(1, 2).unflatten(2, size)

    def _pooled(self, x: Tensor) -> Tensor:
        side = self.pool
        pooled = F.avg_pool2d(x.flatten(1, 2), side, side, ceil_mode=True, count_include_pad=False)
        return pooled.unflatten(1, (self.groups, -1))


class ScaleRecalibration(nn.Module):
    """Weigh the scales against each other: `Y_i = F_i * softmax_i(Z_i)`.

    `Z_i` is the squeeze-and-excitation weight of scale i, with weights shared by all scales.

    Args:
        channels: Channels of all scales.
        scales: Scales, S: equal slices of the channels.
        reduction: The hidden layer has `channels / scales / reduction` units, at least one.
    """

    def __init__(self, channels: int, scales: int, *, reduction: int = 16) -> None:
        super().__init__()
        width = _divide("channels", channels, "scales", scales)
        hidden = max(1, width // reduction)
        self.scales = scales
        self.squeeze = nn.Linear(width, hidden)
        self.excite = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        pooled = x.mean(dim=(2, 3)).unflatten(1, (self.scales, -1))  # [B, S, C/S]
        weight = self.excite(self.squeeze(pooled).relu()).sigmoid().softmax(dim=1)
        return x * weight.flatten(1)[:, :, None, None]


class DMSABlock(nn.Module):
    """Dual multi-scale attention on an NCHW map, of the same shape out as in.

    Slices of the channels pass a depthwise convolution each, one kernel size per scale. Then the
    channels are cut into groups, each group into two halves: `channel` attends on the first
    halves, `position` on the second. The scales are weighed and the channels shuffled.

    Args:
        channels: C; divisible by twice the groups and by the number of scales.
        groups: Feature groups, G (ours: the paper names none).
        scale_kernels: Kernel size of each scale, odd; 1 leaves a scale as it is. (Ours: the
            kernels of EPSANet, depthwise, for the block follows a full 3x3 convolution.)
        cam_sign: See `ChannelAttention`.
        pam_mode: See `PositionAttention` (ours: `window`, since `full` costs as much as half a
            ResNet-50 and an exported graph of it holds the map of all pairs of positions).
        pam_windows: Window sizes, dealt out over the groups (ours).
        pam_pool: Side of the squares that pool mode averages (ours).
        pam_reduction: Reduction of query and key channels (ours).
        pam_kernel_size: Kernel of the query, key and value convolutions (ours).
        shared_convs: Groups share those convolutions, `alpha` and `beta` (ours).
        se_reduction: Reduction in the scale weights (ours: that of EPSANet).
    """

    def __init__(
        self,
        channels: int,
        groups: int = 4,
        *,
        scale_kernels: Sequence[int] = (3, 5, 7, 9),
        cam_sign: CamSign = "paper",
        pam_mode: PamMode = "window",
        pam_windows: Sequence[int] = (7,),
        pam_pool: int = 4,
        pam_reduction: int = 1,
        pam_kernel_size: int = 1,
        shared_convs: bool = True,
        se_reduction: int = 16,
    ) -> None:
        super().__init__()
        self.groups = groups
        _divide("channels", channels, "two halves of each group", 2 * groups)
        width = _divide("channels", channels, "scales", len(scale_kernels))
        if any(kernel % 2 != 1 for kernel in scale_kernels):
            raise SpecError(f"scale_kernels are {tuple(scale_kernels)}; expected odd numbers")
        self.scale_convs = nn.ModuleList(
            nn.Identity()
            if kernel == 1
            else nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
            for kernel in scale_kernels
        )
        self.channel = ChannelAttention(groups, sign=cam_sign, shared=shared_convs)
        self.position = PositionAttention(
            channels // 2,
            groups,
            mode=pam_mode,
            windows=pam_windows,
            pool=pam_pool,
            reduction=pam_reduction,
            kernel_size=pam_kernel_size,
            shared=shared_convs,
        )
        self.recalibration = ScaleRecalibration(
            channels, len(scale_kernels), reduction=se_reduction
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        slices = x.chunk(len(self.scale_convs), dim=1)
        x = torch.cat([conv(s) for conv, s in zip(self.scale_convs, slices, strict=True)], dim=1)
        return channel_shuffle(self.recalibration(self.attend(x)), self.groups)

    def attend(self, x: Tensor) -> Tensor:
        """Apply both attentions in every group; the identity while `alpha` and `beta` are 0."""
        halves = x.unflatten(1, (self.groups, 2, -1))  # [B, G, 2, C/2G, H, W]
        channel = self.channel(halves[:, :, 0].flatten(1, 2))
        position = self.position(halves[:, :, 1].flatten(1, 2))
        both = [t.unflatten(1, (self.groups, -1)) for t in (channel, position)]
        return torch.stack(both, dim=2).flatten(1, 3)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of the groups: channel `g * C/G + j` moves to `j * G + g`."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class DMSABottleneck(nn.Module):
    """ResNet bottleneck with a `DMSABlock` between its 3x3 and its last 1x1 convolution.

    Args:
        in_channels: Channels of the input; the output has `4 * channels`.
        channels: Channels in the middle.
        stride: Of the 3x3 convolution and of the shortcut.
        block: Keywords of `DMSABlock`.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, block: dict[str, Any]) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.attention = DMSABlock(channels, **block)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in_channels, H, W]` to `[B, 4*channels, ceil(H/stride), ceil(W/stride)]`."""
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        out = self.bn3(self.conv3(self.attention(out)))
        activated: Tensor = (out + self.shortcut(x)).relu()
        return activated


class DMSANet(nn.Module):
    """ResNet whose bottlenecks hold dual multi-scale attention; classifier on the mean.

    Args:
        depths: Bottlenecks of each stage; the middle channels double from stage to stage.
        in_channels: Channels of the image.
        num_classes: Logits.
        width: Middle channels of the first stage.
        groups: Feature groups of each stage (ours: halves of 32 channels in every stage, the
            head size that attention kernels like).
        block: Further keywords of `DMSABlock`.

    Raises:
        SpecError: If the stages and groups differ in number, or a block cannot be built.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        in_channels: int = 3,
        num_classes: int = 1000,
        width: int = 64,
        groups: Sequence[int] = (1, 2, 4, 8),
        **block: Any,
    ) -> None:
        super().__init__()
        if len(depths) != len(groups):
            raise SpecError(f"{len(depths)} stages have {len(groups)} numbers of groups")
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels_in, channels = width, width
        stages = []
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                keywords = {**block, "groups": groups[stage]}
                blocks.append(DMSABottleneck(channels_in, channels, stride, keywords))
                channels_in = DMSABottleneck.expansion * channels
            stages.append(nn.Sequential(*blocks))
            channels *= 2
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[B, in_channels, H, W]` to logits `[B, num_classes]`."""
        logits: Tensor = self.head(self.stages(self.stem(images)).mean(dim=(2, 3)))
        return logits


def dmsanet_26(**keywords: Any) -> DMSANet:
    """DMSANet on ResNet-26, stages of (2, 2, 2, 2) bottlenecks."""
    return DMSANet((2, 2, 2, 2), **keywords)


def dmsanet_50(**keywords: Any) -> DMSANet:
    """DMSANet on ResNet-50, stages of (3, 4, 6, 3) bottlenecks."""
    return DMSANet((3, 4, 6, 3), **keywords)


def dmsanet_101(**keywords: Any) -> DMSANet:
    """DMSANet on ResNet-101, stages of (3, 4, 23, 3) bottlenecks."""
    return DMSANet((3, 4, 23, 3), **keywords)


def _require_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise SpecError(f"{name} is {value!r}; expected {' or '.join(get_args(choices))}")


def _divide(name: str, value: int, by_name: str, by: int) -> int:
    if by < 1 or value % by:
        raise SpecError(f"{name} ({value}) cannot be divided by {by_name} ({by})")
    return value // by
