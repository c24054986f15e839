"""Check that a graph computes what it should: numbers against numbers, never by assumption."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from edgeattn.graph.files import MAX_INLINE_BYTES, weights_bytes, write_graph
from edgeattn.graph.ort_session import open_on_cpu
from edgeattn.graph.passes.decompose import decompose


def run_graph(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a graph, attention nodes decomposed, as plainly as ONNX Runtime can.

    Args:
        model: Any graph; one beyond protobuf's limit goes through a temporary folder.
        inputs: Arrays by input name.

    Returns:
        The outputs in their order.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures arrive as exceptions
    standard = decompose(model)
    if weights_bytes(standard) <= MAX_INLINE_BYTES:
        session = open_on_cpu(standard.SerializeToString(), options)
    else:
        with tempfile.TemporaryDirectory(prefix="edgeattn-") as folder:
            file, data = Path(folder, "net.onnx"), Path(folder, "net.onnx.data")
            write_graph(standard, file, data, data.name)
            session = open_on_cpu(file, options)
    outputs: list[np.ndarray] = session.run(None, dict(inputs))
    return outputs


def relative_error(reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray]) -> float:
    """Find the largest difference of any output, relative to that output's largest magnitude.

    Returns:
        0 for equal outputs; infinity for outputs of other number, shape, or with NaN.
    """
    if [r.shape for r in reference] != [c.shape for c in candidate]:
        return float("inf")
    errors = [0.0]
    for expected, actual in zip(reference, candidate, strict=True):
        if np.array_equal(expected, actual):
            continue
        a, b = expected.astype(np.float64), actual.astype(np.float64)
        # Infinities that agree, as of masked logits, do not differ.
        difference = np.abs(np.subtract(a, b, where=a != b, out=np.zeros_like(a)))
        if not np.isfinite(difference).all():
            return float("inf")
        magnitude = np.abs(a[np.isfinite(a)]).max(initial=0.0)
        errors.append(float(difference.max(initial=0.0)) / max(float(magnitude), 1e-30))
    return max(errors)
