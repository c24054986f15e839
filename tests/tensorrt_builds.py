"""Small graphs and the builds of them, for tests where `import tensorrt` gives the bindings."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgeattn.engine.tensorrt.build import TensorRtBuild, build_plan
from edgeattn.engine.tensorrt.lowering import LoweredForTensorRt, lower_for_tensorrt
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.versions import installed_version
from tests.graphs import classifier

PROFILE = ShapeProfile(min={"x": (1, 5)}, opt={"x": (4, 5)}, max={"x": (8, 5)})
DYNAMIC = TensorRtOptions(profiles=(PROFILE,))


def lowered(model: onnx.ModelProto | None = None) -> LoweredForTensorRt:
    """Lower a model, or the classifier with a free batch, for the version at hand."""
    return lower_for_tensorrt(model or classifier("batch"), installed_version())


def build(
    folder: Path, options: TensorRtOptions = DYNAMIC, model: onnx.ModelProto | None = None
) -> TensorRtBuild:
    """Build `net.engine` of it."""
    return build_plan(lowered(model), options, folder / "net.engine")


def left_in(folder: Path) -> set[str]:
    """List what a build left behind, other than what it keeps in its cache."""
    return {path.name for path in folder.iterdir()} - {"cache"}
