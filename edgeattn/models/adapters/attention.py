"""Our attention layer filled from another library's, and where its shift must follow theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeattn.errors import ModelError
from edgeattn.models.attention import MultiScaleWindowAttention
from edgeattn.models.operator import multi_scale_window_attention
from edgeattn.models.position_bias import ContinuousPositionBias
from edgeattn.spec import AttentionSpec, HeadGroup

WhenCovered = Literal["unshift", "split"]


class ShiftedWindowAttention(MultiScaleWindowAttention):
    """Attention in shifted windows of a library that does not drop a shift axis by axis.

    Where one window covers an axis, the operator and torchvision leave that axis unshifted. Others
    drop the shift on both axes, or keep it on both. A shift that is kept splits the window into
    regions that do not see each other: each is attended to by itself, in an operator of its own.

    Args:
        when_covered: `unshift` both axes, or `split` the map.
        *args: As of `MultiScaleWindowAttention`; one head group in block mode.
        **settings: As of `MultiScaleWindowAttention`.
    """

    def __init__(self, when_covered: WhenCovered, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.when_covered = when_covered

    def forward(self, x: Tensor, when_covered: WhenCovered | None = None) -> Tensor:
        """Attend within the windows of a map.

        Args:
            x: `[B, H, W, C]`.
            when_covered: In place of the layer's own, for this call.

        Returns:
            `[B, H, W, C]`.
        """
        group = self.spec.head_groups[0]
        axes = zip(x.shape[1:3], group.window_size, group.shift_size, strict=True)
        if not any(shift and length <= window for length, window, shift in axes):
            return super().forward(x)
        unshifted = replace(self.spec, head_groups=(replace(group, shift_size=(0, 0)),))
        if (when_covered or self.when_covered) == "split":
            attended = self._attend_by_regions(x, replace(unshifted, pad_mode="mask"))
        else:
            attended = self._attend(self.qkv(x), unshifted, self._pad_kv())
        projected: Tensor = self.proj(attended)
        return projected

    def _attend_by_regions(self, x: Tensor, spec: AttentionSpec) -> Tensor:
        """Pad and roll as the original, and attend between the borders that its mask has."""
        height, width = x.shape[1:3]
        group = self.spec.head_groups[0]
        (window_rows, window_cols), (shift_rows, shift_cols) = group.window_size, group.shift_size
        padding = (0, 0, 0, -width % window_cols, 0, -height % window_rows)
        roll_first = self.spec.shift_pad_order == "roll_then_pad"

        if not roll_first:
            x = F.pad(x, padding)
        x = x.roll((-shift_rows, -shift_cols), (1, 2))
        if roll_first:
            x = F.pad(x, padding)
        qkv = self.qkv(x)  # of padded tokens, its bias
        rows = _regions(x.shape[1], window_rows, shift_rows)
        cols = _regions(x.shape[2], window_cols, shift_cols)
        strips = [[self._attend(qkv[:, r, c], spec, None) for c in cols] for r in rows]
        out = torch.cat([torch.cat(strip, 2) for strip in strips], 1)
        if roll_first:
            out = out[:, :height, :width]
        return out.roll((shift_rows, shift_cols), (1, 2))[:, :height, :width]

    def _attend(self, qkv: Tensor, spec: AttentionSpec, pad_kv: Tensor | None) -> Tensor:
        return multi_scale_window_attention(
            qkv, spec, self._bias_table(), pad_kv, self._cosine_factor()
        )


def _regions(length: int, window: int, shift: int) -> list[slice]:
    """Cut a padded and rolled axis where the mask of shifted windows does."""
    borders = [0, length - window, length - shift, length] if shift else [0, length]
    return [slice(a, b) for a, b in pairwise(borders) if a < b]


def window_attention(
    state: Mapping[str, Tensor],
    group: HeadGroup,
    *,
    when_covered: WhenCovered | None = None,
    offsets: Tensor | None = None,
    trainable: bool = True,
    **settings: Any,
) -> MultiScaleWindowAttention:
    """Build the layer around tensors that exist; nothing is drawn at random.

    Args:
        state: State dict of the layer to build; its tensors become the parameters.
        group: The heads and their window.
        when_covered: What a shifted layer does where one window covers an axis; `None` leaves it
            to the operator.
        offsets: For a continuous position bias, `[1, 2*rows - 1, 2*cols - 1, 2]`: what its
            network reads.
        trainable: The parameters take gradients.
        **settings: As of `MultiScaleWindowAttention`.

    Raises:
        ModelError: If the tensors do not make up such a layer.
    """
    if "qkv.weight" not in state:
        raise ModelError("its projection to query, key and value has no weight")
    channels, dim = state["qkv.weight"].shape
    if channels != 3 * dim or dim % group.num_heads:
        raise ModelError(
            f"a projection from {dim} to {channels} channels for {group.num_heads} heads; "
            f"expected {3 * dim} channels, divisible by the heads"
        )
    with torch.device("meta"):  # no memory, and the random generator is left as it was
        bias: bool | nn.Module = "relative_position_bias_table" in state
        if offsets is not None:
            hidden_dim = len(state["position_bias.mlps.0.0.weight"])
            bias = ContinuousPositionBias([group], hidden_dim)
            bias.register_buffer("offsets_0", offsets.detach().reshape(-1, 2), persistent=False)
        settings |= {
            "qkv_bias": "qkv.bias" in state,
            "proj_bias": "proj.bias" in state,
            "relative_position_bias": bias,
            "qk_mode": "cosine" if "logit_scale" in state else "dot",
        }
        attention = (
            ShiftedWindowAttention(when_covered, dim, [group], **settings)
            if when_covered is not None and any(group.shift_size)
            else MultiScaleWindowAttention(dim, [group], **settings)
        )
    try:
        attention.load_state_dict(state, assign=True)
    except RuntimeError as err:
        raise ModelError(f"its tensors are not those of such an attention: {err}") from err
    return attention.requires_grad_(trainable)


def is_trainable(module: nn.Module) -> bool:
    """Tell whether a module has a parameter that takes gradients."""
    return any(parameter.requires_grad for parameter in module.parameters())
