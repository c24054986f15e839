"""Make torchvision importable beside a torch that its compiled operators were not built for.

The CPU build of torch and PyPI's torchvision are such a pair. torchvision's models need none of
its operators, but its import registers shape functions for a few: declared, not implemented, they
let the import through. transformers and timm import torchvision and need the same.
"""

import contextlib
import importlib.util
from pathlib import Path

import torch

_library = torch.library.Library("torchvision", "FRAGMENT")
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare_torchvision_ops() -> None:
    """Load torchvision's operators if they fit this torch; declare them if they do not."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    for folder in spec.submodule_search_locations:
        for path in Path(folder).glob("_C*.so"):
            with contextlib.suppress(OSError):
                torch.ops.load_library(path)
    for schema in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            _library.define(schema)
