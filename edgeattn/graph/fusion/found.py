"""What became of each attention of a graph, and of the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import onnx

from edgeattn.spec import AttentionSpec

GraphType = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class GlobalDecision:
    """Whether to fuse an attention of all tokens to all: one window of the whole map, no bias.

    Attributes:
        takes: Whether to.
        reason: Why, or why not: a clause.
    """

    takes: bool
    reason: str


# Of what it computes; of batch, rows and columns of its tokens, `None` where the graph leaves them
# open, a batch alone that is open counting as one sample; and of the type that the graph has it in.
GlobalChoice = Callable[[AttentionSpec, "tuple[int, int, int] | None", GraphType], GlobalDecision]


@dataclass(frozen=True)
class FoundAttention:
    """One softmax between two products of activations.

    Attributes:
        name: Label of the Softmax node, or of the Attention node of the ONNX standard.
        fused: Whether one attention node took its place.
        reason: Why it was left alone, a clause; for attention of all tokens to all also why it was
            fused, where that was for a choice to make. Empty otherwise.
        spec: What it computes, where that was recognised.
        tokens: The tensor whose tokens attend; empty if it was left.
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
