"""Simplify a graph with onnxsim, and keep the result only if it is provably no worse.

Simplifiers are fragile exactly where this toolkit uses them: custom operators and dynamic shapes.
So the result must hold the same attention nodes, the same inputs and outputs, and give the same
numbers; otherwise the unsimplified graph is kept and the reason told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgeattn.errors import first_line
from edgeattn.graph.files import MAX_INLINE_BYTES, value_dtype, value_shape, weights_bytes
from edgeattn.graph.op import attention_nodes, spec_of_node
from edgeattn.graph.verify import relative_error, run_graph
from edgeattn.inputs import Dim

Tensor = tuple[str, str, tuple[Dim, ...]]

# Simplifying reorders sums at most; anything larger is a change of meaning.
MAX_RELATIVE_ERROR = 1e-4

# A linear layer on a map becomes a Gemm between two Reshapes with it: more nodes, not fewer.
SKIPPED_OPTIMIZERS = [
    "fuse_matmul_add_bias_into_gemm",
    "fuse_matmul_add_bias_into_gemm_batched",
]


@dataclass(frozen=True)
class Simplification:
    """What became of a graph.

    Attributes:
        model: The graph to go on with.
        applied: Whether it is the simplified one.
        reason: Why not; empty if it is.
        nodes_before: Nodes of the graph given.
        nodes_after: Nodes of the graph returned.
    """

    model: onnx.ModelProto
    applied: bool
    reason: str
    nodes_before: int
    nodes_after: int


def simplify(
    model: onnx.ModelProto,
    inputs: Mapping[str, np.ndarray],
    reference: Sequence[np.ndarray],
) -> Simplification:
    """Simplify a graph and verify the result.

    Args:
        model: Not changed.
        inputs: Arrays by input name to verify with.
        reference: The outputs they must give.
    """
    candidate, reason = _simplified(model)
    if candidate is not None:
        reason = _first_difference(model, candidate) or _numeric_difference(
            candidate, inputs, reference
        )
    before = len(model.graph.node)
    if candidate is None or reason:
        return Simplification(model, False, reason, before, before)
    return Simplification(candidate, True, "", before, len(candidate.graph.node))


def _simplified(model: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str]:
    try:
        import onnxsim
    except ImportError as err:
        return None, f"onnxsim cannot be imported: {err}"
    if weights_bytes(model) > MAX_INLINE_BYTES:
        return None, "the graph's weights pass 2 GB, which onnxsim cannot take"
    try:
        candidate, _ = onnxsim.simplify(model, check_n=0, skipped_optimizers=SKIPPED_OPTIMIZERS)
    except Exception as err:  # onnxsim raises whatever its passes and ONNX Runtime raise
        return None, f"onnxsim failed: {first_line(err)}"
    return candidate, ""


def _first_difference(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """Name the first thing that simplifying must keep and did not; empty if all is kept."""
    free = {dim for value in before.graph.input for dim in value_shape(value)}
    for what in ("input", "output"):
        given, made = (
            [(str(v.name), value_dtype(v), value_shape(v)) for v in getattr(model.graph, what)]
            for model in (before, after)
        )
        if not _are_same(given, made, free):
            return f"onnxsim changed the {what}s from {given} to {made}"
    specs = [
        Counter(spec_of_node(node) for node in attention_nodes(model)) for model in (before, after)
    ]
    if specs[0] != specs[1]:
        return (
            f"onnxsim changed the attention nodes: {specs[0].total()} before, "
            f"{specs[1].total()} after"
        )
    return ""


def _are_same(before: Sequence[Tensor], after: Sequence[Tensor], free: Container[Dim]) -> bool:
    """Compare tensors; exporters name axes of outputs whose size only the simplifier works out."""
    if [tensor[:2] for tensor in before] != [tensor[:2] for tensor in after]:
        return False
    return all(
        len(shape) == len(other)
        and all(
            a == b or (isinstance(a, str) and isinstance(b, int) and a not in free)
            for a, b in zip(shape, other, strict=True)
        )
        for (*_, shape), (*_, other) in zip(before, after, strict=True)
    )


def _numeric_difference(
    candidate: onnx.ModelProto,
    inputs: Mapping[str, np.ndarray],
    reference: Sequence[np.ndarray],
) -> str:
    try:
        error = relative_error(reference, run_graph(candidate, inputs))
    except Exception as err:  # ONNX Runtime's own types, for a graph that it refuses
        return f"the simplified graph does not run: {first_line(err)}"
    if error > MAX_RELATIVE_ERROR:
        return f"the simplified graph gives other numbers: {error:.1e} relative"
    return ""
