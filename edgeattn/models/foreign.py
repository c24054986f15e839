"""Weights of other libraries' models, renamed and reordered for ours.

Each function takes a state dict, from a model or a file, and gives a state dict of `MSWin` and
the keywords that build it, read off the shapes of the tensors::

    state, keywords = state_dict_from_torchvision_swin(torchvision_model.state_dict())
    model = MSWin(**keywords)
    model.load_state_dict(state)

The logits agree at every image size whose maps are larger than the windows, be they multiples of
the windows or not. Where a map is smaller than its window, torchvision pads the map, as we do;
Hugging Face and timm shrink the window for one image size when the model is built. Norms have the
`eps` of 1e-5 that every published Swin has.

References:
    transformers `models/swin`, `models/swinv2`; torchvision `models/swin_transformer.py`; timm
    `models/swin_transformer.py`, `models/swin_transformer_v2.py`, `models/maxxvit.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeattn.errors import ModelError

State = dict[str, Tensor]
Keywords = dict[str, Any]
_Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

_SWIN_KEYWORDS: Keywords = {"mask_value": -100.0}
_SWINV2_KEYWORDS: Keywords = {
    "mask_value": -100.0,
    "norm_placement": "res_post",
    "merge_norm_first": False,
    "qk_mode": "cosine",
    "position_bias": "continuous",
}


def state_dict_from_hf_swin(state: Mapping[str, Tensor]) -> tuple[State, Keywords]:
    """Convert Hugging Face `SwinForImageClassification`, by names of transformers 4 or 5.

    Where the shorter side of a map equals the window, Hugging Face drops the shift on both axes,
    ours on that axis alone: set the keyword `shifted` to follow it on maps that are not square.

    Args:
        state: The model's state dict.

    Returns:
        State dict and keywords of `MSWin`.

    Raises:
        ModelError: If a tensor is unknown or missing, or a window is not square.
    """
    return _convert(_rename(state, _HF_RENAMES), **_SWIN_KEYWORDS)


def state_dict_from_hf_swinv2(
    state: Mapping[str, Tensor],
    windows: Sequence[int],
    pretrained_windows: Sequence[int] | None = None,
) -> tuple[State, Keywords]:
    """Convert Hugging Face `Swinv2ForImageClassification`.

    Args:
        state: The model's state dict.
        windows: The window of each stage: `config.window_size`, or the side of the stage's map at
            `config.image_size` where that is smaller.
        pretrained_windows: `config.pretrained_window_sizes`.

    Returns:
        State dict and keywords of `MSWin`.

    Raises:
        ModelError: If a tensor is unknown or missing.
    """
    settings = _SWINV2_KEYWORDS | {"pretrained_windows": pretrained_windows}
    settings["mask_value"] = -200.0  # the mask of -100 is added twice there
    return _convert(_rename(state, _HF_RENAMES), windows, **settings)


def state_dict_from_torchvision_swin(state: Mapping[str, Tensor]) -> tuple[State, Keywords]:
    """Convert torchvision's `SwinTransformer`, Swin or Swin V2.

    Args:
        state: The model's state dict.

    Returns:
        State dict and keywords of `MSWin`.

    Raises:
        ModelError: If a tensor is unknown or missing, or a window is not square.
    """
    parts = _rename(state, _TORCHVISION_RENAMES)
    # torchvision keeps the offsets of Swin V2, [1, 2*rows - 1, 2*cols - 1, 2], in the state dict.
    offsets = [t for name, t in state.items() if name.endswith("relative_coords_table")]
    if not offsets:
        return _convert(parts, pad_images=False, **_SWIN_KEYWORDS)
    _, rows, cols, _ = offsets[0].shape
    windows = [_window_of_entries(rows * cols)] * len(_depths(parts))
    return _convert(parts, windows, pad_images=False, **_SWINV2_KEYWORDS)


def state_dict_from_timm_swin(state: Mapping[str, Tensor]) -> tuple[State, Keywords]:
    """Convert timm's `SwinTransformer`.

    Args:
        state: The model's state dict.

    Returns:
        State dict and keywords of `MSWin`.

    Raises:
        ModelError: If a tensor is unknown or missing, a window is not square, or heads have other
            than `dim / num_heads` channels.
    """
    settings = _SWIN_KEYWORDS | {"shift_pad_order": "roll_then_pad"}
    return _convert(_rename(state, _TIMM_RENAMES), **settings)


def state_dict_from_timm_swinv2(
    state: Mapping[str, Tensor],
    windows: Sequence[int],
    pretrained_windows: Sequence[int] | None = None,
) -> tuple[State, Keywords]:
    """Convert timm's `SwinTransformerV2`.

    Args:
        state: The model's state dict.
        windows: The window of each stage: `window_size` of its blocks.
        pretrained_windows: The `pretrained_window_sizes` that the model was made with.

    Returns:
        State dict and keywords of `MSWin`.

    Raises:
        ModelError: If a tensor is unknown or missing.
    """
    settings = _SWINV2_KEYWORDS | {"pretrained_windows": pretrained_windows}
    settings["shift_pad_order"] = "roll_then_pad"
    return _convert(_rename(state, _TIMM_RENAMES), windows, **settings)


def attention_state(state: Mapping[str, Tensor], library: str) -> State:
    """Convert the state dict of one attention of a Swin or Swin V2.

    Args:
        state: Of torchvision's `attn`, timm's `attn` or Hugging Face's `attention` of a block.
        library: `torchvision`, `timm` or `huggingface`.

    Returns:
        State dict of a `MultiScaleWindowAttention`; the tensors share memory with the given where
        nothing had to be packed or reordered.

    Raises:
        ModelError: If a tensor is unknown or missing.
    """
    prefix, renames = _ATTENTIONS[library]
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"its state dict has {name}, which is no tensor", _PLAIN_LAYERS)
    try:
        parts = _rename({prefix + name: tensor for name, tensor in state.items()}, renames)
        ours = _mswin_state(parts)
    except ModelError as err:
        raise ModelError(err.message.replace(prefix, ""), _PLAIN_LAYERS) from err
    except KeyError as err:
        raise ModelError(f"its state dict has nothing for {err}", _PLAIN_LAYERS) from err
    return {name.rpartition("attention.")[2]: tensor for name, tensor in ours.items()}


def state_dict_from_timm_maxvit(state: Mapping[str, Tensor]) -> State:
    """Convert one `PartitionAttentionCl` of timm's MaxViT, block or grid.

    It fits a `TransformerBlock` around a `MultiScaleWindowAttention` with one head group in mode
    `block` or `grid`, of `qkv_layout` `H3D` (`3HD` if the model was made with
    `head_first=False`), and with the norms' `eps` and the GELU's approximation of the original.
    Layer scales are multiplied into the projections before them.

    Args:
        state: The module's state dict.

    Returns:
        State dict of the `TransformerBlock`.

    Raises:
        ModelError: If a tensor is unknown.
    """
    parts = _rename(state, _MAXVIT_RENAMES, known=_MAXVIT_PART)
    table_name = "attention.relative_position_bias_table"
    if table_name in parts:
        table = parts[table_name]
        # Weights from TensorFlow have [heads, rows, cols] and count from query to key.
        parts[table_name] = table.flip(1, 2).flatten() if table.ndim == 3 else table.T.flatten()
    for gamma, layer in (("ls1.gamma", "attention.proj"), ("ls2.gamma", "mlp.fc2")):
        if gamma in parts:
            factor = parts.pop(gamma)
            parts[f"{layer}.weight"] = parts[f"{layer}.weight"] * factor[:, None]
            if f"{layer}.bias" in parts:
                parts[f"{layer}.bias"] = parts[f"{layer}.bias"] * factor
    return parts


def _next_stage_merge(match: re.Match[str]) -> str:
    return f"stages.{int(match[1]) + 1}.merge."


# Old and new names of the parts, tried in turn on every tensor. Hugging Face keeps the merging at
# the end of a stage, torchvision between the stages, timm and ours at the beginning.
_HF_RENAMES: _Renames = (
    (r"^swin(v2)?\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "embed.proj."),
    (r"^embeddings\.norm\.", "embed.norm."),
    (r"^encoder\.layers\.(\d+)\.downsample\.", _next_stage_merge),
    (r"^encoder\.layers\.", "stages."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attention.proj."),
    (r"\.attention\.self\.", ".attention."),
    (r"\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
    (r"\.relative_position_bias\.relative", ".relative"),
    (r"\.continuous_position_bias_mlp\.", ".position_bias.mlps.0."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
_TORCHVISION_RENAMES: _Renames = (
    (r"^features\.0\.0\.", "embed.proj."),
    (r"^features\.0\.2\.", "embed.norm."),
    (r"^features\.(\d+)\.(?=\d)", lambda m: f"stages.{int(m[1]) // 2}.blocks."),
    (r"^features\.(\d+)\.", lambda m: f"stages.{int(m[1]) // 2}.merge."),
    (r"\.attn\.", ".attention."),
    (r"\.cpb_mlp\.", ".position_bias.mlps.0."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
_TIMM_RENAMES: _Renames = (
    (r"^patch_embed\.", "embed."),
    (r"^layers\.(\d+)\.downsample\.", r"stages.\1.merge."),
    (r"^layers\.", "stages."),
    (r"\.attn\.", ".attention."),
    (r"\.cpb_mlp\.", ".position_bias.mlps.0."),
    (r"^head\.fc\.", "head."),
)
_PLAIN_LAYERS = "give the module as the library builds it: merge what was added to its layers"
# Where the first attention stands in a model of each library.
_ATTENTIONS = {
    "torchvision": ("features.1.0.attn.", _TORCHVISION_RENAMES),
    "timm": ("layers.0.blocks.0.attn.", _TIMM_RENAMES),
    "huggingface": ("encoder.layers.0.blocks.0.attention.", _HF_RENAMES),
}
_MAXVIT_RENAMES: _Renames = ((r"^attn\.(rel_pos\.)?", "attention."),)

_WEIGHT_OR_BIAS = r"\.(weight|bias)"
_BLOCK_PART = (
    rf"(norm[12]|mlp\.fc[12]|attention\.(qkv|[qkv]_proj|proj)){_WEIGHT_OR_BIAS}"
    r"|attention\.(relative_position_bias_table|logit_scale|[qv]_bias)"
)
_MSWIN_PART = re.compile(
    rf"(embed\.proj|embed\.norm|stages\.\d+\.merge\.(norm|reduction)|norm|head){_WEIGHT_OR_BIAS}"
    rf"|stages\.\d+\.blocks\.\d+\.({_BLOCK_PART}"
    rf"|attention\.position_bias\.mlps\.0\.[02]{_WEIGHT_OR_BIAS})"
)
_MAXVIT_PART = re.compile(rf"{_BLOCK_PART}|ls[12]\.gamma")
# Recomputed from the window, or of use in training alone.
_DERIVED = re.compile(
    r"(.*\.)?(relative_position_index|relative_coords_table|attn_mask|mask_token)"
)


def _rename(
    state: Mapping[str, Tensor], renames: _Renames, known: re.Pattern[str] = _MSWIN_PART
) -> State:
    """Rename every tensor, leaving out those that follow from the settings."""
    renamed: State = {}
    unknown = []
    for old_name, tensor in state.items():
        if _DERIVED.fullmatch(old_name):
            continue
        name = old_name
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        if not known.fullmatch(name):
            unknown.append(old_name)
        renamed[name] = tensor.detach()
    if unknown:
        raise ModelError(
            f"the state dict has tensors that our model has no place for: {', '.join(unknown[:5])}",
            "give the state dict of a classifier as the library builds it",
        )
    return renamed


def _convert(
    parts: State, windows: Sequence[int] | None = None, **settings: Any
) -> tuple[State, Keywords]:
    try:
        return _mswin_state(parts), _keywords(parts, windows) | settings
    except KeyError as err:
        raise ModelError(
            f"the state dict is not that of a whole classifier: nothing stands for {err}",
            "use the function for the library and version that the weights come from",
        ) from err


def _mswin_state(parts: State) -> State:
    """Pack query, key and value, and flatten tables head by head."""
    state: State = {}
    for name, tensor in parts.items():
        attention, dot, part = name.rpartition("attention.")
        prefix = attention + dot
        if not dot:
            state[name] = tensor
        elif part == "relative_position_bias_table":
            state[name] = tensor.T.flatten()  # [entries, heads]
        elif part == "logit_scale":
            state[name] = tensor.flatten()  # [heads, 1, 1]
        elif part == "q_proj.weight":
            weights = [parts[f"{prefix}{p}_proj.weight"] for p in "qkv"]
            state[f"{prefix}qkv.weight"] = torch.cat(weights)
        elif part in ("q_proj.bias", "q_bias"):
            key_bias = parts.get(f"{prefix}k_proj.bias", torch.zeros_like(tensor))
            value_bias = parts[prefix + part.replace("q", "v", 1)]
            state[f"{prefix}qkv.bias"] = torch.cat([tensor, key_bias, value_bias])
        elif part == "qkv.bias" and f"{prefix}logit_scale" in parts:
            query_bias, key_bias, value_bias = tensor.chunk(3)  # Swin V2 has no key bias
            key_bias = torch.zeros_like(key_bias)
            state[name] = torch.cat([query_bias, key_bias, value_bias])
        elif not re.match("[kv]_", part):
            state[name] = tensor
    return state


def _keywords(parts: State, windows: Sequence[int] | None) -> Keywords:
    """Read the sizes of the model off its tensors' shapes."""
    depths = _depths(parts)
    first_blocks = [f"stages.{stage}.blocks.0." for stage in range(len(depths))]
    dims = [len(parts[f"{block}norm1.weight"]) for block in first_blocks]
    attentions = [f"{block}attention." for block in first_blocks]
    for attention, dim in zip(attentions, dims, strict=True):
        if (width := parts[f"{attention}proj.weight"].shape[1]) != dim:
            raise ModelError(
                f"the heads of {attention[:-1]} have {width} channels together; expected {dim}",
                "models made with a head_dim of their own are not converted",
            )
    if windows is None:
        tables = [parts[f"{attention}relative_position_bias_table"] for attention in attentions]
        windows = [_window_of_entries(len(table)) for table in tables]
        num_heads = [table.shape[1] for table in tables]
    else:
        num_heads = [len(parts[f"{attention}logit_scale"]) for attention in attentions]
    _, in_channels, patch_size, _ = parts["embed.proj.weight"].shape
    return {
        "in_channels": in_channels,
        "num_classes": len(parts["head.weight"]),
        "patch_size": patch_size,
        "dims": dims,
        "depths": depths,
        "num_heads": num_heads,
        "windows": [(window,) for window in windows],
        "mlp_ratio": len(parts["stages.0.blocks.0.mlp.fc1.weight"]) / dims[0],
        "qkv_bias": any(re.search(r"attention\.(qkv|q_proj)\.bias|q_bias", name) for name in parts),
    }


def _depths(parts: State) -> list[int]:
    depths: list[int] = []
    while f"stages.{len(depths)}.blocks.0.norm1.weight" in parts:
        prefix = f"stages.{len(depths)}.blocks."
        depths.append(len({name.split(".")[3] for name in parts if name.startswith(prefix)}))
    return depths


def _window_of_entries(entries: int) -> int:
    """Find the side of a square window with `(2*side - 1)**2` entries in its bias table."""
    side = math.isqrt(entries)
    if side * side != entries or side % 2 == 0:
        raise ModelError(
            f"a bias table of {entries} entries belongs to no square window",
            "only square windows are converted",
        )
    return (side + 1) // 2
