"""Models of other libraries as ONNX graphs, and what their configurations say of each attention.

The expectations are worked out from the configurations alone, by the libraries' rules for windows
that meet a small map, and never from a graph.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgeattn.spec import AttentionSpec

Exporter = Literal["dynamo", "script"]
Size = tuple[int, int]

EXPORTERS: tuple[Exporter, ...] = ("dynamo", "script")
OPSET = 18
# Batch and size may change; what else a graph needs in order to hold, it says itself.
DYNAMIC = {0: "batch", 2: "height", 3: "width"}


@dataclass(frozen=True)
class Expected:
    """One attention of a model, as its configuration describes it.

    Attributes:
        map_size: Rows and columns of tokens.
        window: Rows and columns of a window; of its members where `mode` is `grid`.
        shift: Likewise of the shift, 0 on an axis that one window covers.
        heads: Number of heads.
        mode: `block` or `grid`.
        order: Whether the library pads before it rolls.
        qk_mode: `dot` or `cosine`.
        mask_value: What is added where only the shift brought two tokens together.
    """

    map_size: Size
    window: Size
    shift: Size
    heads: int
    mode: str = "block"
    order: str = "pad_then_roll"
    qk_mode: str = "dot"
    mask_value: float = -100.0

    @property
    def is_padded(self) -> bool:
        """Whether the windows do not divide the map."""
        return any(n % w for n, w in zip(self.map_size, self.window, strict=True))


@dataclass(frozen=True)
class ForeignModel:
    """A model of another library.

    Attributes:
        build: Makes the model for images of a size.
        attentions: Tells what attends at that size, in the order of the layers.
        even: A size that all windows divide.
        odd: One that they do not divide; `None` where the library refuses it.
    """

    build: Callable[[Size], nn.Module]
    attentions: Callable[[Size], list[Expected]]
    even: Size
    odd: Size | None


class FirstTensor(nn.Module):
    """Gives the first tensor of whatever a model gives: exporters know nothing of its classes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the model's first output."""
        result = self.model(images)
        while not isinstance(result, Tensor):
            result = result[0]
        return result


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter anew: fresh models have biases and tables of zero, which hide errors."""
    generator = torch.Generator().manual_seed(seed)
    norms = [each for each in model.modules() if "Norm" in type(each).__name__]
    scales = {id(norm.weight) for norm in norms if getattr(norm, "weight", None) is not None}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("logit_scale"):
                parameter.copy_(2.0 + 0.5 * noise)
            elif "bias_table" in name:
                parameter.copy_(noise)
            elif parameter.ndim < 2:
                parameter.copy_(0.3 * noise + (1.0 if id(parameter) in scales else 0.0))
            else:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
    return model.eval()


def settled(model: nn.Module, images: Tensor) -> nn.Module:
    """Give batch norms the statistics of some images.

    Without, what an image says of random weights fades from layer to layer, until next to nothing
    of the output depends on it.
    """
    norms = [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(images)
    return model.eval()


def images_of(size: Size, batch: int = 2, seed: int = 0) -> Tensor:
    """Draw images `[B, 3, H, W]`."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def export(
    model: nn.Module,
    example: Tensor,
    exporter: Exporter,
    dynamic_axes: dict[int, str] | None = None,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Write a module of one input as ONNX by one of PyTorch's exporters, and do no more."""
    keywords: dict[str, Any] = {"opset_version": opset, "input_names": ["x"], "verbose": False}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracers, about the libraries' code
        if exporter == "dynamo":
            if dynamic_axes:
                dims = dict.fromkeys(dynamic_axes, torch.export.Dim.DYNAMIC)
                keywords["dynamic_shapes"] = (dims,)
            return torch.onnx.export(model, (example,), dynamo=True, **keywords).model_proto
        file = io.BytesIO()
        if dynamic_axes:
            keywords["dynamic_axes"] = {"x": dynamic_axes}
        torch.onnx.export(model, (example,), file, dynamo=False, **keywords)
        return onnx.load_from_string(file.getvalue())


def feed(model: onnx.ModelProto, array: Tensor) -> dict[str, np.ndarray]:
    """Name a tensor after the graph's only input."""
    (value,) = model.graph.input
    return {value.name: array.numpy()}


# --- what the configurations say -------------------------------------------------------------

# From the map, the window that the configuration names, and whether the block is one of those
# that shift, to the window and the shift that the library uses.
WindowRule = Callable[[Size, Size, bool], tuple[Size, Size]]


def stage_maps(size: Size, patch: int, stages: int) -> list[Size]:
    """Give the maps of a pyramid that halves from stage to stage, rounding up."""
    rows, cols = (-(-n // patch) for n in size)
    maps = []
    for _ in range(stages):
        maps.append((rows, cols))
        rows, cols = -(-rows // 2), -(-cols // 2)
    return maps


def pyramid(
    maps: Sequence[Size],
    depths: Sequence[int],
    heads: Sequence[int],
    windows: Sequence[Size],
    rule: WindowRule,
    **facts: Any,
) -> list[Expected]:
    """List the attentions of a Swin: every other block of a stage is shifted."""
    return [
        Expected(map_size, *rule(map_size, window, block % 2 == 1), num_heads, **facts)
        for map_size, depth, num_heads, window in zip(maps, depths, heads, windows, strict=True)
        for block in range(depth)
    ]


def always(_: Size, window: Size, shifted: bool) -> tuple[Size, Size]:
    """Use the window whatever the map is."""
    return window, (window[0] // 2, window[1] // 2) if shifted else (0, 0)


def shrink_both(map_size: Size, window: Size, shifted: bool) -> tuple[Size, Size]:
    """Let the shorter side of the map decide for both axes (Hugging Face's Swin)."""
    if min(map_size) <= window[0]:
        return (min(map_size),) * 2, (0, 0)
    return always(map_size, window, shifted)


def shrink_each(map_size: Size, window: Size, shifted: bool) -> tuple[Size, Size]:
    """Shrink the window on each axis by itself (timm)."""
    rows, cols = (min(n, w) for n, w in zip(map_size, window, strict=True))
    return (rows, cols), keep_window(map_size, window, shifted)[1]


def keep_window(map_size: Size, window: Size, shifted: bool) -> tuple[Size, Size]:
    """Pad the map up to the window, and do not shift a single one (torchvision)."""
    rows, cols = (w // 2 if shifted and n > w else 0 for n, w in zip(map_size, window, strict=True))
    return window, (rows, cols)


# --- comparing -------------------------------------------------------------------------------


def contradictions(
    spec: AttentionSpec | None, map_size: Size | None, expected: Expected
) -> list[str]:
    """Tell where what was found is not what the configuration says; empty if it is."""
    if spec is None or map_size != expected.map_size:
        return [f"found on a map {map_size}, not {expected.map_size}"]
    group = spec.head_groups[0]
    one_window = [n <= w for n, w in zip(map_size, expected.window, strict=True)]
    # An axis of one window is not shifted, whatever the number says.
    shift = tuple(0 if one else s for one, s in zip(one_window, group.shift_size, strict=True))
    found: dict[str, object] = {
        "groups": len(spec.head_groups),
        "window": tuple(w or n for w, n in zip(group.window_size, map_size, strict=True)),
        "shift": shift,
        "heads": group.num_heads,
        "qk_mode": spec.qk_mode,
    }
    wanted: dict[str, object] = {"groups": 1, "pad_mode": "bias_kv"}
    wanted |= {name: getattr(expected, name) for name in (*list(found)[1:], "mode", "order")}
    wanted["mask_value"] = expected.mask_value
    if not all(one_window):  # one window of the whole map is a grid as well
        found["mode"] = group.mode
    if any(shift):
        found["mask_value"] = spec.mask_value
    if expected.is_padded:  # padded in front of the projection, whose bias padding then has
        found["pad_mode"] = spec.pad_mode
    if expected.is_padded and any(shift):
        found["order"] = spec.shift_pad_order
    return [f"{name} {v}, not {wanted[name]}" for name, v in found.items() if v != wanted[name]]
