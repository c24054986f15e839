"""Hugging Face's Swin, Swin V2, Donut-Swin, MaskFormer-Swin and Swin2SR.

Their layers cut the windows and hand them to the attention; a layer of ours holds their norms and
MLP around our attention, and is called as theirs.

References:
    transformers `models/{swin,donut,maskformer,swinv2,swin2sr}`, releases 4.57 and 5.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from edgeattn.errors import ModelError
from edgeattn.models.adapters.attention import (
    ShiftedWindowAttention,
    WhenCovered,
    is_trainable,
    window_attention,
)
from edgeattn.models.adapters.blocks import PostNormBlock, PreNormBlock
from edgeattn.models.foreign import attention_state
from edgeattn.spec import HeadGroup


class HuggingFaceLayer(nn.Module):
    """A block of tokens in a row, called as a Swin layer of transformers.

    Args:
        block: The block of maps.
        option_names: What the original takes after the tokens and the size of the map, in order.
    """

    def __init__(self, block: PreNormBlock, option_names: tuple[str, ...]) -> None:
        super().__init__()
        self.block = block
        self.option_names = option_names

    def forward(
        self, hidden_states: Tensor, input_dimensions: tuple[int, int], *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """Transform the tokens of a map.

        Args:
            hidden_states: `[B, H*W, C]`.
            input_dimensions: H and W.
            *args: The options of the original.
            **kwargs: The same by name.

        Returns:
            `[B, H*W, C]`, and nothing in place of the attention's weights.

        Raises:
            ModelError: If the attention's weights or a mask of heads are asked for.
        """
        options = dict(zip(self.option_names, args, strict=False)) | kwargs
        if options.get("output_attentions") or options.get("head_mask") is not None:
            raise ModelError(
                "an adapted layer takes no head_mask and gives no attention weights",
                "call the model with output_attentions=False, or adapt a copy: "
                "edgeattn.adapt(model) leaves the original as it is",
            )
        covered: dict[str, object] = {}
        if options.get("always_partition") and isinstance(self.block.attn, ShiftedWindowAttention):
            covered["when_covered"] = "split"
        maps = hidden_states.unflatten(1, tuple(input_dimensions))
        out: Tensor = self.block(maps, **covered)
        return out.flatten(1, 2), None


def adapt_swin_layer(layer: Any) -> nn.Module:
    """Replace a `SwinLayer` or `DonutSwinLayer`, which drops both shifts on a small map."""
    return _adapt(layer, PreNormBlock, "unshift", -100.0)


def adapt_maskformer_layer(layer: Any) -> nn.Module:
    """Replace a `MaskFormerSwinLayer`, which keeps its shift on every map."""
    return _adapt(layer, PreNormBlock, "split", -100.0)


def adapt_swinv2_layer(layer: Any) -> nn.Module:
    """Replace a `Swinv2Layer` or `Swin2SRLayer`, which add their mask twice."""
    return _adapt(layer, PostNormBlock, "split", -200.0)


def _adapt(
    layer: Any,
    block_class: type[PreNormBlock],
    when_covered: WhenCovered,
    mask_value: float,
) -> nn.Module:
    theirs = layer.attention
    inner = getattr(theirs, "self", theirs)  # transformers 5 has no inner module in Swin
    window, shift = int(layer.window_size), int(layer.shift_size)
    group = HeadGroup(inner.num_attention_heads, (window, window), (shift, shift))
    attention = window_attention(
        attention_state(theirs.state_dict(), "huggingface"),
        group,
        when_covered=when_covered,
        offsets=getattr(inner, "relative_coords_table", None),
        trainable=is_trainable(theirs),
        mask_value=mask_value,
    )
    post_norm = block_class is PostNormBlock
    mlp = layer.mlp if hasattr(layer, "mlp") else nn.Sequential(layer.intermediate, layer.output)
    block = block_class(
        norm1=layer.layernorm_before,
        attn=attention,
        norm2=layer.layernorm_after,
        mlp=mlp,
        drop_path1=layer.drop_path,
        drop_path2=layer.drop_path if post_norm else nn.Identity(),
    )
    names = tuple(inspect.signature(type(layer).forward).parameters)
    return HuggingFaceLayer(block, names[3:])  # after self, the tokens and the size
