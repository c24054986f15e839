"""Which class is adapted by which function.

A module is looked up by its very class: a class derived from a known one may compute something
else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from edgeattn.errors import ModelError

Adapter = Callable[[Any], nn.Module]

_HERE = __name__.rpartition(".")[0]
# By name, so that no library is imported for the others' sake.
_KNOWN = {
    "torchvision.models.swin_transformer": {
        "ShiftedWindowAttention": ("torchvision_swin", "adapt_attention"),
        "ShiftedWindowAttentionV2": ("torchvision_swin", "adapt_attention"),
    },
    "torchvision.models.maxvit": {
        "PartitionAttentionLayer": ("torchvision_maxvit", "adapt_partition_layer"),
    },
    "timm.models.swin_transformer": {"SwinTransformerBlock": ("timm_swin", "adapt_swin_block")},
    "timm.models.swin_transformer_v2": {
        "SwinTransformerV2Block": ("timm_swin", "adapt_swinv2_block"),
    },
    "timm.models.maxxvit": {
        "PartitionAttentionCl": ("timm_maxvit", "adapt_channels_last"),
        "PartitionAttention2d": ("timm_maxvit", "adapt_channels_first"),
    },
    "transformers.models.swin.modeling_swin": {
        "SwinLayer": ("hugging_face_swin", "adapt_swin_layer"),
    },
    "transformers.models.donut.modeling_donut_swin": {
        "DonutSwinLayer": ("hugging_face_swin", "adapt_swin_layer"),
    },
    "transformers.models.maskformer.modeling_maskformer_swin": {
        "MaskFormerSwinLayer": ("hugging_face_swin", "adapt_maskformer_layer"),
    },
    "transformers.models.swinv2.modeling_swinv2": {
        "Swinv2Layer": ("hugging_face_swin", "adapt_swinv2_layer"),
    },
    "transformers.models.swin2sr.modeling_swin2sr": {
        "Swin2SRLayer": ("hugging_face_swin", "adapt_swinv2_layer"),
    },
}
_registered: dict[type[nn.Module], Adapter] = {}


def register_adapter(cls: type[nn.Module], function: Adapter) -> None:
    """Have `edgeattn.adapt` replace every module of a class.

    Args:
        cls: The class of the modules to replace, your own or a library's; classes derived from it
            need a call of their own. A later call for the same class wins.
        function: Gets a module of the class and returns what stands in its place, called as the
            module is; it may hold parts of the module. A module that cannot be replaced is left
            alone if the function raises an `EdgeAttnError`, whose sentence becomes the reason.

    Raises:
        ModelError: If the class is no module class, or the function cannot be called.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ModelError(f"{cls!r} is no class of modules; expected a subclass of torch.nn.Module")
    if not callable(function):
        raise ModelError(f"the adapter of {cls.__name__} is {function!r}; expected a function")
    _registered[cls] = function


def adapter_of(module: nn.Module) -> Adapter | None:
    """Find the function for a module's class; `None` if there is none."""
    cls = type(module)
    if cls in _registered:
        return _registered[cls]
    known = _KNOWN.get(cls.__module__, {}).get(cls.__qualname__)
    if known is None:
        return None
    file, function = known
    adapter: Adapter = getattr(importlib.import_module(f"{_HERE}.{file}"), function)
    return adapter


def class_name(cls: type) -> str:
    """Spell a class with its module."""
    return f"{cls.__module__}.{cls.__qualname__}"
