"""edgeattn: PyTorch models with multi-scale windowed attention, on Jetson, desktop GPUs and CPUs.

Five functions are the main path, each from a file to a file:

    graph = edgeattn.export(model, spec, "net.onnx")
    table = edgeattn.calibrate(graph, "images/", "net.calib.json")
    typed = edgeattn.quantize(graph, "net.int8.onnx", table=table, precision="int8")
    plan = edgeattn.build(typed, "net.engine")
    report = edgeattn.profile(plan)

and `edgeattn.load("net.engine")` runs an engine. Importing the package imports no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgeattn.errors import EdgeAttnError
from edgeattn.inputs import ImagePreprocess, InputSpec
from edgeattn.spec import AttentionSpec, HeadGroup

if TYPE_CHECKING:
    from edgeattn.bundle.install import build_from_bundle
    from edgeattn.bundle.load import load
    from edgeattn.bundle.write import write_bundle
    from edgeattn.calibration.collect import calibrate
    from edgeattn.calibration.quantize import quantize
    from edgeattn.calibration.sensitivity import sensitivity
    from edgeattn.calibration.shards import merge_calibrations
    from edgeattn.engine.build import build
    from edgeattn.graph.export import export
    from edgeattn.graph.fuse import fuse
    from edgeattn.models.adapters.adapt import adapt
    from edgeattn.profiling.compare import compare
    from edgeattn.profiling.profile import profile

__version__ = "0.1.0"

__all__ = [
    "AttentionSpec",
    "EdgeAttnError",
    "HeadGroup",
    "ImagePreprocess",
    "InputSpec",
    "adapt",
    "build",
    "build_from_bundle",
    "calibrate",
    "compare",
    "export",
    "fuse",
    "load",
    "merge_calibrations",
    "profile",
    "quantize",
    "sensitivity",
    "write_bundle",
]

# Where each function lives: imported on first use, so that none drags its framework in unasked.
_HOMES = {
    "adapt": "edgeattn.models.adapters.adapt",
    "export": "edgeattn.graph.export",
    "fuse": "edgeattn.graph.fuse",
    "calibrate": "edgeattn.calibration.collect",
    "merge_calibrations": "edgeattn.calibration.shards",
    "quantize": "edgeattn.calibration.quantize",
    "sensitivity": "edgeattn.calibration.sensitivity",
    "build": "edgeattn.engine.build",
    "write_bundle": "edgeattn.bundle.write",
    "build_from_bundle": "edgeattn.bundle.install",
    "load": "edgeattn.bundle.load",
    "profile": "edgeattn.profiling.profile",
    "compare": "edgeattn.profiling.compare",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgeattn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
