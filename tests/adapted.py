"""How far an adapted model is from the original, and what its ONNX graph holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

import edgeattn
from edgeattn.graph.op import attention_nodes


def logits_of(output: Any) -> Tensor:
    """Give the tensor of a classifier's output, whatever the library wraps it in."""
    logits: Tensor = getattr(output, "logits", output)
    return logits


def difference(
    theirs: nn.Module,
    ours: nn.Module,
    size: tuple[int, int],
    tensor_of: Callable[[Any], Tensor] = logits_of,
) -> float:
    """Give the largest difference on two random images, as a share of the largest value."""
    generator = torch.Generator().manual_seed(sum(size))
    dtype = next(theirs.parameters()).dtype
    images = torch.randn(2, 3, *size, generator=generator, dtype=dtype)
    with torch.no_grad():
        expected = tensor_of(theirs(images))
        return float((tensor_of(ours(images)) - expected).abs().max() / expected.abs().max())


def exported_attention_nodes(model: nn.Module, size: tuple[int, int], folder: Path) -> int:
    """Export for one image, which compares the graph with the model, and count the operator."""
    spec = edgeattn.InputSpec((1, 3, *size), "images")
    path = edgeattn.export(model, spec, folder / "adapted.onnx")
    return len(attention_nodes(onnx.load(path)))
