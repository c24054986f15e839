"""What became of each attention of a graph, and of the graph."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from edgeattn.spec import AttentionSpec


@dataclass(frozen=True)
class FoundAttention:
    """One softmax between two products of activations.

    Attributes:
        name: Label of the Softmax node, or of the Attention node of the ONNX standard.
        fused: Whether one attention node took its place.
        reason: Why it was left alone, a clause; empty if it was fused.
        spec: What it computes, where that was recognised.
        tokens: The tensor whose tokens attend; empty if it was not recognised.
        output: The tensor that the attention makes; likewise.
        map_size: Rows and columns of tokens at the size that was looked at; a sequence has one row.
        error: Largest relative error of the rewrite on random inputs; `None` if it was not tried.
    """

    name: str
    fused: bool
    reason: str = ""
    spec: AttentionSpec | None = None
    tokens: str = ""
    output: str = ""
    map_size: tuple[int, int] | None = None
    error: float | None = None


@dataclass(frozen=True)
class Fusion:
    """What became of a graph.

    Attributes:
        model: The graph to go on with; the one given where nothing was fused.
        attentions: Each attention that the graph writes out, in its order; after them those that
            are one node of the ONNX standard already.
        nodes_before: Nodes of the graph given.
        nodes_after: Nodes of `model`.
    """

    model: onnx.ModelProto
    attentions: tuple[FoundAttention, ...]
    nodes_before: int
    nodes_after: int

    @property
    def fused(self) -> tuple[FoundAttention, ...]:
        """Those in whose place an attention node stands now."""
        return tuple(found for found in self.attentions if found.fused)


class UnrecognisedError(Exception):
    """Why an attention is none that a node can stand for; the message is a clause."""
