"""Check that a graph computes what it should: numbers against numbers, never by assumption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from edgeattn.graph.passes.decompose import decompose


def run_graph(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a graph, attention nodes decomposed, as plainly as ONNX Runtime can.

    Args:
        model: Any graph of at most 2 GB.
        inputs: Arrays by input name.

    Returns:
        The outputs in their order.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        decompose(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
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
        if expected.size == 0:
            continue
        difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max()
        if not np.isfinite(difference):
            return float("inf")
        errors.append(float(difference) / max(float(np.abs(expected).max()), 1e-30))
    return max(errors)
