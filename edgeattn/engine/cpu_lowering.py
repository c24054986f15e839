"""Lower a graph for ONNX Runtime on the CPU: attention in standard operators, nothing else.

What looked worth fusing and was measured not to be, on a Swin-T (one thread, AVX-512): a linear
layer's bias in ONNX Runtime's `BiasGelu` (as slow as the bias it saves) and residual adds in its
`SkipLayerNormalization` (three times slower than Add and LayerNormalization apart).
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
