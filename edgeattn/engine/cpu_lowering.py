"""Lower a graph for ONNX Runtime on the CPU: attention in standard operators, nothing else.

Two of ONNX Runtime's fused operators are left alone: `BiasGelu` for a linear layer's bias and
`SkipLayerNormalization` for residual adds. Timed once on a Swin-T (one thread, AVX-512; no
benchmark repeats it), the first gained nothing and the second was slower than the two operators
that it replaces.
"""

from __future__ import annotations

import onnx

from edgeattn.graph.passes.decompose import decompose


def lower_for_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite a graph into what the CPU engine runs.

    Args:
        model: A typed graph; not changed.

    Returns:
        A graph without attention nodes; every other tensor keeps its name.
    """
    return decompose(model)
