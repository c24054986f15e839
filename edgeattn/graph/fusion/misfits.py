"""Sizes at which a node cannot run, though ONNX's shape inference finds nothing wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx

from edgeattn.graph.nodes import attribute, is_standard

Shape = tuple[int, ...]


def is_misfit(node: onnx.NodeProto, shape: Callable[[str], Shape | None]) -> bool:
    """Tell whether a node surely fails with inputs of these sizes.

    Args:
        node: The node.
        shape: Gives the shape of a tensor; `None` if it is not known.
    """
    given = [shape(name) if name else None for name in node.input]
    if is_standard(node, "Reshape"):
        made = shape(node.output[0])
        return given[0] is not None and made is not None and math.prod(given[0]) != math.prod(made)
    if is_standard(node, "Conv", "ConvTranspose"):
        image, weight = given[0], given[1]
        if image is None or weight is None or min(len(image), len(weight)) < 3:
            return False
        if is_standard(node, "ConvTranspose"):
            return image[1] != weight[0]
        return image[1] != weight[1] * attribute(node, "group", 1) or _is_too_small(
            node, image[2:], weight[2:]
        )
    return False


def _is_too_small(node: onnx.NodeProto, sides: Shape, kernel: Shape) -> bool:
    """Tell whether an image has less than one place for the kernel."""
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return False
    pads = attribute(node, "pads", [0] * (2 * len(sides)))
    dilations = attribute(node, "dilations", [1] * len(sides))
    return any(
        side + before + behind < dilation * (size - 1) + 1
        for side, before, behind, dilation, size in zip(
            sides, pads[: len(sides)], pads[len(sides) :], dilations, kernel, strict=True
        )
    )
