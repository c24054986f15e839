"""What TensorRT refuses in a graph, or does not compute as it says, as sentences with a node."""

from __future__ import annotations

from typing import Literal

Topic = Literal["opset", "operator", "type", "quantization", "attention"]


class Fault(str):
    """A sentence about a graph, `NODE: REASON`, with its parts.

    Args:
        reason: What is wrong.
        node: Label of the node; empty where it is the graph as a whole.
        topic: What the rule that it breaks is about.
        is_refused: Whether TensorRT builds no engine then; else it computes otherwise, in silence.

    Attributes:
        reason: What is wrong, without the node's name.
        node: As above.
        topic: As above.
        is_refused: As above.
    """

    reason: str
    node: str
    topic: Topic
    is_refused: bool

    def __new__(
        cls, reason: str, node: str = "", topic: Topic = "operator", *, is_refused: bool = True
    ) -> Fault:
        """Join node and reason."""
        fault = super().__new__(cls, f"{node}: {reason}" if node else reason)
        fault.reason, fault.node, fault.topic, fault.is_refused = reason, node, topic, is_refused
        return fault
