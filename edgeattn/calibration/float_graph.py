"""Read the graph that is calibrated and quantized: every step sees the same one."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgeattn.graph.files import load_graph
from edgeattn.graph.passes.raise_opset import raise_opset
from edgeattn.graph.placement import MIN_OPSET


def load_float_graph(path: Path | str, opset: int = MIN_OPSET) -> onnx.ModelProto:
    """Read an ONNX file in an opset that can hold what is to be written into it.

    Names of tensors and nodes are the file's, so that a table fits whatever the opset.

    Args:
        path: The file, of any opset.
        opset: What the graph has at least.

    Raises:
        ArtifactError: If the file or its external data is missing.
        GraphError: If it is not a whole ONNX graph, or its opset cannot be raised.
    """
    return raise_opset(load_graph(path), opset)
