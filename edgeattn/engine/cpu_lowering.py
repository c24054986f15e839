"""Lower a graph for ONNX Runtime on the CPU: standard operators, which compute in float32.

Two of ONNX Runtime's fused operators are left alone: `BiasGelu` for a linear layer's bias and
`SkipLayerNormalization` for residual adds. Timed once on a Swin-T (one thread, AVX-512; no
benchmark repeats it), the first gained nothing and the second was slower than the two operators
that it replaces.
"""

from __future__ import annotations

import onnx

from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.emulate_half import emulate_half, half_types_of


def lower_for_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite a graph into what the CPU engine runs.

    Args:
        model: A typed graph; not changed.

    Returns:
        A graph without attention nodes that computes FP16 and BF16 in float32, rounding each
        result; every other tensor keeps its name.
    """
    return emulate_half(decompose(model))


def half_arithmetic(model: onnx.ModelProto) -> str | None:
    """Say how a graph's half types are computed; `None` if it has none."""
    names = sorted(onnx.TensorProto.DataType.Name(t).lower() for t in half_types_of(model))
    return f"float32, each result rounded to {' or '.join(names)}" if names else None
