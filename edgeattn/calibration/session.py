"""Open a graph in ONNX Runtime as calibration needs it: what the graph says, and nothing fused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx

from edgeattn.artifacts import Manifest
from edgeattn.errors import ArtifactError, GraphError, first_line
from edgeattn.graph.files import MAX_INLINE_BYTES, save_graph, weights_bytes
from edgeattn.graph.ort_session import open_on_cpu, unknown_operator


def open_session(model: onnx.ModelProto, *, threads: int = 0) -> Any:
    """Open a graph of standard operators on the CPU.

    Q/DQ pairs are computed in float, as they stand: ONNX Runtime's integer kernels may saturate.

    Args:
        model: The graph.
        threads: That one run may use, the caller's included; by default one per core.

    Raises:
        ArtifactError: If a library of custom operators that the user names cannot be loaded.
        GraphError: If ONNX Runtime does not load it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # failures arrive as exceptions
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Between runs the processor belongs to the observers and the decoding of images.
    options.add_session_config_entry("session.force_spinning_stop", "1")

    try:
        if weights_bytes(model) <= MAX_INLINE_BYTES:
            return open_on_cpu(model.SerializeToString(), options)
        with tempfile.TemporaryDirectory(prefix="edgeattn-") as folder:
            file = save_graph(model, Path(folder, "opened.onnx"), Manifest("graph"))
            return open_on_cpu(file, options)
    except ArtifactError:
        raise
    except Exception as err:  # onnxruntime's errors share no class
        raise refused("load", err) from err


def refused(what: str, err: Exception, on: str = "") -> GraphError:
    """Make the error of a graph that ONNX Runtime cannot `load` or `run`, perhaps `on` a sample."""
    unknown = unknown_operator(err)
    if unknown is not None:
        return GraphError(*unknown)
    where = f" on {on}" if on else ""
    return GraphError(
        f"ONNX Runtime cannot {what} the graph{where}: {first_line(err)}",
        "the data may not fit the graph, or a node of the graph its inputs",
    )
